"""Rows in parts: over threads, as rows do not depend on each other and kernels release the GIL, and in slabs."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

_LEAST = 1 << 16  # values a thread, under which it costs more than it gives: about 0.1 ms of work

_SLAB_VALUES = 1 << 19  # 2 MB of float32: large enough that a call costs nothing, small enough to stay in a cache

_pool: tuple[int, int, ThreadPoolExecutor] | None = None


def over_rows(work: Callable[[int, int], None], n: int, values: int) -> None:
    """`work(first, last)` over ranges that cover n rows of `values` values each, side by side where that pays.

    As many threads as torch would use here: one in a worker of a DataLoader, the cores elsewhere; this thread is one
    of them. Raises what `work` raises, of the first rows first, once all have ended.
    """
    import torch

    threads = min(torch.get_num_threads(), n, n * values // _LEAST)
    if threads <= 1:
        if n:
            work(0, n)
        return
    bounds = [i * n // threads for i in range(threads + 1)]
    pool = _threads(threads - 1)
    others = [pool.submit(work, bounds[i], bounds[i + 1]) for i in range(1, threads)]
    try:
        work(bounds[0], bounds[1])
    finally:
        wait(others)
    for other in others:
        other.result()


def slabs(n: int, values: int) -> list[tuple[int, int]]:
    """Ranges of whole samples, of about 2 MB of float32 each, that cover n samples."""
    step = max(1, _SLAB_VALUES // values)
    return [(a, min(a + step, n)) for a in range(0, n, step)]


def _threads(count: int) -> ThreadPoolExecutor:
    """A pool of at least `count` threads, kept; a forked process has none of its parent's threads and makes its own."""
    global _pool
    if _pool is None or _pool[0] != os.getpid() or _pool[1] < count:
        _pool = os.getpid(), count, ThreadPoolExecutor(count, thread_name_prefix="fmshards-codec")
    return _pool[2]
