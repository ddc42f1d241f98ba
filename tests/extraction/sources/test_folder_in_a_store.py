"""Class folders in a store: the items of the same folder on a disk, pins, and what is refused."""

from __future__ import annotations

import functools
import shutil
import threading
import warnings
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmshards.errors import FmshardsError, InputError
from fmshards.extraction import extract, verify
from fmshards.extraction.sources import FolderSource, ParquetSource, WebDatasetSource, open_source
from tests.servers import BUCKET, S3
from tests.servers.fixtures import s3  # noqa: F401  # a fixture

from ..conftest import TRAIN, jpeg, members_of, options, png, stored, tree, write_tar
from .helpers import items, make_folder


def everything(source: Any) -> list[tuple[str, dict[str, Any], Any, int]]:
    return [(i.key, i.fields, i.data, i.work) for shard in range(len(source.inputs)) for i in items(source, shard)]


def copied(folder: Path, s3: S3, name: str = "photos") -> str:  # noqa: F811  # a fixture, imported above
    shutil.copytree(folder, s3.root / BUCKET / name)
    return f"s3://{BUCKET}/{name}"


@pytest.fixture
def memory() -> Iterator[Any]:
    found = fsspec.filesystem("memory")
    yield found
    found.store.clear()
    found.pseudo_dirs[:] = [""]


NAME = st.text(st.sampled_from("ab é%+#[]{*?.-"), min_size=1, max_size=3).filter(lambda name: name.strip(". ") == name)
PATHS = st.lists(
    st.tuples(NAME, st.lists(NAME, max_size=1), NAME, st.sampled_from(["png", "JPG", "txt"])), min_size=1, max_size=12
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=PATHS, size=st.integers(1, 5), seed=st.integers(0, 3))
def test_the_items_are_those_of_the_same_folder_on_a_disk(
    tmp_path: Path, memory: Any, paths: list[tuple[str, list[str], str, str]], size: int, seed: int
) -> None:
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    root = tmp_path / "root"
    shutil.rmtree(root, ignore_errors=True)
    for i, (top, deep, name, kind) in enumerate(paths):
        path = root.joinpath(top, *deep, f"{name}.{kind}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(i))
        except (IsADirectoryError, FileExistsError, NotADirectoryError):
            continue
        memory.pipe(f"/bucket/photos/{path.relative_to(root)}", png(i))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = []
        for source in (str(root), "memory://bucket/photos/"):
            try:
                made.append(FolderSource(source, size, seed))
            except InputError as error:
                made.append(str(error).partition("holds")[2])
    local, remote = made
    if isinstance(local, str):
        assert remote == local
        return
    assert everything(remote) == everything(local)
    assert remote.classes == local.classes
    assert [(i.bytes, i.samples, i.digest) for i in remote.inputs] == [
        (i.bytes, i.samples, i.digest) for i in local.inputs
    ]
    assert remote.content(0) == local.content(0)


def test_a_folder_in_an_object_store(tmp_path: Path, s3: S3) -> None:  # noqa: F811  # a fixture, imported above
    names = [f"{c}/{i}.png" for c in ("cat", "dog", "ant") for i in range(4)]
    names[5] = "dog/é + #1%20 (=&).png"
    root = make_folder(tmp_path / "photos", names)
    url = copied(root, s3)
    (s3.root / BUCKET / "photos" / "README.md").write_text("left out")
    (s3.root / BUCKET / "photos" / ".hidden").mkdir()
    (s3.root / BUCKET / "photos" / ".hidden" / "x.png").write_bytes(png(0))
    wanted = open_source(root, shard_size=5)
    for text in (url, url + "/"):
        with pytest.warns(UserWarning, match=r"photos: 1 files are no images .*'README\.md'"):
            source = open_source(text, shard_size=5)
        assert isinstance(source, FolderSource)
        assert everything(source) == everything(wanted)
        assert source.classes == ("ant", "cat", "dog")
    for i in range(3):
        for ours, theirs in zip(items(source, i), items(wanted, i), strict=True):
            assert source.load(ours).digest == wanted.load(theirs).digest
    stamps = [source.stamp(i) for i in range(3)]
    path = items(source, 1)[0].data
    size = (s3.root / BUCKET / "photos" / path).stat().st_size
    (s3.root / BUCKET / "photos" / path).write_bytes(png(99)[:-1] + b"x" * (size - len(png(99)) + 1))
    with pytest.warns(UserWarning, match="left out"):
        again = open_source(url, shard_size=5)
    assert [again.stamp(i) == stamps[i] for i in range(3)] == [True, False, True]


def test_classes_that_a_store_does_not_know_of_may_be_named(tmp_path: Path, s3: S3) -> None:  # noqa: F811  # a fixture, imported above
    root = make_folder(tmp_path / "photos", ["b/0.png", "c/0.png"])
    (root / "a").mkdir()
    url = copied(root, s3)
    assert open_source(url).classes == ("b", "c")
    with pytest.warns(UserWarning, match="class folders hold no image: a"):
        local = open_source(root)
    assert {i.fields["class"]: i.fields["cls"] for i in items(open_source(url, classes=["a", "b", "c"]))} == {
        i.fields["class"]: i.fields["cls"] for i in items(local)
    }


def test_what_a_folder_in_a_store_holds(tmp_path: Path, s3: S3) -> None:  # noqa: F811  # a fixture, imported above
    bucket = s3.root / BUCKET
    for i in range(2):
        write_tar(bucket / "tars" / f"{i}.tar", {"x.jpg": jpeg(i)})
    (bucket / "plain").write_bytes((bucket / "tars" / "0.tar").read_bytes())
    for url in (f"s3://{BUCKET}/tars", f"s3://{BUCKET}/tars/", f"s3://{BUCKET}/tars/*.tar"):
        source = open_source(url)
        assert isinstance(source, WebDatasetSource)
        assert [shard.url for shard in source.inputs] == [f"s3://{BUCKET}/tars/{i}.tar" for i in range(2)]
    assert [item.key for item in items(open_source(f"s3://{BUCKET}/plain"))] == ["x"]
    make_folder(bucket / "tars", ["a/x.png"])
    with pytest.raises(InputError, match=r"tars holds tars \('0\.tar' \.\.\.\) and images in class folders \('a'"):
        open_source(f"s3://{BUCKET}/tars")
    with pytest.raises(InputError, match="nothing/: nothing is there; expected a folder of images"):
        open_source(f"s3://{BUCKET}/nothing/")
    (bucket / "notes").mkdir()
    (bucket / "notes" / "a.txt").write_text("")
    with pytest.raises(InputError, match=r"notes holds no image.*such as 'a\.txt'"):
        open_source(f"s3://{BUCKET}/notes/")
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    (bucket / "tables").mkdir()
    pq.write_table(pa.table({"image": [png(0)]}), bucket / "tables" / "a.parquet")
    assert isinstance(open_source(f"s3://{BUCKET}/tables/"), ParquetSource)


def test_a_folder_that_a_web_server_lists(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http through aiohttp")
    root = make_folder(tmp_path / "photos", ["cat/0.png", "cat/deep/1.png", "dog/2.png"])

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,))
    thread.start()
    try:
        source = open_source(f"http://127.0.0.1:{httpd.server_address[1]}/photos/")
        wanted = open_source(root)
        assert everything(source) == everything(wanted)
        assert source.content(0) == wanted.content(0)
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """40 bundled images in class folders."""
    members = members_of(TRAIN[0], range(40))
    for (name, data), (_, label) in zip(members[::2], members[1::2], strict=True):
        path = tmp_path / "photos" / f"c{int(label)}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "photos"


def test_a_set_of_a_folder_goes_on_from_its_copy_in_a_store(real: Path, s3: S3, tmp_path: Path) -> None:  # noqa: F811  # a fixture, imported above
    url, more = copied(real, s3), options(shard_size=20)
    extract(url, tmp_path / "store", workers=1, **more)
    extract(real, tmp_path / "local", **more)
    ours, theirs = (stored(tmp_path / name, "layer2") for name in ("store", "local"))
    assert (ours.streams["base"] == theirs.streams["base"]).all()
    assert (ours.keys, ours.fields) == (theirs.keys, theirs.fields)
    (tmp_path / "local" / "layer2" / "000001.tar").unlink()
    with pytest.warns(UserWarning, match="shards are missing"):
        extract(url, tmp_path / "local", **more)
    assert stored(tmp_path / "local", "layer2").keys == theirs.keys
    report = verify(str(tmp_path / "store"), options()["model"], weights=options()["weights"])
    assert (report.problems, report.recomputed) == ((), 8)


def test_an_object_that_changed_since_the_plan_is_refused(real: Path, s3: S3, tmp_path: Path) -> None:  # noqa: F811  # a fixture, imported above
    url, more = copied(real, s3), options(shard_size=20)
    out = tmp_path / "set"
    extract(url, out, **more)
    before = tree(out)
    assert extract(url, out, **more).samples == 40
    s3.log()
    extract(url, out, **more)
    assert not any(asked.startswith("GET") and ".jpg" in asked for asked, _ in s3.log())
    path = next(path for path in (s3.root / BUCKET / "photos").rglob("*.jpg"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(FmshardsError, match=r"inputs 00000.: s3://.*photos is not what .* was made from"):
        extract(url, out, **more)
    assert tree(out) == before
