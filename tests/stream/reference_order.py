"""The order as it was first written: an epoch laid out whole. What the library makes piece by piece must equal it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmshards.stream.order.deal import Deal, Leg

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """What one worker of one rank reads and makes in an epoch.

    Its rows have positions 0 .. P-1. Fetch f brings positions `start[f] : start[f] + count[f]`, which are the rows
    `row[position]` of chunk `chunk[f]`. Before making its i-th batch a worker has done the first `need[i]` fetches.
    """

    batches: Ints
    """[S] batch numbers, ascending."""
    emit: Ints
    """[S, b] positions of each batch's rows, in lane order."""
    need: Ints
    """[S] fetches to have done before each batch."""
    chunk: Ints
    """[F] chunk of each fetch."""
    start: Ints
    """[F] first position of each fetch."""
    count: Ints
    """[F] rows of each fetch."""
    row: NDArray[np.int32]
    """[P] row inside its chunk of each position."""
    valid: NDArray[np.bool_] | None
    """[S, b], False where a row only fills up the last batch of an evaluation; None: all are valid."""

    def rows(self) -> tuple[Ints, Ints]:
        """(chunk, row) of every batch's rows, both [S, b]."""
        chunk = np.empty(len(self.row), np.int64)
        chunk[_ranges(self.start, self.count)] = np.repeat(self.chunk, self.count)
        return chunk[self.emit], self.row[self.emit].astype(np.int64)


def chunk_order(chunks: int, seed: int, epoch: int) -> Ints:
    """The epoch's permutation of the set's chunks."""
    return np.argsort(raw(chunks, "chunks", seed, epoch), kind="stable")


def combinations(chunks: int, count: int, seed: int, epoch: int) -> Ints:
    """[chunks] which of `count` (reference, view) combinations each chunk shows in this epoch.

    Drawn without replacement: in each block of `count` epochs a chunk shows each combination once, in an order
    drawn from (seed, block, chunk).
    """
    keys = raw(chunks * count, "combinations", seed, epoch // count).reshape(chunks, count)
    return np.argsort(keys, axis=1, kind="stable")[:, epoch % count]


def training(
    deal: Deal,
    sizes: Ints,
    seed: int,
    epoch: int,
    rank: int = 0,
    ranks: int = 1,
    worker: int = 0,
    workers: int = 1,
    start: int = 0,
) -> Schedule:
    """The batches `start + worker`, `start + worker + workers`, ... as worker `worker` of rank `rank` makes them.

    `sizes` [chunks] are the chunks' lengths and sum to N. `ranks` divide K and `workers` divide G.
    """
    permuted = chunk_order(len(sizes), seed, epoch)
    bounds = np.concatenate([[0], np.cumsum(sizes[permuted])])
    share = deal.batch // deal.lanes
    own = deal.lanes // ranks
    cuts: list[_Lane] = []
    batches: list[Ints] = []
    emits: list[Ints] = []
    base = 0
    for group in range((start + worker) % workers, deal.groups, workers):
        total = deal.group_batches(group)
        skip = min(total, max(0, -((group - start) // deal.groups)))
        if skip == total:
            continue
        numbers = group + np.arange(skip, total) * deal.groups
        steps = (numbers - start - worker) // workers
        before = sum(deal.group_batches(g) for g in range(group)) * deal.batch
        columns = []
        for k in range(rank * own, (rank + 1) * own):
            length = total * share
            first = before + k * length
            order = _window_order(length, deal, seed, epoch, group * deal.lanes + k)
            lane = _lane(order, skip, share, first, permuted, bounds, steps, base)
            base += len(lane.row)
            cuts.append(lane)
            columns.append(lane.emit)
        batches.append(numbers)
        emits.append(np.concatenate(columns, axis=1))
    if not batches:
        return _nothing(deal.batch // ranks)
    numbers = np.concatenate(batches)
    turn = np.argsort(numbers, kind="stable")
    step = np.concatenate([lane.step for lane in cuts])
    queue = np.argsort(step, kind="stable")
    return Schedule(
        batches=numbers[turn],
        emit=np.concatenate(emits)[turn],
        need=np.searchsorted(step[queue], np.arange(len(numbers)), side="right"),
        chunk=np.concatenate([lane.chunk for lane in cuts])[queue],
        start=np.concatenate([lane.start for lane in cuts])[queue],
        count=np.concatenate([lane.count for lane in cuts])[queue],
        row=np.concatenate([lane.row for lane in cuts]),
        valid=None,
    )


def legs_laid_out(legs: Sequence[Leg], sizes: Ints, seed: int, epoch: int) -> list[list[int]]:
    """The samples of the batches that are left of the last leg: every leg of the epoch dealt whole, a list of samples
    from which those of its first batches are struck out."""
    first = np.cumsum(sizes) - sizes
    rows = [int(first[c]) + i for c in chunk_order(len(sizes), seed, epoch) for i in range(sizes[c])]
    batches: list[list[int]] = []
    for index, leg in enumerate(legs):
        deal, names = leg.deal, ("lane", seed, epoch, index) if index else ("lane", seed, epoch)
        share, at = deal.batch // deal.lanes, 0
        batches = [[] for _ in range(deal.batches)]
        for group in range(deal.groups):
            for lane in range(deal.lanes):
                own = rows[at : at + deal.group_batches(group) * share]
                at += len(own)
                uniform = (raw(len(own), *names, group * deal.lanes + lane) >> np.uint64(11)) * 2.0**-53
                turn = np.argsort(np.arange(len(own)) + uniform * (deal.window * deal.chunk), kind="stable")
                for number, t in enumerate(range(group, deal.batches, deal.groups)):
                    batches[t] += [own[i] for i in turn[number * share : (number + 1) * share]]
        struck = {sample for batch in batches[: leg.done] for sample in batch}
        rows = [sample for sample in rows if sample not in struck]
    return batches[legs[-1].done :]


def evaluation(
    sizes: Ints, batch: int, rank: int = 0, ranks: int = 1, worker: int = 0, workers: int = 1, start: int = 0
) -> Schedule:
    """Stored order: T = ceil(N / B) batches, rank r taking the r-th part of each. The last batch is filled up with
    the set's last row, `valid` False there."""
    samples = int(sizes.sum())
    width = batch // ranks
    numbers = np.arange(start + worker, -(-samples // batch), workers)
    if not len(numbers):
        return _nothing(width)
    index = (numbers[:, None] * batch + rank * width + np.arange(width)).reshape(-1)
    valid = (index < samples).reshape(len(numbers), width)
    index = np.minimum(index, samples - 1)
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    chunk = np.searchsorted(bounds, index, side="right") - 1
    first = np.flatnonzero(np.concatenate([[True], chunk[1:] != chunk[:-1]]))
    return Schedule(
        batches=numbers,
        emit=np.arange(len(index)).reshape(len(numbers), width),
        need=np.searchsorted(first // width, np.arange(len(numbers)), side="right"),
        chunk=chunk[first],
        start=first,
        count=np.diff(np.concatenate([first, [len(index)]])),
        row=(index - bounds[chunk]).astype(np.int32),
        valid=valid,
    )


@dataclass(frozen=True)
class _Lane:
    emit: Ints
    step: Ints
    chunk: Ints
    start: Ints
    count: Ints
    row: NDArray[np.int32]


def _window_order(length: int, deal: Deal, seed: int, epoch: int, lane: int) -> Ints:
    uniform = (raw(length, "lane", seed, epoch, lane) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.argsort(np.arange(length) + uniform * (deal.window * deal.chunk), kind="stable")


def _lane(
    order: Ints, skip: int, share: int, first: int, permuted: Ints, bounds: Ints, steps: Ints, base: int
) -> _Lane:
    """One lane's rows, those of its group's first `skip` batches left out; positions count from `base`."""
    length = len(order)
    kept = np.zeros(length, bool)
    kept[order[skip * share :]] = True
    position = np.cumsum(kept) - 1 + base
    lo = int(np.searchsorted(bounds, first, side="right")) - 1
    hi = int(np.searchsorted(bounds, first + length, side="left"))
    edges = np.clip(bounds[lo : hi + 1] - first, 0, length)
    piece = np.repeat(np.arange(hi - lo), np.diff(edges))
    count = np.bincount(piece[kept], minlength=hi - lo)
    emit = order[skip * share :].reshape(len(steps), share)
    # A chunk is fetched for the first batch that shows a row of it or of a later one: chunks come in lane order.
    reached = np.maximum.accumulate(piece[emit].max(axis=1))
    used = np.flatnonzero(count)
    row = np.arange(length) + first - bounds[lo + piece]
    return _Lane(
        emit=position[emit],
        step=steps[np.searchsorted(reached, used, side="left")],
        chunk=permuted[lo + used],
        start=base + np.concatenate([[0], np.cumsum(count[used])[:-1]]),
        count=count[used],
        row=row[kept].astype(np.int32),
    )


def _nothing(width: int) -> Schedule:
    none = np.empty(0, np.int64)
    return Schedule(none, np.empty((0, width), np.int64), none, none, none, none, np.empty(0, np.int32), None)


def _ranges(start: Ints, count: Ints) -> Ints:
    """start[0] .. start[0]+count[0]-1, start[1] .. , end to end."""
    ends = np.cumsum(count)
    ranges: Ints = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(start - (ends - count), count)
    return ranges


def raw(count: int, *words: object, before: int = 0) -> NDArray[np.uint64]:
    """The numbers that `words` name, `count` of them after the first 4 * `before`."""
    digest = hashlib.blake2b("|".join(map(str, words)).encode(), digest_size=16).digest()
    generator = np.random.Philox(key=np.frombuffer(digest, "<u8"), counter=before)
    return np.asarray(generator.random_raw(count), np.uint64)
