"""What a store is: a Backend, an object of a few functions of URLs, so that one can wrap another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeVar

from fmshards.errors import CorruptError, StoreError

T = TypeVar("T")


@dataclass(frozen=True)
class Info:
    """What a store says of an object without reading it.

    size: its bytes, None where the store does not say. mark: text that changes when the object is written anew (an
    etag, a version, size and time); None where the store has nothing of the kind. An equal mark says that the content
    has most likely stayed the same.
    """

    size: int | None
    mark: str | None


class Backend(Protocol):
    """Bytes at URLs of one kind.

    Every error is a StoreError, a TransientError among them where asking again may help, or a CorruptError for bytes
    that are not there.
    """

    def info(self, url: str) -> Info | None:
        """What is at `url`; None where nothing is. Only "not found" is None: trouble in looking is a StoreError."""

    def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        """Exactly `length` bytes from byte `start`, or all from there on. Raises CorruptError where it is shorter."""

    def parts(self, url: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes of `read` as they come: where an error ends them, those that came before it are right."""
        yield self.read(url, start, length)

    def refresh(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        """As `read`, past whatever has been kept of these bytes, which is replaced: they turned out to be wrong."""
        return self.read(url, start, length)

    def expect(self, url: str, spans: Sequence[tuple[int, int]]) -> None:
        """The bytes of each span, from one to another, are to be read soon; whoever can has them fetched meanwhile,
        without waiting. Raises nothing: what is wrong, the read says."""
        return

    def checked(self, url: str, start: int, length: int, check: Callable[[bytes], T]) -> T:
        """What `check` makes of these bytes. Where it raises a CorruptError they are read once more, since they may
        have changed on their way or where they were kept; raises what it raises then."""
        try:
            return check(self.read(url, start, length))
        except CorruptError:
            return check(self.refresh(url, start, length))

    def open_stream(self, url: str) -> BinaryIO:
        """A buffered binary file to be read from start to end; errors in the middle are StoreErrors too."""

    def list_names(self, url: str) -> list[str]:
        """Sorted base names in the folder `url`, files still being written left out; [] where there is no folder."""

    def list_files(self, url: str) -> dict[str, Info]:
        """Every file in the folder `url` and below: its path there, `/` between names, and what `info` says of it, the
        size None where a listing does not tell it. {} where there is no folder."""

    def put(self, url: str, data: bytes) -> None:
        """Write `data` to `url`, replacing what is there: the old whole or the new whole, never a part."""

    def put_if_absent(self, url: str, data: bytes) -> bool:
        """Write `data` to `url` unless something is there. True: it is ours. Of many callers exactly one wins."""

    def atomic_file(self, url: str) -> AbstractContextManager[BinaryIO]:
        """A writable binary file that appears at `url` whole when the block ends, and not at all if it raises."""

    def remove(self, url: str) -> None:
        """Remove the file at `url`; nothing there is fine."""

    def exists(self, url: str) -> bool:
        """Whether something is at `url`. Raises StoreError where that cannot be told."""
        return self.info(url) is not None

    def size(self, url: str) -> int:
        """Bytes of the object at `url`. Raises StoreError where there is none, or it is not known."""
        found = self.info(url)
        if found is None:
            raise StoreError(f"cannot read {url}: it does not exist")
        if found.size is None:
            raise StoreError(f"cannot read {url}: the server does not say how long it is")
        return found.size


class Passing(Backend):
    """Another backend's answers: what a backend that wraps one changes some of."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    def info(self, url: str) -> Info | None:
        return self._inner.info(url)

    def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        return self._inner.read(url, start, length)

    def refresh(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        return self._inner.refresh(url, start, length)

    def expect(self, url: str, spans: Sequence[tuple[int, int]]) -> None:
        self._inner.expect(url, spans)

    def open_stream(self, url: str) -> BinaryIO:
        return self._inner.open_stream(url)

    def list_names(self, url: str) -> list[str]:
        return self._inner.list_names(url)

    def list_files(self, url: str) -> dict[str, Info]:
        return self._inner.list_files(url)

    def put(self, url: str, data: bytes) -> None:
        self._inner.put(url, data)

    def put_if_absent(self, url: str, data: bytes) -> bool:
        return self._inner.put_if_absent(url, data)

    def atomic_file(self, url: str) -> AbstractContextManager[BinaryIO]:
        return self._inner.atomic_file(url)

    def remove(self, url: str) -> None:
        self._inner.remove(url)
