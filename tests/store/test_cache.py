"""Ranges kept on a disk: right or read again, never another object's, and no more than is allowed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from fmshards.errors import InputError, StoreError
from fmshards.store import Access, Info, Passing, access_of
from fmshards.store.cache import Cached
from fmshards.store.local import Local


class Counted(Passing):
    """An object of 10 MB in which bytes tell where they are from; `mark` says which object it is."""

    def __init__(self, mark: str | None = "1") -> None:
        super().__init__(Local())
        self.mark = mark
        self.reads: Counter[tuple[int, int | None]] = Counter()

    def info(self, url: str) -> Info:
        return Info(10**7, self.mark)

    def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        self.reads[start, length] += 1
        assert length is not None
        return content(url, self.mark, start, length)

    refresh = read


def content(url: str, mark: str | None, start: int, length: int) -> bytes:
    return random.Random(f"{url} {mark} {start}").randbytes(length)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def cached(inner: Passing, tmp_path: Path, limit: int = 10**8) -> Cached:
    return Cached(inner, str(tmp_path / "cache"), limit)


def test_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    inner = Counted()
    first = cached(inner, tmp_path)
    data = first.read("x", 5, 1000)
    again = cached(inner, tmp_path)  # as another process has it
    assert data == first.read("x", 5, 1000) == again.read("x", 5, 1000) == content("x", "1", 5, 1000)
    assert inner.reads == {(5, 1000): 1}
    assert first.read("y", 5, 1000) == content("y", "1", 5, 1000) != data
    assert first.read("x", 6, 1000) == content("x", "1", 6, 1000)


def test_another_object_at_the_same_url_is_another(tmp_path: Path) -> None:
    cached(Counted("1"), tmp_path).read("x", 0, 1000)
    assert cached(Counted("2"), tmp_path).read("x", 0, 1000) == content("x", "2", 0, 1000)
    nameless = Counted(None)
    kept = cached(nameless, tmp_path)
    for _ in range(2):
        assert kept.read("x", 0, 1000) == content("x", None, 0, 1000)
    assert nameless.reads == {(0, 1000): 2}


@pytest.mark.parametrize("way", ["flip", "cut", "longer", "empty", "swap", "folder"])
def test_what_is_damaged_is_read_again(tmp_path: Path, way: str) -> None:
    inner = Counted()
    kept = cached(inner, tmp_path)
    kept.read("x", 0, 1000)
    (path,) = files(tmp_path)
    data = path.read_bytes()
    if way == "swap":
        kept.read("x", 1000, 1000)
        (other,) = set(files(tmp_path)) - {path}
        path.write_bytes(other.read_bytes())
    elif way == "folder":
        path.unlink()
        path.mkdir()
    else:
        flipped = data[:500] + bytes([data[500] ^ 1]) + data[501:]
        path.write_bytes({"flip": flipped, "cut": data[:-1], "longer": data + b"x", "empty": b""}[way])
    assert kept.read("x", 0, 1000) == content("x", "1", 0, 1000)
    assert inner.reads[0, 1000] == 2
    if way != "folder":
        assert kept.read("x", 0, 1000) == content("x", "1", 0, 1000)
        assert inner.reads[0, 1000] == 2


def test_what_turned_out_wrong_is_replaced(tmp_path: Path) -> None:
    inner = Counted()
    kept = cached(inner, tmp_path)
    inner.read = lambda url, start=0, length=None: b"\0" * length  # type: ignore[method-assign]  # a stand-in
    assert kept.read("x", 0, 1000) == kept.read("x", 0, 1000) == bytes(1000)
    assert kept.refresh("x", 0, 1000) == content("x", "1", 0, 1000) == kept.read("x", 0, 1000)


def test_no_more_is_kept_than_is_allowed(tmp_path: Path) -> None:
    """And what was read lately stays."""
    inner = Counted()
    kept = cached(inner, tmp_path, 1_000_000)
    for i in range(100):
        kept.read("x", 40_000 * i, 40_000)
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 1_000_000
        for path in files(tmp_path):  # a second goes by
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 100))
        kept.read("x", 0, 40_000)
    assert inner.reads[0, 40_000] == 1
    assert len(files(tmp_path)) > 15
    kept.read("x", 7, 500_000)
    assert max(path.stat().st_size for path in files(tmp_path)) < 50_000


def test_what_killed_writers_left_goes(tmp_path: Path) -> None:
    kept = cached(Counted(), tmp_path)
    kept.read("x", 0, 1000)
    (path,) = files(tmp_path)
    old, new = path.with_name("a.0.tmp"), path.with_name("b.1.tmp")
    for each in (old, new):
        each.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    cached(Counted(), tmp_path).read("x", 1, 1000)
    assert not old.exists()
    assert new.exists()


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    kept = cached(Counted(), tmp_path)
    with caplog.at_level(logging.WARNING, "fmshards"):
        for start in (0, 0, 1):
            assert kept.read("x", start, 1000) == content("x", "1", start, 1000)
    (line,) = caplog.messages
    assert "ranges are not kept" in line


def _reads(folder: str, seed: int) -> None:
    kept, chance = Cached(Counted(), folder, 300_000), random.Random(seed)
    for _ in range(100):
        start, length = 1000 * chance.randrange(100), chance.choice([5000, 9000])
        assert kept.read("x", start, length) == content("x", "1", start, length)


def test_processes_share_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_reads, args=(str(tmp_path), seed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 300_000
    assert not [path for path in files(tmp_path) if path.suffix == ".tmp"]


def test_a_local_file_may_be_cached_too(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(5000))
    access = access_of(tmp_path / "cache", "1MB", None)
    backend = access.backend(str(tmp_path / "x"))
    assert backend.read(str(tmp_path / "x"), 10, 100) == bytes(100)
    assert len(files(tmp_path / "cache")) == 1
    with pytest.raises(StoreError, match="does not exist"):
        backend.read(str(tmp_path / "none"), 10, 100)


def test_what_people_give(tmp_path: Path) -> None:
    assert access_of(None, None, None) == Access()
    assert access_of(str(tmp_path), "2GiB", 7) == Access(str(tmp_path), 2 * 2**30, 7.0)
    (tmp_path / "file").write_bytes(b"")
    for given, said in [
        (("s3://b/x", None, None), "cache=s3://b/x: expected a folder on a local disk"),
        ((tmp_path / "file", None, None), "it cannot be used: File exists"),
        ((None, "1GB", None), "cache_limit is given without a cache"),
        ((tmp_path, "much", None), "cache_limit is a number of bytes"),
        ((None, None, 0), "patience is a number of seconds above 0"),
    ]:
        with pytest.raises(InputError, match=said):
            access_of(*given)
