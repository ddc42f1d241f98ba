"""The functions of the store: each asks the backend of its URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO

from fmshards.errors import CorruptError, FormatError, InputError
from fmshards.store.backend import Backend, Info
from fmshards.store.local import Local
from fmshards.store.retry import Retrying
from fmshards.store.url import is_local

_LOCAL = Local()


def _as_it_is(found: Backend) -> Backend:
    return found


_wrap: Callable[[Backend], Backend] = _as_it_is


@contextmanager
def wrapped(wrap: Callable[[Backend], Backend]) -> Iterator[None]:
    """Within the block every URL is served by what `wrap` makes of its backend: faults, a count. A store that is asked
    again is asked through it each time.

    `wrap` is called once for each backend; blocks nest, the inner one outermost. It holds for this process, all of its
    threads and what it forks; a worker that is spawned has the plain backends.
    """
    global _wrap
    before = _wrap
    made: dict[Backend, Backend] = {}

    def once(found: Backend) -> Backend:
        if found not in made:
            made[found] = wrap(before(found))
        return made[found]

    _wrap = once
    try:
        yield
    finally:
        _wrap = before


def backend(url: str) -> Backend:
    """The store that `url` is in, asked again where that may help.

    Raises InputError where `url` is empty, or may be a path or a chain of stores.
    """
    if not url:
        raise InputError("an empty path: name a folder, a file or a URL (. is the current folder)")
    if is_local(url):
        return _wrap(_LOCAL)
    from fmshards.store.remote import REMOTE

    return Retrying(_wrap(REMOTE))


def wrap(found: Backend) -> Backend:
    """What `wrapped` makes of a backend; itself outside of its blocks."""
    return _wrap(found)


def read(url: str, start: int = 0, length: int | None = None) -> bytes:
    """Exactly `length` bytes from byte `start`, or all from there on.

    Raises CorruptError where the object is shorter than that, StoreError where it cannot be read.
    """
    if start < 0 or (length is not None and length < 0):
        raise CorruptError(f"{url}: {length} bytes from {start} are no byte range")
    return backend(url).read(url, start, length)


def info(url: str) -> Info | None:
    """Size and mark of what is at `url`, without reading it; None where nothing is. Raises StoreError."""
    return backend(url).info(url)


def size(url: str) -> int:
    """Bytes of the object at `url`. Raises StoreError where there is none."""
    return backend(url).size(url)


def exists(url: str) -> bool:
    """Whether something is at `url`. Raises StoreError where that cannot be told."""
    return backend(url).exists(url)


def read_small(url: str, limit: int) -> bytes:
    """All of an object of at most `limit` bytes. Raises FormatError for a larger one before it is read."""
    found = size(url)
    if found > limit:
        raise FormatError(f"{url}: expected at most {limit:,} bytes, found {found:,}; it is not a file of this kind")
    return read(url, 0, found)


def put(url: str, data: bytes) -> None:
    """Write `data` to `url`, replacing what is there: the old whole or the new whole, never a part."""
    backend(url).put(url, data)


def put_if_absent(url: str, data: bytes) -> bool:
    """Write `data` to `url` unless something is there. True: it is ours. Of many callers exactly one wins."""
    return backend(url).put_if_absent(url, data)


def atomic_file(url: str) -> AbstractContextManager[BinaryIO]:
    """A writable binary file that appears at `url` whole when the block ends, and not at all if it raises."""
    return backend(url).atomic_file(url)


def open_stream(url: str) -> BinaryIO:
    """A buffered binary file to be read from start to end; errors in the middle are StoreErrors too."""
    return backend(url).open_stream(url)


def list_names(url: str) -> list[str]:
    """Sorted base names in the folder `url`, files still being written left out; [] where there is no folder."""
    return backend(url).list_names(url)


def list_files(url: str) -> dict[str, Info]:
    """Every file in the folder `url` and below: its path there, `/` between names, and what `info` says of it, the size
    None where a listing does not tell it. {} where there is no folder."""
    return backend(url).list_files(url)


def remove(url: str) -> None:
    """Remove the file at `url`; nothing there is fine."""
    backend(url).remove(url)
