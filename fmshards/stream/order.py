"""Streaming order: pure functions of (deal, chunk sizes, seed, epoch), with no state but a batch number.

B is the whole job's batch, n the chunk length. T = N // B batches are made; the fewer than B rows left over are
dropped, other ones each epoch. There are G x K lanes: group g makes batches g, g + G, ... and each of its K lanes
gives B / K rows to each of them. The chunks, permuted for the epoch and laid end to end, are cut at the lanes'
lengths. Inside a lane the rows are sorted by position + U(0, M * n): a sliding window of M chunks with no bursts.

Batch t is therefore the same whatever the number of ranks R (R divides K: a rank takes K / R lanes of each group)
and of workers W (W divides G: worker w of a rank makes batches start + w, start + w + W, ...).

An epoch is never laid out whole. No row is further than M * n positions from its turn, so each lane is drawn and
sorted piece by piece as its batches are made; all that grows with the set is the permutation of its chunks.

Randomness is raw Philox output, which numpy keeps stable over versions, and stable argsorts of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_AT_ONCE = 256  # chunks whose combinations are drawn together


@dataclass(frozen=True)
class Deal:
    """How rows are dealt to batches: what, with seed and epoch, fixes every batch of a job."""

    samples: int
    """N, samples of the set."""
    chunk: int
    """n, samples of a chunk."""
    batch: int
    """B, samples of a batch over all ranks."""
    groups: int
    """G, sequences of batches; the workers of a rank divide it."""
    lanes: int
    """K, lanes of a group; divides B, and the ranks divide it."""
    window: int
    """M, chunks over which a lane shuffles its rows."""

    @property
    def batches(self) -> int:
        """T, batches of an epoch, the same for every rank."""
        return self.samples // self.batch

    @property
    def share(self) -> int:
        """B / K, rows that a lane gives to a batch."""
        return self.batch // self.lanes

    @property
    def span(self) -> int:
        """M * n: a row comes at most as many positions from where its lane has it."""
        return self.window * self.chunk

    def group_batches(self, group: int) -> int:
        """Batches that one group makes in an epoch."""
        return max(0, -((group - self.batches) // self.groups))

    @property
    def lane_rows(self) -> int:
        """Rows of the longest lanes."""
        return self.group_batches(0) * self.share

    @property
    def stretch(self) -> int:
        """Batches of a group that are laid out at a time."""
        return max(1, self.span // (2 * self.share))

    @property
    def lane_places(self) -> int:
        """Places that a lane's rows have at most, those that wait and those to come next.

        With q the first row not yet shown, a batch ends before q + 2 * span + share; and a chunk is fetched whole.
        """
        return min(2 * self.span + self.share + self.chunk + 2, self.lane_rows)


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


def chunk_order(chunks: int, seed: int, epoch: int) -> Ints:
    """The epoch's permutation of the set's chunks."""
    return np.argsort(_generator("chunks", seed, epoch).random_raw(chunks), kind="stable")


class Combinations:
    """Which of `count` (reference, view) combinations each chunk shows in an epoch.

    Drawn without replacement: in each block of `count` epochs a chunk shows each combination once, in an order drawn
    from (seed, block, chunk). Chunks are drawn _AT_ONCE at a time, when the first of them is asked for: two bytes each.
    """

    def __init__(self, count: int, seed: int, epoch: int) -> None:
        self._count, self._seed, self._epoch = count, seed, epoch
        self._drawn: dict[int, NDArray[np.uint16]] = {}

    def of(self, chunk: int) -> int:
        """The number of the combination, below `count`, that a chunk shows."""
        if self._count == 1:
            return 0
        part, at = divmod(chunk, _AT_ONCE)
        if part not in self._drawn:
            numbers = _AT_ONCE * self._count
            # Philox makes four numbers at a time, and four divides _AT_ONCE.
            random = _generator("combinations", self._seed, self._epoch // self._count, before=part * numbers // 4)
            turns = np.argsort(random.random_raw(numbers).reshape(_AT_ONCE, self._count), axis=1, kind="stable")
            self._drawn[part] = turns[:, self._epoch % self._count].astype(np.uint16)
        return int(self._drawn[part][at])


def training(
    deal: Deal,
    sizes: NDArray[np.integer],
    seed: int,
    epoch: int,
    rank: int = 0,
    ranks: int = 1,
    worker: int = 0,
    workers: int = 1,
    start: int = 0,
) -> Iterator[Stretch]:
    """The batches `start + worker`, `start + worker + workers`, ... as worker `worker` of rank `rank` makes them.

    `sizes` [chunks] are the chunks' lengths and sum to N. `ranks` divide K and `workers` divide G. Places are below
    `deal.lane_places` times the worker's lanes.
    """
    own = deal.lanes // ranks
    groups = range((start + worker) % workers, deal.groups, workers)
    chunks = chunk_order(len(sizes), seed, epoch).astype(np.int32)
    firsts, lengths, skips, names = [], [], [], []
    for group in groups:
        total = deal.group_batches(group)
        before = sum(map(deal.group_batches, range(group))) * deal.batch
        for k in range(rank * own, (rank + 1) * own):
            lengths.append(total * deal.share)
            firsts.append(before + k * lengths[-1])
            skips.append(min(total, max(0, -((group - start) // deal.groups))) * deal.share)
            names.append(("lane", seed, epoch, group * deal.lanes + k))
    begins = _begins(chunks, sizes, np.array(firsts, np.int64))
    lanes = [
        _Lane(deal, length, skip, chunks, sizes, begin, at * deal.lane_places, name)
        for at, (length, skip, begin, name) in enumerate(zip(lengths, skips, begins, names, strict=True))
    ]
    first = start + worker
    while first < deal.batches:
        numbers = np.arange(first, min(deal.batches, first + deal.stretch * deal.groups), workers)
        emit = np.empty((len(numbers), own * deal.share), np.int64)
        pieces: list[_Piece] = []
        for at, group in enumerate(groups):
            steps = np.flatnonzero(numbers % deal.groups == group)
            if not len(steps):
                continue
            for k, lane in enumerate(lanes[at * own : (at + 1) * own]):
                emit[steps, k * deal.share : (k + 1) * deal.share], found = lane.take(steps)
                pieces += found
        pieces.sort(key=lambda piece: piece.step)
        yield _stretch(numbers, emit, pieces)
        first = int(numbers[-1]) + workers


def evaluation(
    sizes: NDArray[np.integer],
    batch: int,
    rank: int = 0,
    ranks: int = 1,
    worker: int = 0,
    workers: int = 1,
    start: int = 0,
) -> Iterator[Stretch]:
    """Stored order: T = ceil(N / B) batches, rank r taking the r-th part of each.

    Of one rank the last batch has the rows that are left. Of several it is filled up with the set's last row, `valid`
    False there, so that every rank has as many batches of one size. Places are below `evaluation_places`.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    samples, width = int(ends[-1]), batch // ranks
    total = -(-samples // batch)
    places = evaluation_places(int(sizes.max()), width)
    stop = samples if ranks == 1 else total * batch
    done = shown = 0  # rows of this worker fetched, batches made

    def batch_of(position: int) -> int:
        return start + worker + position // width * workers

    while batch_of(done) < total:
        index = batch_of(done) * batch + rank * width + done % width
        if index >= stop:
            break
        chunk = int(np.searchsorted(ends, min(index, samples - 1), side="right"))
        first = int(ends[chunk]) - int(sizes[chunk])
        after = stop if chunk == len(ends) - 1 else int(ends[chunk])
        own = np.arange(index, after)
        number = own // batch
        own = own[((number - start) % workers == worker) & (number >= start) & (own % batch // width == rank)]
        place = (done + np.arange(len(own))) % places
        done += len(own)
        last = batch_of(done) * batch + rank * width + done % width >= stop or batch_of(done) >= total
        full = done // width - shown
        rows = np.minimum(own, samples - 1) - first
        numbers = start + worker + (shown + np.arange(full)) * workers
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
        if last and done % width:
            none = np.empty(0, np.int64)
            tail = (shown * width + np.arange(done % width)) % places
            yield Stretch(
                np.array([batch_of(done)]), tail[None], np.array([0]), none, none, none, none.astype(np.int32), none
            )
            break


def evaluation_places(chunk: int, width: int) -> int:
    """Places that an evaluation's rows have at most: a batch that is not full yet, a chunk, and what fills up."""
    return 2 * width + chunk


@dataclass(frozen=True)
class _Piece:
    """Rows of one lane out of one chunk, to be fetched before step `step` of a stretch."""

    step: int
    chunk: int
    row: NDArray[np.int32]
    place: Ints


class _Lane:
    """One lane's rows, in the order in which they are shown: drawn and sorted a little ahead of their turn."""

    def __init__(
        self,
        deal: Deal,
        length: int,
        skip: int,
        chunks: NDArray[np.int32],
        sizes: NDArray[np.integer],
        begin: tuple[int, int],
        base: int,
        words: tuple[object, ...],
    ) -> None:
        """`length` rows from row `begin[1]` of the epoch's chunk `begin[0]` on, the first `skip` to be shown left
        out; places from `base` on."""
        self._share, self._span, self._places, self._base = deal.share, deal.span, deal.lane_places, base
        self._length, self._chunks, self._sizes = length, chunks, sizes
        self._random = _generator(*words)
        self._keys = np.empty(0, np.float64)
        self._rows = np.empty(0, np.int64)
        self._sure = 0  # of these, how many come before all that are not drawn yet
        self._drawn = 0
        # The piece that is fetched next: its chunk, its first row there, its first position in the lane.
        self._next, self._row, self._position = *begin, 0
        self._reached = -1
        self._left: Ints | None = None
        if skip:
            while skip:
                skip -= len(self._take(min(skip, max(self._span, self._share))))
            self._left = np.sort(self._rows)
            self._left_until = self._drawn

    def take(self, steps: Ints) -> tuple[Ints, list[_Piece]]:
        """Places [len(steps), share] of the rows of the lane's next batches, and the pieces to be fetched for them.

        A piece is fetched for the first batch that shows a row of it or of a later one: they come in lane order.
        """
        rows = self._take(len(steps) * self._share).reshape(len(steps), self._share)
        reached = np.maximum.accumulate(np.maximum(rows.max(axis=1), self._reached))
        self._reached = int(reached[-1])
        pieces = []
        while self._position <= self._reached:
            chunk = int(self._chunks[self._next])
            count = min(int(self._sizes[chunk]) - self._row, self._length - self._position)
            kept = self._kept(self._position, self._position + count)
            if len(kept):
                step = int(steps[np.searchsorted(reached, self._position, side="left")])
                row = (kept + (self._row - self._position)).astype(np.int32)
                pieces.append(_Piece(step, chunk, row, self._place(kept)))
            self._next, self._row, self._position = self._next + 1, 0, self._position + count
        return self._place(rows), pieces

    def _place(self, rows: Ints) -> Ints:
        return self._base + rows % self._places

    def _kept(self, first: int, after: int) -> Ints:
        """The rows of the lane from `first` to `after` that are shown at all."""
        if self._left is None or first >= self._left_until:
            self._left = None
            return np.arange(first, after)
        low, high = np.searchsorted(self._left, (first, after))
        return np.concatenate([self._left[low:high], np.arange(max(first, self._left_until), after)])

    def _take(self, count: int) -> Ints:
        while self._sure < count:
            self._draw(count - self._sure)
        rows, self._rows, self._keys = self._rows[:count], self._rows[count:], self._keys[count:]
        self._sure -= count
        return rows

    def _draw(self, wanted: int) -> None:
        count = min(max(wanted, self._span // 2), self._length - self._drawn)
        rows = np.arange(self._drawn, self._drawn + count)
        uniform = (self._random.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        keys = np.concatenate([self._keys, rows + uniform * self._span])
        # What is left is sorted and comes from before: a stable sort of both is that of the whole lane.
        turn = np.argsort(keys, kind="stable")
        self._keys, self._rows = keys[turn], np.concatenate([self._rows, rows])[turn]
        self._drawn += count
        done = self._drawn == self._length
        self._sure = len(turn) if done else int(np.searchsorted(self._keys, self._drawn, side="left"))


def _begins(chunks: NDArray[np.int32], sizes: NDArray[np.integer], firsts: Ints) -> list[tuple[int, int]]:
    """Where lanes begin: for each, the place of its first chunk in the epoch's order, and its first row there."""
    ends = np.cumsum(sizes[chunks], dtype=np.int64)
    at = np.minimum(np.searchsorted(ends, firsts, side="right"), len(ends) - 1)
    rows = firsts - (ends[at] - sizes[chunks[at]])
    return list(zip(at.tolist(), rows.tolist(), strict=True))


def _stretch(numbers: Ints, emit: Ints, pieces: list[_Piece]) -> Stretch:
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


def _generator(*words: object, before: int = 0) -> np.random.Philox:
    """The random numbers that `words` name, after the first `before` * 4 of them."""
    digest = hashlib.blake2b("|".join(map(str, words)).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, "<u8"), counter=before)
