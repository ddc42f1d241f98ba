"""Asking a store again: what it may do in a moment is tried until patience ends, what it never will is said at once.

Each try that fails is followed by a pause, twice as long as the one before up to `_LONGEST`, and shortened by chance:
workers that lost one server must not come back to it all at once. A read goes on from the byte that it reached, and
every byte that comes renews the patience.
"""

from __future__ import annotations

import io
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, BinaryIO, TypeVar, cast

from fmshards import tally
from fmshards.errors import MismatchError, TransientError
from fmshards.store.backend import Backend, Info, Passing

PATIENCE = 120.0
"""Seconds without a byte after which a store is given up: a server that is started again is back long before."""

CONNECT, STALL = 10.0, 30.0
"""Seconds after which a connection, and an answer or its next byte, are waited for no longer and asked for again."""

_FIRST, _LONGEST = 0.1, 8.0
_SILENT = 5.0
_BUFFER = 1 << 20
_log = logging.getLogger("fmshards")
_stop: ContextVar[threading.Event | None] = ContextVar("fmshards_store_stop", default=None)
T = TypeVar("T")


@contextmanager
def until(stop: threading.Event) -> Iterator[None]:
    """Within the block this thread asks no store again once `stop` is set: nobody waits for the answer."""
    token = _stop.set(stop)
    try:
        yield
    finally:
        _stop.reset(token)


def insist(
    call: Callable[[], T], url: str, patience: float | None = None, reached: Callable[[], object] = lambda: None
) -> T:
    """What `call` returns, tried again after each TransientError for `patience` seconds (`PATIENCE` where None).

    reached: how far it has come, told by a value; when that changes, patience begins anew. After some seconds of
    waiting a line in the log of "fmshards" says what for. Raises TransientError when patience ends, and any other error
    of `call` at once.
    """
    allowed = PATIENCE if patience is None else patience
    began, tries, far, said = time.monotonic(), 0, reached(), False
    while True:
        try:
            return call()
        except TransientError as error:
            now, here = time.monotonic(), reached()
            if here != far:
                began, tries, far = now, 0, here
            tries += 1
            tally.count("retries")
            waited, pause = now - began, min(_LONGEST, _FIRST * 2**tries) * random.uniform(0.5, 1)
            stop = _stop.get() or threading.Event()
            if waited + pause > allowed or stop.is_set():
                raise TransientError(f"{error}; given up after {tries} tries in {waited:.0f} s") from None
            if waited > _SILENT and not said:
                said = True
                _log.warning("%s; asking again for up to %.0f s more", error, allowed - waited)
            stop.wait(pause)


class Retrying(Passing):
    """Another backend, asked again as `insist` does."""

    def __init__(self, inner: Backend, patience: float | None = None) -> None:
        super().__init__(inner)
        self._patience = patience

    def info(self, url: str) -> Info | None:
        return self._insist(lambda: self._inner.info(url), url)

    def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        got: list[bytes] = []
        at = start

        def go_on() -> None:
            nonlocal at
            if length is None or at < start + length or not got:
                for part in self._inner.parts(url, at, None if length is None else start + length - at):
                    got.append(part)
                    at += len(part)

        insist(go_on, url, self._patience, lambda: at)
        return got[0] if len(got) == 1 else b"".join(got)

    def refresh(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        return self._insist(lambda: self._inner.refresh(url, start, length), url)

    def open_stream(self, url: str) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(_Resumed(self._inner, url, self._patience), _BUFFER))

    def list_names(self, url: str) -> list[str]:
        return self._insist(lambda: self._inner.list_names(url), url)

    def list_files(self, url: str) -> dict[str, Info]:
        return self._insist(lambda: self._inner.list_files(url), url)

    def put(self, url: str, data: bytes) -> None:
        self._insist(lambda: self._inner.put(url, data), url)

    def put_if_absent(self, url: str, data: bytes) -> bool:
        tries = 0

        def go_on() -> bool:
            nonlocal tries
            tries += 1
            return self._inner.put_if_absent(url, data)

        ours = self._insist(go_on, url)
        # An answer that was lost may have been a yes: then what is there is what we wrote.
        return ours or (tries > 1 and self.read(url) == data)

    def remove(self, url: str) -> None:
        self._insist(lambda: self._inner.remove(url), url)

    def _insist(self, call: Callable[[], T], url: str) -> T:
        return insist(call, url, self._patience)


class _Resumed(io.RawIOBase):
    """An object read from start to end, opened again where it failed, as long as it is the same object."""

    def __init__(self, inner: Backend, url: str, patience: float | None) -> None:
        self._inner, self._url, self._patience = inner, url, patience
        self._at = 0
        self._found = insist(lambda: inner.info(url), url, patience)
        self._file: BinaryIO | None = insist(lambda: inner.open_stream(url), url, patience)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = insist(lambda: self._read(len(buffer)), self._url, self._patience)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _read(self, most: int) -> bytes:
        if self._file is None:
            if self._inner.info(self._url) != self._found:
                raise MismatchError(f"{self._url}: it was written anew while it was read; begin again")
            self._file = self._inner.open_stream(self._url)
            self._file.seek(self._at)
        try:
            return self._file.read(most)
        except TransientError:
            self._close()
            raise

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        if not self.closed:
            try:
                self._close()
            finally:
                super().close()
