"""Real object stores, where they are installed: sets written to them, streamed, verified.

Ceph's radosgw speaks S3; Azurite, Microsoft's own, is reached through adlfs by a connection string, and through obstore
by an account's name.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fmshards import store
from fmshards.errors import CorruptError, StoreError
from fmshards.store import clients
from fmshards.stream import loader
from tests.servers.fixtures import forget_clients
from tests.sets import build_set

pytestmark = [pytest.mark.real_store, pytest.mark.slow]
SCRIPT = Path(__file__).parent.parent / "servers" / "rgw.sh"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of Azurite's one account, as its documentation says."""


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def radosgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which clients find it."""
    pytest.importorskip("s3fs")
    pytest.importorskip("obstore")
    if shutil.which("radosgw") is None:
        pytest.skip("radosgw is not installed (.ci/stores installs it)")
    folder, port = tmp_path_factory.mktemp("rgw"), _port()
    start = ["bash", str(SCRIPT), "start", str(folder / "ceph"), str(port), str(_port())]
    with open(folder / "log", "wb") as log:  # the servers keep it open: a pipe would be waited for
        started = subprocess.run(start, stdout=log, stderr=log, timeout=240)
    assert started.returncode == 0, (folder / "log").read_text()
    endpoint = f"http://127.0.0.1:{port}"
    yield {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "fmkey", "AWS_SECRET_ACCESS_KEY": "fmsecret12"}
    subprocess.run(["bash", str(SCRIPT), "stop", str(folder / "ceph")], check=True)


@pytest.fixture(scope="module")
def azurite() -> Iterator[dict[str, str]]:
    """The environment in which adlfs finds it."""
    pytest.importorskip("adlfs")
    if shutil.which("azurite-blob") is None:
        pytest.skip("azurite is not installed (.ci/stores installs it)")
    port = _port()
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--blobPort", str(port)]
    with subprocess.Popen(["azurite-blob", *options], stdout=subprocess.DEVNULL) as server:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.1)
        account = (
            f"AccountName=devstoreaccount1;AccountKey={KEY};BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
        )
        yield {"AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;{account}"}
        server.terminate()


@pytest.fixture(params=["radosgw", "azurite"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in request.getfixturevalue(request.param).items():
        monkeypatch.setenv(name, value)
    scheme = {"radosgw": "s3", "azurite": "az"}[request.param]
    files = _files(scheme)
    files.mkdir("sets")
    yield f"{scheme}://sets"
    _files(scheme).rm("sets", recursive=True)
    forget_clients()
    type(files).clear_instance_cache()


def _files(scheme: str) -> object:
    import fsspec

    return fsspec.filesystem(scheme)


@pytest.mark.parametrize("bucket", ["azurite"], indirect=True)
def test_azures_ranges_through_obstore(azurite: dict[str, str], bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that knows an account's name and has its credentials by the environment."""
    pytest.importorskip("obstore")
    url, data = f"{bucket}/a/x.tar", bytes(range(256)) * 4000
    store.put(url, data)
    endpoint = azurite["AZURE_STORAGE_CONNECTION_STRING"].partition("BlobEndpoint=")[2].partition("/dev")[0]
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    known = {"ACCOUNT_NAME": "devstoreaccount1", "ACCOUNT_KEY": KEY, "USE_EMULATOR": "true"}
    for name, value in known.items():
        monkeypatch.setenv(f"AZURE_STORAGE_{name}", value)
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", endpoint)
    forget_clients()
    assert clients.client_of(url, 10) is not None
    backend = store.Access().backend(url)
    assert backend.read(url, 1000, 5000) == data[1000:6000]
    with pytest.raises(CorruptError, match="found only"):
        backend.read(url, len(data), 6)
    with pytest.raises(StoreError, match="it does not exist"):
        backend.read(f"{url}x", 0, 6)
    assert backend.info(f"{url}x") is None
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite["AZURE_STORAGE_CONNECTION_STRING"])


def test_reads_and_writes(bucket: str) -> None:
    url, data = f"{bucket}/a/x.tar", bytes(range(256)) * 4000
    assert not store.exists(url)
    with store.atomic_file(url) as file:
        file.write(data)
    assert store.list_names(f"{bucket}/a") == ["x.tar"]
    # Through obstore where it can be; a connection string is adlfs' alone.
    assert (clients.client_of(url, 10) is not None) == bucket.startswith("s3")
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
