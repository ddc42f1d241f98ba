"""The store through fsspec: s3, gs, az, http, memory ... whatever fsspec has a backend for.

Nothing is kept between calls: fsspec caches its file systems itself and renews them in a forked process. Sizes and
listings are asked for anew each time, since another machine may be writing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from fmshards.errors import CorruptError, StoreError
from fmshards.store.guard import guard, guarded_reader, guarded_writer, is_missing


def read(url: str, start: int, length: int | None) -> bytes:
    fs, path = _open(url)
    if length == 0:
        return b""
    end = None if length is None else start + length
    with guard("read", url):
        try:
            data = bytes(fs.cat_file(path, start=start or None, end=end))
        except FileNotFoundError:
            raise
        except Exception:
            # Most servers answer a range that starts past the end with an error: say which it is.
            if start >= _size_or(fs, path, start + 1):
                raise CorruptError(f"{url}: expected bytes from {start}, found only {start} bytes or fewer") from None
            raise
    if length is None or len(data) == length:
        return data
    if len(data) > length:
        raise StoreError(
            f"cannot read {url}: {length} bytes from {start} were asked for and {len(data)} came: the server does "
            "not serve byte ranges; use one that does, or copy the set to a local disk"
        )
    raise CorruptError(f"{url}: expected {length} bytes from {start}, found only {len(data)}")


def size(url: str) -> int:
    fs, path = _open(url)
    with guard("read", url):
        found = fs.info(path).get("size")
    if found is None:
        raise StoreError(f"cannot read {url}: the server does not say how long it is")
    return int(found)


def exists(url: str) -> bool:
    fs, path = _open(url)
    with guard("look for", url):
        # Not fs.exists(): it reads every error as "no", and a set that cannot be reached is not a missing set.
        try:
            fs.info(path)
        except FileNotFoundError as error:
            if not is_missing(error):
                raise
            return False
        return True


def list_names(url: str) -> list[str]:
    fs, path = _open(url)
    with guard("list", url):
        try:
            names = fs.ls(path, detail=False)
        except FileNotFoundError as error:
            if not is_missing(error):
                raise
            return []
    here = path.rstrip("/")
    found = {str(name).rstrip("/") for name in names}
    return sorted(name.rsplit("/", 1)[-1] for name in found if name != here)


def remove(url: str) -> None:
    fs, path = _open(url)
    with guard("remove", url), suppress(FileNotFoundError):
        fs.rm_file(path)


def open_stream(url: str) -> BinaryIO:
    fs, path = _open(url)
    with guard("open", url):
        return guarded_reader(fs.open(path, "rb"), url)


def put(url: str, data: bytes) -> None:
    fs, path = _open(url)
    with guard("write", url, f"{len(data):,} bytes"):
        _make_folder(fs, path)
        fs.pipe_file(path, data)


def put_if_absent(url: str, data: bytes) -> bool:
    """Exactly one winner where the backend can create conditionally (s3 does); elsewhere a look, then a write."""
    if exists(url):
        return False
    fs, path = _open(url)
    with guard("write", url, f"{len(data):,} bytes"):
        _make_folder(fs, path)
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except TypeError:  # a backend older than conditional creation
            fs.pipe_file(path, data)
    return True


@contextmanager
def atomic_file(url: str) -> Iterator[BinaryIO]:
    """Written to a local spool, then uploaded in one go: an upload appears when it is complete, or not at all."""
    fs, path = _open(url)
    with guard("make a temporary file for", url):
        fd, spool = tempfile.mkstemp(prefix="fmshards-", suffix=".spool")
    file = guarded_writer(fd, f"{spool}, to be uploaded to {url}")
    try:
        yield file
        file.flush()
        with guard("write", url, f"{file.tell():,} bytes"):
            _make_folder(fs, path)
            fs.put_file(spool, path)
    finally:
        with suppress(StoreError, OSError):
            file.close()
        with suppress(OSError):
            os.unlink(spool)


def _open(url: str) -> tuple[Any, str]:
    with guard("open", url):
        if url.startswith("pipe:"):
            raise StoreError(f"cannot open {url}: commands are not run; give a path or a URL")
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(url)
        fs.invalidate_cache()
        return fs, str(path)


def _make_folder(fs: Any, path: str) -> None:
    # A file system needs its folder; an object store has none, and may refuse to be asked for a bucket.
    with suppress(Exception):
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)


def _size_or(fs: Any, path: str, default: int) -> int:
    with suppress(Exception):
        return int(fs.info(path)["size"])
    return default
