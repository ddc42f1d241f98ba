"""What a store is: a Backend, an object of a few functions of URLs, so that one can wrap another."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from fmshards.errors import StoreError


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
    """Bytes at URLs of one kind. Every error is a StoreError, or a CorruptError for bytes that are not there."""

    def info(self, url: str) -> Info | None:
        """What is at `url`; None where nothing is. Only "not found" is None: trouble in looking is a StoreError."""

    def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        """Exactly `length` bytes from byte `start`, or all from there on. Raises CorruptError where it is shorter."""

    def open_stream(self, url: str) -> BinaryIO:
        """A buffered binary file to be read from start to end; errors in the middle are StoreErrors too."""

    def list_names(self, url: str) -> list[str]:
        """Sorted base names in the folder `url`, files still being written left out; [] where there is no folder."""

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
