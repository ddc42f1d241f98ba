"""The store on local files: exact reads, and writes that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from fmshards.errors import CorruptError
from fmshards.store.guard import guard, guarded_reader
from fmshards.store.publish import is_temporary, move_if_absent, published
from fmshards.store.url import local_path


def read(url: str, start: int, length: int | None) -> bytes:
    with guard("read", url), open(local_path(url), "rb") as file:
        whole = os.fstat(file.fileno()).st_size
        end = whole if length is None else start + length
        if max(start, end) > whole:
            raise CorruptError(f"{url}: expected bytes {start} to {end}, found only {whole} bytes")
        file.seek(start)
        data = file.read(end - start)
    if len(data) != end - start:
        raise CorruptError(f"{url}: expected {end - start} bytes from {start}, found only {len(data)}")
    return data


def size(url: str) -> int:
    with guard("read", url):
        return os.stat(local_path(url)).st_size


def exists(url: str) -> bool:
    with guard("look for", url):
        return os.path.exists(local_path(url))


def list_names(url: str) -> list[str]:
    with guard("list", url):
        try:
            names = os.listdir(local_path(url))
        except FileNotFoundError:
            return []
    return sorted(name for name in names if not is_temporary(name))


def remove(url: str) -> None:
    with guard("remove", url), suppress(FileNotFoundError):
        os.unlink(local_path(url))


def open_stream(url: str) -> BinaryIO:
    with guard("open", url):
        return guarded_reader(open(local_path(url), "rb", buffering=0), url)


def put(url: str, data: bytes) -> None:
    with published(url, os.replace) as file:
        file.write(data)


def put_if_absent(url: str, data: bytes) -> bool:
    if exists(url):
        return False
    try:
        with published(url, move_if_absent) as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


@contextmanager
def atomic_file(url: str) -> Iterator[BinaryIO]:
    with published(url, os.replace) as file:
        yield file
