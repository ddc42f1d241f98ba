"""Which rows make which batch: an epoch's legs laid out a stretch at a time, and an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmshards.stream.order.deal import Leg
from fmshards.stream.order.draws import AT_ONCE, generator
from fmshards.stream.order.lane import Lane, Piece, left_of, sure_of
from fmshards.stream.order.runs import Ints, Runs, whole_epoch

_TOGETHER = 256
"""Chunks whose combinations are drawn together."""


@dataclass(frozen=True)
class Part:
    """Whose batches: those of one worker of one rank; of the main process, where there are no workers."""

    rank: int = 0
    ranks: int = 1
    worker: int = 0
    workers: int = 1


ALL = Part()


@dataclass(frozen=True)
class Stretch:
    """Consecutive batches of one worker of one rank, and the fetches that they need beyond those before them.

    Every row has a place from its fetch to its batch, a number that is another row's afterwards. Fetch f brings the
    rows `row[start[f] : start[f] + count[f]]` of chunk `chunk[f]` to as many `place`s. Before batch i of the stretch
    the first `need[i]` of its fetches are done; what is left of them is done at its end.
    """

    batches: Ints
    """[S] batch numbers, ascending, and on from stretch to stretch."""
    emit: Ints
    """[S, b] places of each batch's rows, in lane order."""
    need: Ints
    """[S] fetches to have done before each batch."""
    chunk: Ints
    """[F] chunk of each fetch."""
    start: Ints
    """[F] where in `row` and `place` each fetch begins."""
    count: Ints
    """[F] rows of each fetch."""
    row: NDArray[np.int32]
    """[P] rows in their chunks."""
    place: Ints
    """[P] their places."""
    valid: NDArray[np.bool_] | None = None
    """[S, b], False where a row only fills up the last batch of an evaluation; None: all are valid."""


class Combinations:
    """Which of `count` (reference, view) combinations each chunk shows in an epoch.

    Drawn without replacement: in each block of `count` epochs a chunk shows each combination once, in an order drawn
    from (seed, block, chunk). Chunks are drawn _TOGETHER at a time, when the first of them is asked for.
    Two bytes each.
    """

    def __init__(self, count: int, seed: int, epoch: int) -> None:
        self._count, self._seed, self._epoch = count, seed, epoch
        self._drawn: dict[int, NDArray[np.uint16]] = {}

    def of(self, chunk: int) -> int:
        """The number of the combination, below `count`, that a chunk shows."""
        if self._count == 1:
            return 0
        part, at = divmod(chunk, _TOGETHER)
        if part not in self._drawn:
            numbers = _TOGETHER * self._count
            random = generator("combinations", self._seed, self._epoch // self._count, before=part * numbers // AT_ONCE)
            turns = np.argsort(random.random_raw(numbers).reshape(_TOGETHER, self._count), axis=1, kind="stable")
            self._drawn[part] = turns[:, self._epoch % self._count].astype(np.uint16)
        return int(self._drawn[part][at])


def training(
    legs: Sequence[Leg], sizes: NDArray[np.integer], seed: int, epoch: int, part: Part = ALL
) -> Iterator[Stretch]:
    """The batches of an epoch's last leg that are not done, as `part` makes them: with t done, worker w makes the
    batches t + w, t + w + W, ... of that leg's deal.

    `sizes` [chunks] are the chunks' lengths and sum to N of the first leg. The ranks divide the last deal's K, the
    workers its G. Places are below its `lane_places` times the worker's lanes.
    """
    if legs[-1].done >= legs[-1].deal.batches:
        return
    runs = whole_epoch(sizes, seed, epoch)
    for index, leg in enumerate(legs[:-1]):
        runs = left_over(runs, leg, _lanes(seed, epoch, index))
    deal, start = legs[-1].deal, legs[-1].done
    own = deal.lanes // part.ranks
    groups = range((start + part.worker) % part.workers, deal.groups, part.workers)
    own_lanes = range(part.rank * own, (part.rank + 1) * own)
    cuts = [deal.lane(group * deal.lanes + k, start) for group in groups for k in own_lanes]
    begins = runs.find(np.array([cut.first + sure_of(deal, cut) for cut in cuts], np.int64))
    words = _lanes(seed, epoch, len(legs) - 1)
    lanes = [
        Lane(deal, cut, words, runs, begin, at * deal.lane_places)
        for at, (cut, begin) in enumerate(zip(cuts, begins, strict=True))
    ]
    first = start + part.worker
    while first < deal.batches:
        numbers = np.arange(first, min(deal.batches, first + deal.stretch * deal.groups), part.workers)
        emit = np.empty((len(numbers), own * deal.share), np.int64)
        pieces: list[Piece] = []
        for at, group in enumerate(groups):
            steps = np.flatnonzero(numbers % deal.groups == group)
            if not len(steps):
                continue
            for k, lane in enumerate(lanes[at * own : (at + 1) * own]):
                emit[steps, k * deal.share : (k + 1) * deal.share], found = lane.take(steps)
                pieces += found
        pieces.sort(key=lambda piece: piece.step)
        yield _stretch(numbers, emit, pieces)
        first = int(numbers[-1]) + part.workers


def left_over(runs: Runs, leg: Leg, words: tuple[object, ...]) -> Runs:
    """What a leg leaves of the runs that it deals: all rows but those of its `done` batches, in their order.

    words: what names the leg's lanes.
    """
    deal = leg.deal
    starts, stops = [], []
    for number in range(deal.groups * deal.lanes):
        cut = deal.lane(number, leg.done)
        rows, drawn = left_of(deal, cut, words)
        edge = np.flatnonzero(np.diff(rows) > 1) + 1
        starts.append(cut.first + np.concatenate([rows[:1], rows[edge], [drawn]]))
        stops.append(cut.first + np.concatenate([rows[edge - 1] + 1, rows[-1:] + 1, [cut.length]]))
    # The rows that no lane has come last.
    starts.append(np.array([deal.batches * deal.batch]))
    stops.append(np.array([deal.samples]))
    start, stop = np.concatenate(starts), np.concatenate(stops)
    return runs.only(start[start < stop], stop[start < stop])


def evaluation(sizes: NDArray[np.integer], batch: int, part: Part = ALL, done: int = 0) -> Iterator[Stretch]:
    """Stored order from sample `done` on: T = ceil((N - done) / B) batches, rank r taking the r-th part of each, worker
    w the batches w, w + W, ...

    Of one rank the last batch has the rows that are left. Of several it is filled up with the set's last row, `valid`
    False there, so that every rank has as many batches of one size. Places are below `evaluation_places`.
    """
    rank, ranks, worker, workers = part.rank, part.ranks, part.worker, part.workers
    ends = np.cumsum(sizes, dtype=np.int64) - done  # samples are counted from there on
    samples, width = int(ends[-1]), batch // ranks
    total = -(-samples // batch)
    places = evaluation_places(int(sizes.max()), width)
    stop = samples if ranks == 1 else total * batch
    fetched = shown = 0  # rows of this worker fetched, batches made

    def batch_of(position: int) -> int:
        return worker + position // width * workers

    while batch_of(fetched) < total:
        index = batch_of(fetched) * batch + rank * width + fetched % width
        if index >= stop:
            break
        chunk = int(np.searchsorted(ends, min(index, samples - 1), side="right"))
        first = int(ends[chunk]) - int(sizes[chunk])
        after = stop if chunk == len(ends) - 1 else int(ends[chunk])
        own = np.arange(index, after)
        number = own // batch
        own = own[(number % workers == worker) & (own % batch // width == rank)]
        place = (fetched + np.arange(len(own))) % places
        fetched += len(own)
        last = batch_of(fetched) * batch + rank * width + fetched % width >= stop or batch_of(fetched) >= total
        full = fetched // width - shown
        rows = np.minimum(own, samples - 1) - first
        numbers = worker + (shown + np.arange(full)) * workers
        emit = (shown * width + np.arange(full * width)).reshape(full, width) % places
        indices = numbers[:, None] * batch + rank * width + np.arange(width)
        valid = None if ranks == 1 else indices < samples
        need = np.ones(full, np.int64)
        yield Stretch(
            numbers,
            emit,
            need,
            np.array([chunk]),
            np.array([0]),
            np.array([len(own)]),
            rows.astype(np.int32),
            place,
            valid,
        )
        shown += full
        if last and fetched % width:
            none = np.empty(0, np.int64)
            tail = (shown * width + np.arange(fetched % width)) % places
            yield Stretch(
                np.array([batch_of(fetched)]), tail[None], np.array([0]), none, none, none, none.astype(np.int32), none
            )
            break


def evaluation_places(chunk: int, width: int) -> int:
    """Places that an evaluation's rows have at most: a batch that is not full yet, a chunk, and what fills up."""
    return 2 * width + chunk


def _lanes(seed: int, epoch: int, index: int) -> tuple[object, ...]:
    """What names the random numbers of the lanes of an epoch's leg number `index`."""
    return ("lane", seed, epoch, index) if index else ("lane", seed, epoch)


def _stretch(numbers: Ints, emit: Ints, pieces: list[Piece]) -> Stretch:
    steps = np.array([piece.step for piece in pieces], np.int64)
    count = np.array([len(piece.row) for piece in pieces], np.int64)
    none = np.empty(0, np.int64)
    return Stretch(
        batches=numbers,
        emit=emit,
        need=np.searchsorted(steps, np.arange(len(numbers)), side="right"),
        chunk=np.array([piece.chunk for piece in pieces], np.int64),
        start=np.cumsum(count) - count,
        count=count,
        row=np.concatenate([none.astype(np.int32), *(piece.row for piece in pieces)]),
        place=np.concatenate([none, *(piece.place for piece in pieces)]),
    )
