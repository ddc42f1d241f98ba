"""Files of a store read side by side: one after another, each would wait for the store's answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

_THREADS = 16


def read_all(places: Sequence[str], read: Callable[[str], bytes]) -> list[Future[bytes]]:
    """What `read` gives for each, or raises; all of it is here, or has failed, on return."""
    with ThreadPoolExecutor(min(_THREADS, max(1, len(places)))) as pool:
        return [pool.submit(read, place) for place in places]
