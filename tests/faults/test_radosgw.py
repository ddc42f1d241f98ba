"""A real object store, Ceph's radosgw, where it is installed: sets written to it, streamed, verified."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fmshards import store
from fmshards.errors import CorruptError
from fmshards.store import clients
from fmshards.stream import loader
from tests.servers.fixtures import forget_clients
from tests.sets import build_set

pytestmark = [
    pytest.mark.radosgw,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("radosgw") is None, reason="radosgw is not installed (.ci/radosgw installs it)"),
]
SCRIPT = Path(__file__).parent.parent / "servers" / "rgw.sh"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("rgw")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = ["bash", str(SCRIPT), "start", str(folder / "ceph"), str(port)]
    with open(folder / "log", "wb") as log:  # the servers keep it open: a pipe would be waited for
        subprocess.run(started, stdout=log, stderr=log, timeout=120, check=True)
    yield f"http://127.0.0.1:{port}"
    subprocess.run(["bash", str(SCRIPT), "stop", str(folder / "ceph")], check=True)


@pytest.fixture
def bucket(gateway: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("s3fs")
    known = {"AWS_ENDPOINT_URL": gateway, "AWS_ACCESS_KEY_ID": "fmkey", "AWS_SECRET_ACCESS_KEY": "fmsecret12"}
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    import fsspec

    fsspec.filesystem("s3").makedirs("sets", exist_ok=True)
    yield "s3://sets"
    fsspec.filesystem("s3").rm("sets", recursive=True)
    forget_clients()


def test_reads_and_writes(bucket: str) -> None:
    pytest.importorskip("obstore")
    url, data = f"{bucket}/a/x.tar", bytes(range(256)) * 4000
    assert not store.exists(url)
    with store.atomic_file(url) as file:
        file.write(data)
    assert store.list_names(f"{bucket}/a") == ["x.tar"]
    assert clients.client_of(url, 10) is not None
    for backend in (store.Access().backend(url), store.backend(url)):
        assert backend.read(url, 1000, 5000) == data[1000:6000]
        assert backend.read(url) == data
        found = backend.info(url)
        assert found is not None
        assert found.size == len(data)
        with pytest.raises(CorruptError, match="found only"):
            backend.read(url, len(data) - 5, 6)


def test_exactly_one_writer_wins(bucket: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        for race in range(5):
            url = f"{bucket}/plan{race}"
            won = list(pool.map(lambda data, url=url: store.put_if_absent(url, data), [b"%d" % i for i in range(8)]))
            assert sorted(won) == [False] * 7 + [True]


def test_an_epoch_has_the_bytes_of_one_from_disk(bucket: str, tmp_path: Path) -> None:
    built = build_set(tmp_path / "set", samples=(75, 61), chunk=4, recipe="flip+crop(pad=4)", layers={"layer2": "4"})
    for path in built.path.rglob("*"):
        if path.is_file():
            store.put(f"{bucket}/set/{path.relative_to(built.path)}", path.read_bytes())
    epochs = []
    for url in (built.url, f"{bucket}/set"):
        load = loader(url, 8, num_workers=2, rank=0, ranks=1, groups=2, lanes=4, window=2, cache=tmp_path / "cache")
        epochs.append(list(load))
        load._iterator = None
    for mine, theirs in zip(*epochs, strict=True):
        assert mine["__key__"] == theirs["__key__"]
        assert torch.equal(mine["layer2"], theirs["layer2"])
