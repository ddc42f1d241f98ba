"""Where a stream's time goes: counters by stage, of all workers, in shared memory.

They are made with the data set, so that workers have them however they are started. Each worker has a slot of its own
and is the only one to write there, so nothing is locked; whoever asks adds the slots up. A worker is in one stage at a
time: `Watch.mark` books the time since the last mark to the stage that ends there. Its other threads fetch meanwhile;
what they count comes with each chunk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import get_spawning_popen
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from fmshards import tally
from fmshards.reader import PLAIN, Catalog, Combination, Fetched, Fetcher
from fmshards.stream.decode import FeatureDecoder
from fmshards.units import bytes_text, time_text

T = TypeVar("T")

STAGES = {
    "store_s": "waiting for a chunk from the store",
    "window_s": "laying out the order; rows into the window and out of it",
    "decode_s": "decoding",
    "augment_s": "augmenting",
    "consumer_s": "waiting for whoever takes batches, and handing them over",
}
"""What a worker does, one at a time: seconds, added up over workers."""

COUNTED = {
    "batches": "batches made",
    "samples": "their samples",
    "chunks": "chunks fetched",
    **tally.FETCHED,
    **STAGES,
    "loader_s": "seconds that the training loop waited for batches, over its iterations",
    "loop_s": "seconds that the training loop took for itself between batches",
}
"""Everything that `stats` tells, all of it from 0 on since the data set was made."""

_AT = {name: place for place, name in enumerate(COUNTED)}
_SLOTS = 256
"""Workers with counters of their own; of more, some share one, and counts may be lost."""
_SLOW = 5.0
"""Seconds after which the log says that a first chunk is waited for."""

_log = logging.getLogger("fmshards")


class Counters:
    """The counters of a data set, shared by its workers and the process that made it."""

    def __init__(self) -> None:
        self._shared: Any = _array()

    def total(self) -> dict[str, float]:
        """Every counter's sum over the slots; whole numbers as int."""
        sums = dict(zip(_AT, self._slots().sum(axis=0).tolist(), strict=True))
        return {name: value if name.endswith("_s") else round(value) for name, value in sums.items()}

    def watch(self) -> Watch:
        """A watch for this worker, or for the main process where it makes batches itself."""
        info = get_worker_info()
        return Watch(self._slots()[0 if info is None else 1 + info.id % (_SLOTS - 1)])

    def _slots(self) -> NDArray[np.float64]:
        return np.frombuffer(self._shared, np.float64).reshape(_SLOTS, len(_AT))

    def __getstate__(self) -> dict[str, Any]:
        """Shared with a process that is being started; from 0 on everywhere else."""
        return {"shared": self._shared} if get_spawning_popen() is not None else {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._shared = state["shared"] if "shared" in state else _array()


def _array() -> Any:
    # A spawn context's array is there in forked children too; the reverse does not hold.
    return get_context("spawn").RawArray("d", _SLOTS * len(_AT))


class Watch:
    """One worker's slot, and when its present stage began."""

    def __init__(self, slot: NDArray[np.float64]) -> None:
        self._slot = slot
        self._last = time.perf_counter()

    def add(self, name: str, amount: float) -> None:
        """Add to a counter."""
        self._slot[_AT[name]] += amount

    def mark(self, stage: str) -> None:
        """What went on since the last mark was this stage."""
        now = time.perf_counter()
        self._slot[_AT[stage]] += now - self._last
        self._last = now

    def decoded(self, decoder: TimedDecoder) -> None:
        """What went on since the last mark was this decoder's work, decoding and the rest of it augmenting."""
        spent = decoder.spent()
        self._slot[_AT["decode_s"]] += spent
        self._slot[_AT["augment_s"]] -= spent
        self.mark("augment_s")

    def during(self, stage: str, before: str, items: Iterator[T]) -> Iterator[T]:
        """`items`, the making of each being this stage, within one that is called `before`."""
        while True:
            self.mark(before)
            item = next(items, None)
            self.mark(stage)
            if item is None:
                return
            yield item


class LoopWatch:
    """How long a training loop waits for batches, and takes itself; and its lines in the log.

    Only whoever iterates in the main process has one: its slot is the main process's.
    """

    def __init__(self, counters: Counters, log_every: int | None) -> None:
        self._counters, self._every = counters, log_every
        self._watch = counters.watch()
        self._batches = 0
        self._before, self._began = counters.total(), time.perf_counter()

    def asked(self) -> None:
        """The loop wants its next batch."""
        if self._batches:
            self._watch.mark("loop_s")

    def got(self) -> None:
        """It has it."""
        self._watch.mark("loader_s")
        self._batches += 1
        if self._every is not None and self._batches % self._every == 0:
            now, total = time.perf_counter(), self._counters.total()
            since = {name: value - self._before[name] for name, value in total.items()}
            _log.info("%s", stats_text(since, now - self._began))
            self._before, self._began = total, now


class TimedDecoder(FeatureDecoder):
    """A FeatureDecoder that knows how long it decoded."""

    _seconds = 0.0

    def spent(self) -> float:
        """Seconds of decoding, on the CPU, since this was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _features(self, codec: Any, rows: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        began = time.perf_counter()
        found = super()._features(codec, rows, dtype)
        self._seconds += time.perf_counter() - began
        return found


class CountedFetcher(Fetcher):
    """A Fetcher whose threads count what they do. `take_in` hands the counts to a watch."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._done: deque[Mapping[str, float]] = deque()

    def fetch(self, chunk: int, shown: Combination = PLAIN) -> Fetched:
        began = time.perf_counter()
        with tally.tallied() as found:
            try:
                return super().fetch(chunk, shown)
            finally:
                found["verify_s"] = time.perf_counter() - began - found.get("fetch_s", 0.0)
                self._done.append(found)

    def take_in(self, watch: Watch) -> None:
        """Count what was fetched meanwhile. Called by the watch's own thread."""
        while self._done:
            for name, amount in self._done.popleft().items():
                watch.add(name, amount)

    @contextmanager
    def told_if_slow(self) -> Iterator[None]:
        """Around the wait for a first chunk: after some seconds the log says what is waited for."""
        timer = threading.Timer(_SLOW, _tell, [self.catalog])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _tell(catalog: Catalog) -> None:
    _log.warning(
        "%s: still waiting for the first chunk, for %.0f s now; the store is slow or cannot be reached",
        catalog.url,
        _SLOW,
    )


def stats_text(stats: Mapping[str, float], seconds: float) -> str:
    """Counters in one line for a log; `seconds`: how long they were counted for."""
    busy = sum(stats[stage] for stage in STAGES) or 1.0
    shares = ", ".join(f"{name.removesuffix('_s')} {100 * stats[name] / busy:.0f}%" for name in STAGES)
    odd = [f"{stats[name]:.0f} {name}" for name in tally.ODD if stats[name]]
    return (
        f"{stats['samples']:.0f} samples in {time_text(seconds)}, {stats['samples'] / seconds:,.0f}/s, "
        f"{bytes_text(stats['bytes'])}; workers: {shares}; " + ", ".join([*odd, f"waited {stats['loader_s']:.1f} s"])
    )
