"""Runs: the rows that are dealt, end to end, as stretches of chunks. Lanes are cut from them at positions.

At an epoch's beginning they are its chunks, permuted and whole. What a deal has left is the same runs without the rows
that were shown. So a chunk's rows stay side by side, in the chunk's order, however often an epoch is dealt anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmshards.stream.order.draws import generator

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """Run r is the rows `first[r]` to `first[r] + count[r]` of chunk `chunk[r]`; its first row's position is the sum of
    the counts before it."""

    chunk: NDArray[np.int32]
    """[runs]"""
    first: NDArray[np.int32]
    """[runs]"""
    count: NDArray[np.int32]
    """[runs], each 1 or more."""

    def find(self, positions: Ints) -> list[tuple[int, int]]:
        """(run, row of that run) at each of some positions; behind the last one, of the last run."""
        ends = np.cumsum(self.count, dtype=np.int64)
        run = np.minimum(np.searchsorted(ends, positions, side="right"), len(ends) - 1)
        rows = positions - (ends[run] - self.count[run])
        return list(zip(run.tolist(), rows.tolist(), strict=True))

    def only(self, starts: Ints, stops: Ints) -> Runs:
        """The rows at the positions from starts[i] to stops[i], intervals that ascend, apart, and are not empty."""
        if not len(starts):
            return Runs(self.chunk[:0], self.first[:0], self.count[:0])
        begins = np.cumsum(self.count, dtype=np.int64) - self.count
        interval = np.searchsorted(starts, begins, side="right") - 1
        inside = (interval >= 0) & (begins < stops[interval]) & (begins > starts[interval])
        del interval
        at = np.concatenate([starts, begins[inside]])
        at.sort()
        run = np.searchsorted(begins, at, side="right") - 1
        row = (at - begins[run]).astype(np.int32)
        stop = stops[np.searchsorted(starts, at, side="right") - 1]
        count = np.minimum(stop - at, self.count[run] - row).astype(np.int32)
        return Runs(self.chunk[run], self.first[run] + row, count)


def whole_epoch(sizes: NDArray[np.integer], seed: int, epoch: int) -> Runs:
    """The epoch's chunks, of `sizes` [chunks] rows, permuted."""
    chunk = chunk_order(len(sizes), seed, epoch).astype(np.int32)
    count = sizes[chunk].astype(np.int32, copy=False)
    return Runs(chunk, np.broadcast_to(np.int32(0), chunk.shape), count)


def chunk_order(chunks: int, seed: int, epoch: int) -> Ints:
    """The epoch's permutation of the set's chunks."""
    return np.argsort(generator("chunks", seed, epoch).random_raw(chunks), kind="stable")
