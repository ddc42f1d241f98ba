"""The engine of `dct` on numpy, where there are no compiled kernels; and what fits are counted with.

All arithmetic on values is binary32, in one order: the bytes are those of the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fmshards.codec.base import Bytes, Floats
from fmshards.codec.dct.blocks import SEGMENT, Blocks, steps
from fmshards.codec.dct.events import BASE, EXTRA, LARGEST, SKIPS, STARTS, class_of, level
from fmshards.codec.dct.search import DEADZONE, SAMPLED, find_step
from fmshards.codec.dct.tables import Arrays
from fmshards.codec.dct.transform import coefficients, values

Ints = npt.NDArray[np.int64]


def encode(x: Floats, blocks: Blocks, tables: Arrays, out: Bytes) -> None:
    """As `engine.encode_rows`."""
    for sample, row in zip(coefficients(x, blocks, tables), out, strict=True):
        segments = -(-blocks.count // SEGMENT)

        def part(step: int, sample: Floats = sample) -> int:
            some, segment = sample, SEGMENT
            if blocks.count >= SAMPLED:
                some = sample[: len(sample) // 128 * 128].reshape(-1, 8, 16, 16)[:, 0].reshape(-1, 16)
                segment = 16
            return int(
                _bits(events(levels(some, step, tables.plain), segment, tables), tables, -(-len(some) // segment)).sum()
            )

        def whole(step: int, sample: Floats = sample, segments: int = segments) -> int:
            said = events(levels(sample, step, tables.plain), SEGMENT, tables)
            return int((-(-_bits(said, tables, segments) // 8)).sum())

        step = find_step(float(np.abs(sample).max(initial=0)), blocks, len(row), part, whole)
        _write(events(levels(sample, step, tables.plain), SEGMENT, tables), tables, segments, step, row)


def levels(sample: Floats, step: int, plain: int) -> npt.NDArray[np.int32]:
    """int32 [blocks, 16]: the coefficients of a sample in steps. 0 are those under 0.6 of one, and negative ones where
    levels have no sign."""
    inverse = np.float32(1) / steps()[step]
    with np.errstate(over="ignore"):
        size = np.minimum(np.abs(sample) * inverse + np.float32(DEADZONE), np.float32(LARGEST)).astype(np.int32)
    size[:, :plain][sample[:, :plain] < 0] = 0
    signed: npt.NDArray[np.int32] = np.where(sample < 0, -size, size)
    return signed


@dataclass(frozen=True)
class Events:
    """Events of one sample in their order, an item each. segment, state, run, kind (class; 0: a skip of SKIPS[run]),
    last; at: the place of a level in its block; magnitude, negative."""

    segment: Ints
    state: Ints
    run: Ints
    kind: Ints
    last: Ints
    at: Ints
    magnitude: Ints
    negative: npt.NDArray[np.bool_]

    @property
    def index(self) -> Ints:
        """Of each event in tables by state, run, class and last."""
        return ((self.state * 16 + self.run) * 32 + self.kind) * 2 + self.last

    @property
    def numbers(self) -> Ints:
        """Of each event."""
        said = level(0, 1, 0) + 2 * (30 * self.run + self.kind - 1) + self.last
        return np.where(self.kind == 0, self.run + 1, said)


def events(found: npt.NDArray[np.int32], segment: int, tables: Arrays) -> Events:
    """What levels, int32 [blocks, 16], are said with, in segments of so many blocks. tables: which skips have codes."""
    count = len(found)
    block, place = np.nonzero(found)
    signed = found[block, place].astype(np.int64)
    magnitude = np.abs(signed)
    begins = np.ones(len(block), bool)
    begins[1:] = block[1:] != block[:-1]
    last = np.roll(begins, -1)
    before = np.where(begins, -1, np.roll(place, 1))
    large = np.cumsum(magnitude >= 3)
    start = np.flatnonzero(begins)
    outside: Ints = np.repeat(large[start] - (magnitude[start] >= 3), np.diff([*start, len(block)]))
    so_far = large - outside > 0
    earlier = large - (magnitude >= 3) - outside > 0
    filled, ended = block[start], so_far[last]
    # After a block that is not empty comes a state of its own; after any other, and where a segment begins, 0.
    after = np.zeros(count + 1, np.int64)
    after[filled + 1] = 1 + ended
    after[::segment] = 0
    state = np.where(begins, after[block], STARTS + 2 * before + earlier)
    skip_at, skip_run = _skips(filled, after, segment, tables)
    both = np.concatenate([block * 17 + place + 1, skip_at * 17])
    order = np.argsort(both, kind="stable")

    def merged(of_levels: Any, of_skips: Any) -> Any:
        return np.concatenate([of_levels, np.broadcast_to(of_skips, skip_at.shape)])[order]

    return Events(
        merged(block, skip_at) // segment,
        merged(state, after[skip_at]),
        merged(place - before - 1, skip_run),
        merged(class_of(magnitude), 0),
        merged(last.astype(np.int64), 0),
        merged(place, 0),
        merged(magnitude, 0),
        merged(signed < 0, False),
    )


def decode(rows: Bytes, blocks: Blocks, tables: Arrays) -> Floats:
    """float32 [n, values]: all segments of all rows side by side, an event of each at a time."""
    n, segments = len(rows), blocks.segments
    step = np.minimum(rows[:, 0].astype(np.int64) | rows[:, 1].astype(np.int64) << 8, len(steps()) - 1)
    sizes = rows[:, 2 : blocks.head].reshape(n, segments, 2).astype(np.int64) @ np.array([1, 256])
    room = rows.shape[1] - blocks.head
    start = np.minimum(np.concatenate([np.zeros((n, 1), np.int64), np.cumsum(sizes, 1)], 1), room)
    first = (start[:, :-1] + blocks.head + np.arange(n)[:, None] * rows.shape[1]).reshape(-1)
    end = 8 * np.diff(start).reshape(-1)
    ends = np.minimum(SEGMENT, blocks.count - SEGMENT * np.arange(segments)) * 16
    ends = np.tile(ends, n)
    found = np.zeros((n, segments * SEGMENT, 16), np.float32)
    flat = found.reshape(n * segments, SEGMENT * 16)  # a view
    data = np.concatenate([rows.reshape(-1), np.zeros(16, np.uint8)])
    bit, at, state = np.zeros_like(end), np.zeros_like(end), np.zeros_like(end)
    live = np.flatnonzero(end > 0)
    while len(live):
        word = _bits_at(data, first[live], bit[live], end[live])
        entry = tables.decode[state[live] * 256 + (word & 255)].astype(np.int64)
        code, kind, run, last = entry >> 5 & 15, entry >> 9 & 31, entry >> 14 & 15, entry >> 18 & 1
        skip, following, taken = entry >> 19 & 63, entry >> 25, entry & 31
        escaped = kind == 31
        if escaped.any():
            raw = word >> code
            now = at[live] & 15
            place = np.minimum(now + (raw & 15), 15)
            over = (raw >> 4 & 1) | (place == 15)
            named = np.clip(raw >> 5 & 31, 1, 30)
            large = (named >= 3) | ((state[live] >= STARTS) & ((state[live] - STARTS) % 2 == 1))
            to = np.where(over == 1, 1 + large, STARTS + 2 * place + large)
            code = np.where(escaped, code + 10, code)
            width = code + EXTRA[np.minimum(named, 30)] + (place >= tables.plain)
            kind, run, last = (np.where(escaped, a, b) for a, b in ((named, kind), (place - now, run), (over, last)))
            skip, following, taken = (np.where(escaped, a, b) for a, b in ((0, skip), (to, following), (width, taken)))
        extra = EXTRA[kind]
        more = word >> code & (1 << extra) - 1
        negative = word >> code + extra & taken - code - extra
        place = at[live] + run
        value = tables.levels[(place & 15) * 32 + kind] + more.astype(np.float32)
        flat[live, place] = np.where(negative == 1, -value, value)
        at[live] = np.where(last == 1, (place | 15) + 1 + 16 * skip, place + 1)
        bit[live] += taken
        state[live] = following
        live = live[(at[live] < ends[live]) & (bit[live] < end[live])]
    return values(found[:, : blocks.count], steps()[step], blocks, tables)


def _bits_at(data: Bytes, first: Ints, bit: Ints, end: Ints) -> Ints:
    """The 40 bits from `bit` on of what begins at byte `first`, zeros from bit `end` on."""
    word = np.zeros(len(first), np.int64)
    for i in range(6):
        word |= data[np.minimum(first + (bit >> 3) + i, len(data) - 1)].astype(np.int64) << 8 * i
    found: Ints = word >> (bit & 7) & (1 << np.minimum(end - bit, 40)) - 1
    return found


def _skips(filled: Ints, after: Ints, segment: int, tables: Arrays) -> tuple[Ints, Ints]:
    """Of runs of empty blocks, cut at segments and then into SKIPS: the first block of each, and which of SKIPS.

    The largest that fits and has a code, first in the state that the run begins in, then in state 0. after: the state
    at the start of each block.
    """
    count = len(after) - 1
    coded = tables.lengths.reshape(-1, 16, 64)[:STARTS, :, 0] > 0
    empty = np.ones(count, bool)
    empty[filled] = False
    begins = empty.copy()
    begins[1:] &= ~empty[:-1]
    begins[::segment] = empty[::segment]
    start = np.flatnonzero(begins)
    ends = empty.copy()
    ends[:-1] &= ~empty[1:]
    ends[segment - 1 :: segment] = empty[segment - 1 :: segment]
    left = np.flatnonzero(ends) + 1 - start
    at, which = [], []
    state = after[start]
    while len(start):
        chosen = np.zeros(len(start), np.int64)
        for j, blocks in enumerate(SKIPS):
            chosen[(left >= blocks) & coded[state, j]] = j
        at.append(start)
        which.append(chosen)
        start, left = start + np.array(SKIPS)[chosen], left - np.array(SKIPS)[chosen]
        start, left, state = start[left > 0], left[left > 0], np.zeros(int((left > 0).sum()), np.int64)
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *at]), np.concatenate([none, *which])


def _bits(said: Events, tables: Arrays, segments: int) -> Ints:
    """Bits of each segment."""
    return _sums(said.segment, _lengths(said, tables, segments), segments)


def _lengths(said: Events, tables: Arrays, segments: int) -> Ints:
    """Bits of each event; of those of a segment without a level 0."""
    some = _sums(said.segment, said.kind, segments) > 0
    return np.where(some[said.segment], tables.sizes[said.index].astype(np.int64), 0)


def _sums(segment: Ints, each: Ints, segments: int) -> Ints:
    return np.bincount(segment, weights=each, minlength=segments).astype(np.int64)


def _write(said: Events, tables: Arrays, segments: int, step: int, row: Bytes) -> None:
    """A row: its step, the segments' lengths in bytes, the segments. A segment without a level takes no byte."""
    length = _lengths(said, tables, segments)
    size = -(-_sums(said.segment, length, segments) // 8)
    row[...] = 0
    row[:2] = step & 255, step >> 8
    row[2 : 2 + 2 * segments] = size.astype("<u2").view(np.uint8)
    begin = 8 * (2 + 2 * segments + np.cumsum(size) - size)
    before = np.cumsum(length) - length
    first = np.searchsorted(said.segment, np.arange(segments))
    at = begin[said.segment] + before - np.append(before, 0)[first][said.segment]
    code = tables.lengths[said.index].astype(np.int64)
    value = tables.bits[said.index].astype(np.int64)
    extra = EXTRA[said.kind]
    value |= (said.magnitude - BASE[said.kind]) << code
    value |= said.negative.astype(np.int64) << code + extra
    each = np.zeros(8 * len(row), np.uint8)
    for bit in range(int(length.max(initial=0))):
        there = length > bit
        each[at[there] + bit] = value[there] >> bit & 1
    row |= np.packbits(each, bitorder="little")
