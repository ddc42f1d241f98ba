"""What a deal is (N, n, B, G, K, M); choosing one, and stating its memory need before a byte is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from fmshards.errors import InputError

READ_AHEAD = 2
"""Chunks that a worker reads ahead of the batch it makes, from a local disk."""

_MOST_AHEAD = 16
_AHEAD_SHARE = 1 / 16
"""Of the memory, for what is read ahead from a store, where more requests at a time hide what each waits for."""

_MOST_LANES = 64
_MOST_WINDOW = 16
_CHUNK_ORDER = 32
"""Bytes of the order a chunk of the set: its size, its place in the epoch, and what sorting them takes."""
_RUN = 80
"""Bytes of a run that an earlier deal left: its chunk, first row and length, and what finding them takes."""


@dataclass(frozen=True)
class Deal:
    """How rows are dealt to batches: what, with seed and epoch, fixes every batch of a job."""

    samples: int
    """N, samples of the set; of an epoch dealt anew, those that are left."""
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
        return self.made(group, self.batches)

    def made(self, group: int, done: int) -> int:
        """Of the first `done` batches of the deal, those that one group makes."""
        return max(0, -((group - done) // self.groups))

    def lane(self, number: int, done: int) -> LaneCut:
        """Lane `number`, lane number % K of group number // K, once `done` batches of the deal are shown."""
        group, k = divmod(number, self.lanes)
        each, more = divmod(self.batches, self.groups)
        before = group * each + min(group, more)
        length = self.group_batches(group) * self.share
        return LaneCut(number, before * self.batch + k * length, length, self.made(group, done) * self.share)

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
class LaneCut:
    """Where a lane lies in the rows that are dealt, laid end to end, and how much of it is shown."""

    number: int
    first: int
    """Position of its first row."""
    length: int
    """Rows, at consecutive positions."""
    shown: int
    """Rows that are shown: not always those at the first positions, see lane.py."""


@dataclass(frozen=True)
class Leg:
    """A deal and how many of its batches are shown. An epoch that was resumed otherwise than it was begun has several:
    each deals what those before it left."""

    deal: Deal
    done: int = 0

    @property
    def left(self) -> int:
        """Samples that are not shown, those that the deal drops among them."""
        return self.deal.samples - self.done * self.deal.batch

    @property
    def pieces(self) -> int:
        """Runs that it leaves at most beyond those that it dealt: of the rows that a lane's window reaches some are
        shown and some are not, in turn."""
        lane = min(self.deal.span, self.deal.lane_rows) // 2 + 2
        return self.deal.groups * self.deal.lanes * lane + 1


@dataclass(frozen=True)
class Job:
    """What a deal is chosen for: the set's numbers and the processes."""

    samples: int
    chunks: int
    chunk: int
    row_bytes: int
    """Bytes that one sample holds in the window, over all layers and members read."""
    batch_size: int
    """Samples of one rank's batch."""
    ranks: int
    workers: int
    memory: int
    """Bytes that all workers of one rank may hold."""
    runs: int = 0
    """Runs of the order beyond one for each of the chunks: what earlier deals of the epoch left in pieces."""
    ahead: int = READ_AHEAD
    """Chunks that a worker reads ahead."""

    @property
    def batch(self) -> int:
        """B."""
        return self.batch_size * self.ranks


def choose_deal(job: Job, groups: int | None = None, lanes: int | None = None, window: int | None = None) -> Deal:
    """The deal for a job; what is given is kept, the rest is chosen.

    G = the workers; K = the largest divisor of B that the ranks divide, up to 64, with G * K <= chunks / 8, never
    below the ranks; M, up to 16 chunks, is what the memory holds. Raises InputError where numbers do not divide, a
    batch is larger than the set, or the memory does not hold the least of windows; it says which would do.
    """
    if job.batch > job.samples:
        raise InputError(
            f"a batch of {_over_ranks(job)} is larger than the set, which has {job.samples} samples; "
            f"batch_size {job.samples // job.ranks} is the largest that would do"
        )
    groups = max(job.workers, 1) if groups is None else groups
    if groups % max(job.workers, 1):
        raise InputError(
            f"{job.workers} workers do not divide groups={groups}; workers that would do: "
            f"{_listed(_divisors(groups))} (or leave groups out: it is then the number of workers)"
        )
    allowed = [k for k in _divisors(job.batch) if k % job.ranks == 0]
    if lanes is not None:
        if lanes not in allowed:
            raise InputError(
                f"lanes={lanes} must divide the batch of {_over_ranks(job)} and be divided by the {job.ranks} "
                f"ranks; lanes that would do: {_listed(allowed)}"
            )
        candidates = [lanes]
    else:
        most = max(job.ranks, min(_MOST_LANES, job.chunks // 8 // groups))
        candidates = [k for k in reversed(allowed) if k <= most]
    for lanes_ in candidates:
        deal = Deal(job.samples, job.chunk, job.batch, groups, lanes_, window or 1)
        if memory_needed(deal, job) <= job.memory:
            return deal if window is not None else _widest(deal, job)
    least = Deal(job.samples, job.chunk, job.batch, groups, candidates[-1], window or 1)
    raise InputError(
        f"memory={job.memory} does not hold the least that streaming this set takes: "
        f"{memory_needed(least, job)} bytes for batch_size={job.batch_size}, {job.workers} workers, "
        f"{groups} x {least.lanes} lanes over {job.ranks} ranks and chunks of {job.chunk} x {job.row_bytes} bytes, "
        f"{order_memory(least, job)} of them for the order of {job.chunks} chunks; give more memory, fewer workers or "
        "fewer layers"
    )


def memory_needed(deal: Deal, job: Job) -> int:
    """Bytes that one rank's workers hold at most: windows of compressed rows, one batch of them a worker, the chunks
    being read ahead, and the order. Decoded batches that wait in the DataLoader come on top."""
    lanes = deal.groups * deal.lanes // job.ranks
    rows = lanes * lane_slots(deal) + workers_of(job) * (job.batch_size + (job.ahead + 1) * job.chunk)
    return rows * job.row_bytes + order_memory(deal, job)


def order_memory(deal: Deal, job: Job) -> int:
    """Bytes of the order in one rank's workers: the chunks' permutation, and what lanes lay out ahead.

    A lane has 16 bytes for each row that waits or is drawn with those, 4 for each of
    its places, and two stretches of batches; one lane at a time is sorted.
    """
    span = min(deal.span, deal.lane_rows)
    ahead = min(deal.stretch * deal.share, deal.lane_rows)
    lane = 4 * deal.lane_places + 16 * (span + ahead) + 64 * (ahead + min(deal.chunk, deal.lane_rows))
    worker = _CHUNK_ORDER * job.chunks + _RUN * job.runs + 40 * (span + ahead) + 32 * (job.ahead + 1) * job.chunk
    return deal.groups * deal.lanes // job.ranks * lane + workers_of(job) * worker


def evaluation_memory(job: Job) -> int:
    """As memory_needed, in stored order: a worker holds one batch and parts of the chunks it touches."""
    rows = 2 * job.batch_size + (job.ahead + 2) * job.chunk
    order = _CHUNK_ORDER * job.chunks + 64 * (2 * job.batch_size + job.chunk)
    return workers_of(job) * (rows * job.row_bytes + order)


def chunks_ahead(memory: int, workers: int, chunk_bytes: int) -> int:
    """Chunks that a worker reads ahead from a store: as many as a share of the memory holds, `READ_AHEAD` at least."""
    held = int(memory * _AHEAD_SHARE) // (max(workers, 1) * chunk_bytes)
    return max(READ_AHEAD, min(held, _MOST_AHEAD))


def lane_slots(deal: Deal) -> int:
    """Rows that a lane holds at most.

    A row at position p leaves once the window has passed p + U(0, Mn): of the last Mn positions half are still
    there, with variance Mn / 6; at most one more chunk has been begun, and the batch being made is held as well.
    Eight standard deviations are allowed for, and never more than the whole lane.
    """
    most = deal.span // 2 + deal.chunk + deal.share + math.ceil(8 * math.sqrt(deal.span / 6)) + 1
    return min(most, deal.lane_rows)


def workers_of(job: Job) -> int:
    """Processes that make batches: the main process where there are no workers."""
    return max(job.workers, 1)


def _widest(deal: Deal, job: Job) -> Deal:
    lane = -(-deal.lane_rows // deal.chunk)
    window = max(1, min(_MOST_WINDOW, lane))
    while window > 1 and memory_needed(replace(deal, window=window), job) > job.memory:
        window -= 1
    return replace(deal, window=window)


def _divisors(number: int) -> list[int]:
    low = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*low, *(number // d for d in low)})


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:12]))
    return shown + (", ..." if len(numbers) > 12 else "")


def _over_ranks(job: Job) -> str:
    return f"{job.batch_size}" if job.ranks == 1 else f"{job.batch} ({job.ranks} ranks x {job.batch_size})"
