"""One lane a segment of a row: from its bits, event by event, to coefficients.

As cpu/decode.py's `_event`, which reads the same tables. A lane whose segment has ended waits for the others of its
program. Bytes are read where the segment has them, and are zeros beyond; an event takes 32 bits at most. Tables let no
level leave its block, so that no coefficient is written beyond the segment's blocks.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fmshards.codec.dct.blocks import SEGMENT, STEPS
from fmshards.codec.dct.events import CLASSES, ESCAPED, STARTS

_LAST_STEP = tl.constexpr(STEPS - 1)
_SEGMENT = tl.constexpr(SEGMENT)
_CLASSES = tl.constexpr(CLASSES)
_ESCAPED = tl.constexpr(ESCAPED)
_STARTS = tl.constexpr(STARTS)


@triton.jit
def number(row, index, mask):
    """int32: the index-th little-endian uint16 at each address."""
    low = tl.load(row + 2 * index, mask=mask, other=0).to(tl.int32)
    return low | (tl.load(row + 2 * index + 1, mask=mask, other=0).to(tl.int32) << 8)


@triton.jit
def step_of(row, steps, mask):
    """float32: the step of each row."""
    return tl.load(steps + tl.minimum(number(row, 0, mask), _LAST_STEP), mask=mask, other=0)


@triton.jit
def dct_levels(
    rows,
    table,
    levels,
    cells,
    found,
    row_stride,
    row_bytes,
    lanes,
    segments,
    blocks,
    plain,
    LANES: tl.constexpr,
):
    """Coefficients that are not 0, in steps, to `found`, float32 [rows, blocks, 16] of zeros: 4 v + u is row u, column
    v.

    rows: uint8, `row_bytes` of each, `row_stride` apart. table, levels: `decode` and `levels` of `Arrays`. lanes: how
    many segments all rows have, `segments` each. plain: see `Blocks.plain`.
    """
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    there = lane < lanes
    sample = lane // segments
    which = lane - sample * segments
    row = rows + sample.to(tl.int64) * row_stride
    first = tl.zeros_like(lane) + 2 + 2 * segments
    before = 0
    while before < tl.max(tl.where(there, which, 0), 0):
        size = number(row, 1 + before, there & (before < which))
        first = tl.minimum(first + size, row_bytes)
        before += 1
    size = tl.minimum(number(row, 1 + which, there), row_bytes - first)
    data = row + first
    target = found + (sample.to(tl.int64) * blocks + which * _SEGMENT) * 16
    end = 16 * tl.minimum(blocks - which * _SEGMENT, _SEGMENT)

    bit, at, state = tl.zeros_like(lane), tl.zeros_like(lane), tl.zeros_like(lane)
    live = there & (size > 0)
    while tl.max(live.to(tl.int32), 0) > 0:
        held = tl.zeros_like(lane).to(tl.int64)
        for i in tl.static_range(5):
            byte = (bit >> 3) + i
            held |= tl.load(data + byte, mask=live & (byte < size), other=0).to(tl.int64) << (8 * i)
        held >>= bit & 7
        entry = tl.load(table + state * 256 + (held & 255).to(tl.int32), mask=live, other=0)
        code, kind = (entry >> 5) & 15, (entry >> 9) & 31
        place, last = at + ((entry >> 14) & 15), (entry >> 18) & 1
        skip, following = (entry >> 19) & 63, entry >> 25

        escaped = kind == 31
        raw = (held >> code).to(tl.int32)
        far = tl.minimum(at + (raw & 15), at | 15)
        ends = tl.where((far & 15) == 15, 1, (raw >> 4) & 1)
        named = tl.minimum(tl.maximum((raw >> 5) & 31, 1), _CLASSES)
        large = ((named >= 3) | ((state >= _STARTS) & (((state - _STARTS) & 1) == 1))).to(tl.int32)
        to = tl.where(ends == 1, 1 + large, _STARTS + 2 * (far & 15) + large)
        code = tl.where(escaped, code + _ESCAPED, code)
        kind = tl.where(escaped, named, kind)
        place = tl.where(escaped, far, place)
        last = tl.where(escaped, ends, last)
        following = tl.where(escaped, to, following)

        # `events.EXTRA`, and whether a sign follows; no blocks that are skipped have either.
        width = tl.maximum(kind - 3, 0) >> 1
        signed = ((kind > 0) & ((place & 15) >= plain)).to(tl.int32)
        more = (held >> code).to(tl.int32) & ((1 << width) - 1)
        negative = (held >> (code + width)).to(tl.int32) & signed
        some = live & (kind > 0)
        level = tl.load(levels + ((place & 15) * 32 + kind), mask=some, other=0) + more.to(tl.float32)
        cell = (place & -16) + tl.load(cells + (place & 15), mask=some, other=0)
        tl.store(target + cell, tl.where(negative == 1, -level, level), mask=some)

        bit = tl.where(live, bit + code + width + signed, bit)
        at = tl.where(live, tl.where(last == 1, (place | 15) + 1 + 16 * skip, place + 1), at)
        state = tl.where(live, following, state)
        live = live & (at < end) & (bit < 8 * size)
