"""How the bytes of a set are come by while it is read: through which cache, with how much patience."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from fmshards.errors import InputError
from fmshards.store.api import backend, wrap
from fmshards.store.backend import Backend, Passing
from fmshards.store.cache import Cached
from fmshards.store.objects import Objects
from fmshards.store.remote import REMOTE
from fmshards.store.retry import PATIENCE, STALL, Retrying
from fmshards.store.url import is_local, local_path
from fmshards.tally import counted
from fmshards.units import parse_bytes


@dataclass(frozen=True)
class Access:
    """Plain data that travels to workers; each process makes its own backend of it.

    cache: a folder on a local disk that keeps what was read, for all processes of the machine; None for none.
    cache_limit: bytes that it may take. patience: seconds without a byte after which a store is given up; after a
    quarter of it, 30 s at most, a request is made again. Local files are neither asked again nor timed.
    """

    cache: str | None = None
    cache_limit: int = 50 * 10**9
    patience: float = PATIENCE

    def backend(self, url: str) -> Backend:
        """A backend for what is at and below `url`, which must stay the same as long as the backend lives."""
        if is_local(url):
            found = backend(url)
        else:
            found = Retrying(wrap(Objects(REMOTE, min(STALL, self.patience / 4))), self.patience)
        return Tallied(found if self.cache is None else Cached(found, self.cache, self.cache_limit))


class Tallied(Passing):
    """Another backend, of which reads are counted for whoever keeps a tally."""

    @counted
    def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        return self._inner.read(url, start, length)

    @counted
    def refresh(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        return self._inner.refresh(url, start, length)


def access_of(cache: object, cache_limit: object, patience: object) -> Access:
    """An Access of what people give: a folder, which is made, or None; bytes (or "50gb") or None; seconds or None.

    Raises InputError, also where the folder cannot be made.
    """
    if cache is not None and not (isinstance(cache, (str, os.PathLike)) and os.fspath(cache)):
        raise InputError(f"cache: expected a folder on a local disk, or None, found {cache!r}"[:200])
    folder = None if cache is None else os.fsdecode(cache)
    if folder is not None and not is_local(folder):
        raise InputError(f"cache={folder}: expected a folder on a local disk, found a URL")
    if cache_limit is not None and folder is None:
        raise InputError("cache_limit is given without a cache: give cache, the folder to keep ranges in, too")
    seconds = PATIENCE if patience is None else patience
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise InputError(f"patience is a number of seconds above 0, found {patience!r}"[:200])
    if folder is not None:
        try:
            os.makedirs(local_path(folder), exist_ok=True)
        except OSError as error:
            raise InputError(f"cache={folder}: it cannot be used: {error.strerror or error}") from None
    limit = Access.cache_limit if cache_limit is None else parse_bytes(cache_limit, "cache_limit")
    return Access(None if folder is None else os.path.abspath(local_path(folder)), limit, float(seconds))
