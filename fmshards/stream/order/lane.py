"""One lane: its rows sorted by position + U(0, span), drawn and sorted a little ahead of their turn.

Row p has the key p + u * span, u in [0, 1) being the p-th of the lane's random numbers; ties go by position. All rows
up to p - span come before row p, and all from p + span on after it. So of the first m rows to be shown are all at
positions up to m - span and none at those from m + span - 1 on: which of those in between are is found by sorting these
alone, with random numbers that begin there. Beginning a lane in its middle takes as long as at its start.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmshards.stream.order.deal import Deal, LaneCut
from fmshards.stream.order.draws import AT_ONCE, generator
from fmshards.stream.order.runs import Ints, Runs


@dataclass(frozen=True)
class Piece:
    """Rows of one lane out of one chunk, to be fetched before step `step` of a stretch."""

    step: int
    chunk: int
    row: NDArray[np.int32]
    place: Ints


def sure_of(deal: Deal, cut: LaneCut) -> int:
    """The lane's first positions, all of which are shown."""
    return max(0, cut.shown - deal.span + 1) if cut.shown else 0


def left_of(deal: Deal, cut: LaneCut, words: tuple[object, ...]) -> tuple[Ints, int]:
    """(rows, drawn): of the lane's rows before `drawn` those that are not shown, ascending. All from there on are not.

    words: what names the deal's lanes; see Lane.
    """
    lane = _Drawn(deal, cut, words)
    return np.sort(lane.rows), lane.drawn


class Lane:
    """One lane's rows, from the first that is not shown on, in the order in which they are shown."""

    def __init__(
        self, deal: Deal, cut: LaneCut, words: tuple[object, ...], runs: Runs, begin: tuple[int, int], base: int
    ) -> None:
        """`words` and the lane's number name its random numbers. `begin`: the run of the lane's position
        `sure_of(deal, cut)` and the row of it that is there. Places are from `base` on."""
        self._share, self._places, self._base = deal.share, deal.lane_places, base
        self._drawn = _Drawn(deal, cut, words)
        self._length, self._runs = cut.length, runs
        self._left: Ints | None = np.sort(self._drawn.rows) if cut.shown else None
        self._left_until = self._drawn.drawn
        # What is fetched next: its run, its first row of that, its position in the lane.
        self._run, self._row = begin
        self._position = sure_of(deal, cut)
        self._reached = -1

    def take(self, steps: Ints) -> tuple[Ints, list[Piece]]:
        """Places [len(steps), share] of the rows of the lane's next batches, and the pieces to be fetched for them.

        A piece is fetched for the first batch that shows a row of it or of a later one: they come in lane order.
        """
        rows = self._drawn.take(len(steps) * self._share).reshape(len(steps), self._share)
        reached = np.maximum.accumulate(np.maximum(rows.max(axis=1), self._reached))
        self._reached = int(reached[-1])
        pieces = []
        while self._position <= self._reached:
            first, chunk = self._position, int(self._runs.chunk[self._run])
            kept, row = self._next_chunk()
            if len(kept):
                step = int(steps[np.searchsorted(reached, first, side="left")])
                pieces.append(Piece(step, chunk, row.astype(np.int32), self._place(kept)))
        return self._place(rows), pieces

    def _next_chunk(self) -> tuple[Ints, Ints]:
        """The next chunk's rows that are shown at all: their positions, and which rows of the chunk they are."""
        runs, chunk = self._runs, self._runs.chunk[self._run]
        kept, rows = [], []
        while self._position < self._length and self._run < len(runs.chunk) and runs.chunk[self._run] == chunk:
            count = min(int(runs.count[self._run]) - self._row, self._length - self._position)
            kept.append(self._kept(self._position, self._position + count))
            rows.append(kept[-1] + (int(runs.first[self._run]) + self._row - self._position))
            self._run, self._row, self._position = self._run + 1, 0, self._position + count
        return (kept[0], rows[0]) if len(kept) == 1 else (np.concatenate(kept), np.concatenate(rows))

    def _place(self, rows: Ints) -> Ints:
        return self._base + rows % self._places

    def _kept(self, first: int, after: int) -> Ints:
        """The rows of the lane from `first` to `after` that are shown at all."""
        if self._left is None or first >= self._left_until:
            self._left = None
            return np.arange(first, after)
        low, high = np.searchsorted(self._left, (first, after))
        return np.concatenate([self._left[low:high], np.arange(max(first, self._left_until), after)])


class _Drawn:
    """The rows of a lane that are drawn and not yet shown, sorted."""

    def __init__(self, deal: Deal, cut: LaneCut, words: tuple[object, ...]) -> None:
        self._span, self._length = deal.span, cut.length
        self.drawn = sure_of(deal, cut)
        self.rows = np.empty(0, np.int64)
        self._keys = np.empty(0, np.float64)
        self._sure = 0  # of these, how many come before all that are not drawn yet
        self._random = generator(*words, cut.number, before=self.drawn // AT_ONCE)
        self._random.random_raw(self.drawn % AT_ONCE)
        if cut.shown:
            shown = cut.shown - self.drawn
            self._draw(min(cut.shown + self._span - 1, self._length) - self.drawn)
            self.take(shown)

    def take(self, count: int) -> Ints:
        """The next `count` rows to be shown."""
        while self._sure < count:
            self._draw(max(count - self._sure, self._span // 2))
        rows, self.rows, self._keys = self.rows[:count], self.rows[count:], self._keys[count:]
        self._sure -= count
        return rows

    def _draw(self, count: int) -> None:
        count = min(count, self._length - self.drawn)
        rows = np.arange(self.drawn, self.drawn + count)
        uniform = (self._random.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        keys = np.concatenate([self._keys, rows + uniform * self._span])
        # What is left is sorted and comes from before: a stable sort of both is that of the whole lane.
        turn = np.argsort(keys, kind="stable")
        self._keys, self.rows = keys[turn], np.concatenate([self.rows, rows])[turn]
        self.drawn += count
        done = self.drawn == self._length
        self._sure = len(turn) if done else int(np.searchsorted(self._keys, self.drawn, side="left"))
