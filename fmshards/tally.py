"""What happens while bytes are fetched, counted for whoever asks for them, without a lock.

A thread that fetches opens a tally; what runs in that thread below it, in whichever room, adds to it by `count`. Where
nobody counts, nothing is counted. Names and what they mean stand in `FETCHED`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec

P = ParamSpec("P")

ODD = ("retries", "stragglers", "cache_hits", "quarantined")
"""Of FETCHED, what a person is told of where there is any."""

FETCHED = {
    "requests": "reads that were asked of the store",
    "bytes": "bytes that they brought",
    "retries": "requests that failed and were made again",
    "stragglers": "answers that were far later than others, and were asked for again",
    "cache_hits": "requests that the local cache answered",
    "quarantined": "chunks that stayed bad, and were left out",
    "fetch_s": "seconds in requests, of all threads",
    "verify_s": "seconds in checksums, metas and filters, of all threads",
}
"""What a tally may count."""

_here = threading.local()


@contextmanager
def tallied() -> Iterator[dict[str, float]]:
    """Within the block this thread's counts go into the dict that it is given."""
    before = getattr(_here, "found", None)
    found: dict[str, float] = {}
    _here.found = found
    try:
        yield found
    finally:
        _here.found = before


def count(name: str, amount: float = 1) -> None:
    """Add to this thread's tally, if one is open. name: one of FETCHED."""
    found = getattr(_here, "found", None)
    if found is not None:
        found[name] = found.get(name, 0) + amount


def counted(read: Callable[P, bytes]) -> Callable[P, bytes]:
    """A function that reads from a store, as `read` does, and counts the request, its bytes and its seconds."""

    @wraps(read)
    def counting(*arguments: P.args, **options: P.kwargs) -> bytes:
        began = time.perf_counter()
        try:
            data = read(*arguments, **options)
        finally:
            count("requests")
            count("fetch_s", time.perf_counter() - began)
        count("bytes", len(data))
        return data

    return counting
