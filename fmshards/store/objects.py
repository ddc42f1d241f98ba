"""Ranges of objects at s3, gs, az and http(s) through obstore: twice as fast as fsspec, at a third of the CPU time.

Everything else, and what obstore is not known to do alike, goes through another backend (fsspec's): writing, listing,
and the URLs that `clients.py` leaves to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fmshards.errors import CorruptError, MismatchError, StoreError, TransientError
from fmshards.store.backend import Backend, Info, Passing
from fmshards.store.clients import client_of
from fmshards.store.guard import is_busy
from fmshards.store.haste import Haste

_STATUS = re.compile(r"status code: (\d{3})")
_REASON = re.compile(r'message: "([^"]*)"|((?:failed to lookup|invalid peer certificate)[^"\n]*)|(TimedOut)')
_WHERE = re.compile(r"^.* in [0-9.]+[nµm]?s - ")
_HOPELESS = ("lookup", "certificate", "builder error", "relative URL", "region")
_PART = 1 << 20


class Objects(Passing):
    """Reads through obstore where that serves a URL, everything else through `other`.

    stall: seconds after which an answer, or its next byte, is waited for no longer; the first try of a read waits less
    (Haste). An object's mark is remembered when it is first seen: one that is written anew later is a MismatchError,
    never a mixture. So an Objects lives as long as what is read is to stay the same.
    """

    def __init__(self, other: Backend, stall: float) -> None:
        super().__init__(other)
        self._stall, self._haste = stall, Haste(stall)
        self._marks: dict[str, str] = {}

    def info(self, url: str) -> Info | None:
        found = client_of(url, self._stall)
        if found is None:
            return self._inner.info(url)
        client, path = found
        try:
            meta = client.head(path)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise _ours(error, "look for", url) from None
        return Info(int(meta["size"]), self._same(url, meta))

    def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        return b"".join(self.parts(url, start, length))

    refresh = read

    def parts(self, url: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        wait = self._haste.wait(url, start)
        found = client_of(url, wait) if length != 0 else None
        if found is None:
            yield from self._inner.parts(url, start, length)
            return
        client, path = found
        options = {"range": {"offset": start} if length is None else (start, start + length)}
        try:
            answer = client.get(path, options=options if start or length is not None else None)
        except Exception as error:
            if _timed_out(error):
                self._haste.gave_up(url, start, wait)
                raise _ours(error, "read", url) from None
            raise self._short(client, path, url, start) or _ours(error, "read", url) from None
        self._same(url, answer.meta)
        size, (first, end) = int(answer.meta["size"]), answer.range
        if length is not None and (first, end) != (start, start + length):
            raise CorruptError(f"{url}: expected {length} bytes from {start}, found only {max(0, size - start)}")
        reached = start
        try:
            for part in answer.stream(min_chunk_size=_PART):
                reached += len(part)
                yield bytes(part)
        except Exception as error:
            if _timed_out(error):
                self._haste.gave_up(url, reached, wait)
            raise _ours(error, "read", url) from None
        if reached != end:
            raise TransientError(f"cannot read {url}: {end - start} bytes from {start} were asked for, fewer came")

    def _same(self, url: str, meta: Any) -> str | None:
        """The mark of an object, which must be what it was."""
        version, etag = meta.get("version"), meta.get("e_tag")
        mark = f"VersionId {version}" if version else f"ETag {etag}" if etag else None
        if mark is None:
            return None
        known = self._marks.setdefault(url, mark)
        if known != mark:
            raise MismatchError(
                f"{url}: it was written anew while it was read ({known} is now {mark}); open the set again once it is "
                "whole"
            )
        return mark

    def _short(self, client: Any, path: str, url: str, start: int) -> CorruptError | None:
        """Where a server refused a range that begins at or past the object's end. Raises MismatchError where that is
        since it was written anew."""
        if not start:
            return None
        try:
            meta = client.head(path)
        except Exception:
            return None
        self._same(url, meta)
        size = int(meta["size"])
        return None if start < size else CorruptError(f"{url}: expected bytes from {start}, found only {size} bytes")


def _timed_out(error: Exception) -> bool:
    return "TimedOut" in str(error)


def _ours(error: Exception, action: str, url: str) -> Exception:
    """An error of obstore's in our words and kind. Its messages go on for pages; its text is all that tells kinds."""
    if isinstance(error, FileNotFoundError):
        return StoreError(f"cannot {action} {url}: it does not exist")
    text = str(error)
    first = _WHERE.sub("", text.partition("\n\nDebug source")[0].strip().splitlines()[0])
    reason = _REASON.search(text)
    said = f"{first[:300]} ({next(filter(None, reason.groups()))})" if reason else first[:300]
    status = _STATUS.search(text)
    if type(error).__name__ != "GenericError":
        kind = StoreError
    elif status:
        kind = TransientError if is_busy(int(status[1])) else StoreError
    else:
        kind = StoreError if any(word in text for word in _HOPELESS) else TransientError
    return kind(f"cannot {action} {url}: {said}")
