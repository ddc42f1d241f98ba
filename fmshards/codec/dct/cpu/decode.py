"""Rows of `dct` to values. Imported only where numba works; engine.py says what is asked, and checks lengths.

Three segments are read at a time, as each next event waits for the one before it. Levels go to a small buffer for each;
whenever it has some blocks, they are brought back and laid where they belong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fmshards.codec.base import Bytes
from fmshards.codec.dct.blocks import CELLS, SEGMENT, STEPS, Blocks, steps
from fmshards.codec.dct.cpu.inverse import AS_THEY_ARE, get, likely, put
from fmshards.codec.dct.cpu.lay import lay, lay_runs, sides_of
from fmshards.codec.dct.events import ESCAPED, EXTRA, SKIPS, STARTS, STATES, WINDOW
from fmshards.codec.dct.tables import Arrays
from fmshards.kernels import jit
from fmshards.kernels.bits import load8, load32, load64, shr
from fmshards.kernels.llvm import address

if TYPE_CHECKING:
    import torch

_SEGMENTS = 3  # that are read at a time
_AT_ONCE = 56 // WINDOW  # events that 56 bits hold, without a look at how many are left
_CHUNK = 64 * 64  # bytes of blocks that are laid at once, or more
_BUFFER = 16 * (SEGMENT + (_AT_ONCE + 1) * (max(SKIPS) + 1))  # floats; events may lead beyond a segment
_MASK = (1 << WINDOW) - 1
_VALUES = 4 * STATES << WINDOW  # bytes of entries before what levels mean
_QUICK, _SLOW, _LEVELS, _EXTRA, _CELLS = range(5)  # addresses of tables
_EXTRAS, _CELL_OF = EXTRA.astype(np.uint8), np.array(CELLS, np.uint8)
# What is kept of a segment that is being read: bytes from SOURCE to STOP are still to come, BITS bits are HELD; levels
# go to the block at address AT of the buffer that begins at FOUND; DONE of COUNT blocks are laid. The table of STATE.
_SOURCE, _STOP, _BITS, _HELD, _AT, _STATE, _FOUND, _DONE, _COUNT, _JOB = range(10)


def rows(data: Bytes, blocks: Blocks, tables: Arrays, out: torch.Tensor) -> None:
    """As `engine.decode_rows`; data with a last stride of 1."""
    sides = blocks.sides or (0, 0)
    _decode(
        *(data.ctypes.data, data.strides[0], len(data), data.shape[1]),
        *(tables.quick, tables.decode, tables.levels),
        *(_EXTRAS, _CELL_OF, steps(), tables.plain, tables.least),
        *(tables.gains, tables.means, tables.offsets, tables.run_offsets),
        *sides_of(blocks),
        *(blocks.count, blocks.grid, blocks.turned, *sides, 0 if tables.transformed else AS_THEY_ARE),
        *(out.data_ptr(), out.stride(0)),
    )


@jit.inner
def _event(tables: Any, plain: Any, held: Any, state: Any, at: Any) -> Any:
    """The event that begins at bit 0 of `held`: bits taken, the address of the next one's block, and the next state.

    A level goes to its cell of the block at address `at`; where there is none, 0 does, to a block that has none.
    States are kept 2^WINDOW times as large.
    """
    number = state >> WINDOW
    entry = load32(tables[_SLOW] + ((number << 10) | ((held & 255) << 2)))
    taken, code, kind = entry & 31, (entry >> 5) & 15, (entry >> 9) & 31
    place, last = ((entry >> 14) & 15), (entry >> 18) & 1
    if number >= STARTS:
        place += (number - 1) >> 1
    passed, following = last + ((entry >> 19) & 63), entry >> 25
    if kind == 31:
        raw = shr(held, code)
        place = min(place + (raw & 15), 15)
        passed = (raw >> 4) & 1 if place != 15 else 1
        kind = min(max((raw >> 5) & 31, 1), 30)
        large = 1 if kind >= 3 or (number >= STARTS and (number - STARTS) & 1) else 0
        following = 1 + large if passed else STARTS + 2 * place + large
        code += ESCAPED
        taken = code + load8(tables[_EXTRA] + kind) + (1 if place >= plain else 0)
    width = load8(tables[_EXTRA] + kind)
    more = shr(held, code)
    level = get(tables[_LEVELS] + ((place << 7) | (kind << 2))) + np.float32(more & ((1 << width) - 1))
    negative = shr(more, width) & (taken - code - width)
    put(at + (load8(tables[_CELLS] + place) << 2), -level if negative else level)
    return taken, at + (passed << 6), following << WINDOW


@jit.inner
def _filled(source: Any, held: Any, bits: Any) -> Any:
    """With 56 bits or more. Of `bits` the lower 6 bits are looked at."""
    bits &= 63
    return source + ((63 - bits) >> 3), held | (load64(source) << bits), bits | 56


@jit.inner
def _step(tables: Any, plain: Any, cursor: Any, stop: Any) -> Any:
    """One event, by one look where that is enough, else by two refills; where not so many bytes are left, none.

    What a look takes is not counted beyond the lower 6 bits of `bits`.
    """
    source, held, bits, at, state = cursor
    table = tables[_QUICK]
    entry = load32(table + ((state | (held & _MASK)) << 2))
    if likely(entry):
        put(at + ((entry >> 10) & 60), get(table + (_VALUES + ((entry >> 14) & 4092))))
        state = (entry >> (26 - WINDOW)) & -(1 << WINDOW)
        return source, shr(held, entry & 63), bits - entry, at + (entry & 4032), state
    if source <= stop:
        source, held, bits = _filled(source, held, bits)
        if source <= stop:
            taken, at, state = _event(tables, plain, held, state, at)
            source, held, bits = _filled(source, shr(held, taken), bits - taken)
    return source, held, bits, at, state


@jit.inner
def _begin(kept: Any, data: Any, row_stride: Any, row_bytes: Any, segments: Any, job: Any, count: Any) -> None:
    """Segment job % segments of row job // segments is what is read next."""
    row, which = data + job // segments * row_stride, job % segments
    begin = 2 + 2 * segments
    for i in range(which):
        begin += load8(row + 2 + 2 * i) | (load8(row + 3 + 2 * i) << 8)
    begin = min(begin, row_bytes)
    size = load8(row + 2 + 2 * which) | (load8(row + 3 + 2 * which) << 8)
    kept[_SOURCE] = row + begin
    kept[_STOP] = row + min(begin + size, row_bytes)
    kept[_BITS] = kept[_HELD] = kept[_STATE] = kept[_DONE] = 0
    kept[_AT] = kept[_FOUND]
    kept[_COUNT] = min(SEGMENT, count - SEGMENT * which)
    kept[_JOB] = job


@jit.inner
def _limit(kept: Any) -> Any:
    """The address in the buffer at which blocks are to be laid."""
    return kept[_FOUND] + min(_CHUNK, (kept[_COUNT] - kept[_DONE]) << 6)


@jit.inner
def _cursor(kept: Any) -> Any:
    return kept[_SOURCE], kept[_HELD], kept[_BITS], kept[_AT], kept[_STATE]


@jit.inner
def _goes_on(cursor: Any, end: Any, stop: Any) -> Any:
    return cursor[0] <= stop and cursor[3] < end


@jit.inner
def _read_all(kept: Any, tables: Any, plain: Any) -> None:
    """Three segments, until one has blocks to be laid, or less than 8 bytes ahead."""
    a, b, c = _cursor(kept[0]), _cursor(kept[1]), _cursor(kept[2])
    end_a, end_b, end_c = _limit(kept[0]), _limit(kept[1]), _limit(kept[2])
    stop_a, stop_b, stop_c = kept[0, _STOP] - 8, kept[1, _STOP] - 8, kept[2, _STOP] - 8
    while _goes_on(a, end_a, stop_a) and _goes_on(b, end_b, stop_b) and _goes_on(c, end_c, stop_c):
        a = _filled(a[0], a[1], a[2]) + a[3:]
        b = _filled(b[0], b[1], b[2]) + b[3:]
        c = _filled(c[0], c[1], c[2]) + c[3:]
        for _ in range(_AT_ONCE):  # perhaps beyond the last block
            a = _step(tables, plain, a, stop_a)
            b = _step(tables, plain, b, stop_b)
            c = _step(tables, plain, c, stop_c)
    _keep(kept[0], a)
    _keep(kept[1], b)
    _keep(kept[2], c)


@jit.inner
def _keep(kept: Any, cursor: Any) -> None:
    bits = cursor[2] & 63
    kept[_SOURCE], kept[_BITS], kept[_AT], kept[_STATE] = cursor[0], bits, cursor[3], cursor[4]
    # What was read ahead beyond the bits that are counted is read again.
    kept[_HELD] = cursor[1] & ((1 << bits) - 1)


@jit.inner
def _read_one(kept: Any, tables: Any, plain: Any) -> Any:
    """A segment, until it has blocks to be laid; whether it has no bits left. Behind its end are zeros."""
    cursor, end, stop = _cursor(kept), _limit(kept), kept[_STOP]
    while _goes_on(cursor, end, stop - 8):
        cursor = _filled(cursor[0], cursor[1], cursor[2]) + cursor[3:]
        for _ in range(_AT_ONCE):
            cursor = _step(tables, plain, cursor, stop - 8)
    _keep(kept, cursor)
    source, held, bits, at, state = _cursor(kept)
    left = bits + 8 * (stop - source)
    while at < end and left > 0:
        while bits <= 48 and source < stop:
            held |= load8(source) << bits
            source += 1
            bits += 8
        taken, at, state = _event(tables, plain, held, state, at)
        held = shr(held, taken)
        bits = max(bits - taken, 0)
        left -= taken
    kept[_SOURCE], kept[_HELD], kept[_BITS], kept[_AT], kept[_STATE] = source, held, bits, at, state
    return left <= 0


@jit.kernel(
    "void(i8, i8, i8, i8, u4[::1], u4[::1], f4[::1], u1[::1], u1[::1], f4[::1], i8, f4,"
    "f4[::1], f4[::1], f4[::1], f4[::1], i8[::1], i8[::1], i8[:,::1], i8, i8, b1, i8, i8, i8, i8, i8)"
)
def _decode(
    data: Any,
    row_stride: Any,
    n: Any,
    row_bytes: Any,
    quick: Any,
    slow: Any,
    levels: Any,
    extra: Any,
    cells: Any,
    scales: Any,
    plain: Any,
    least: Any,
    gains: Any,
    means: Any,
    offsets: Any,
    run_offsets: Any,
    heights: Any,
    widths: Any,
    columns: Any,
    count: Any,
    grid: Any,
    turned: Any,
    height: Any,
    width: Any,
    as_they_are: Any,
    out: Any,
    out_stride: Any,
) -> None:
    """n rows of row_bytes bytes, row_stride apart, from address `data` on; `out` an address, its stride in values."""
    segments = (count + SEGMENT - 1) // SEGMENT
    jobs, begun = n * segments, 0
    tables = (address(quick), address(slow), address(levels), address(extra), address(cells))
    found = np.zeros((_SEGMENTS, _BUFFER), np.float32)
    block = np.zeros((4, 8), np.float32)
    kept = np.zeros((_SEGMENTS, 10), np.int64)
    for j in range(_SEGMENTS):
        kept[j, _FOUND] = address(found) + 4 * _BUFFER * j
    while True:
        busy = 0
        for j in range(_SEGMENTS):
            if kept[j, _DONE] == kept[j, _COUNT] and begun < jobs:
                _begin(kept[j], data, row_stride, row_bytes, segments, begun, count)
                begun += 1
            busy += kept[j, _DONE] < kept[j, _COUNT]
        if busy == 0:
            break
        if busy == _SEGMENTS:
            _read_all(kept, tables, plain)
        for j in range(_SEGMENTS):
            left = kept[j, _COUNT] - kept[j, _DONE]
            if left == 0:
                continue
            alone = busy < _SEGMENTS or kept[j, _SOURCE] > kept[j, _STOP] - 8
            if alone and _read_one(kept[j], tables, plain):
                kept[j, _AT] = max(kept[j, _AT], kept[j, _FOUND] + 64 * left)
            if kept[j, _AT] < _limit(kept[j]):
                continue
            # Blocks that are whole; one that is begun goes on at the buffer's start.
            there = (kept[j, _AT] - kept[j, _FOUND]) >> 6
            some = min(there, left)
            sample, first = kept[j, _JOB] // segments, kept[j, _JOB] % segments * SEGMENT + kept[j, _DONE]
            last, to = first + some, out + 4 * sample * out_stride
            row = data + sample * row_stride
            step = scales[min(load8(row) | (load8(row + 1) << 8), STEPS - 1)]
            if first < grid:
                lay(
                    *(kept[j, _FOUND], step, first, min(last, grid), gains, means, offsets, heights, widths, columns),
                    *(turned, height, width, to + 4 * len(run_offsets), least, block, as_they_are),
                )
            if last > grid:
                lay_runs(found[j], cells, step, first, last, grid, run_offsets, to, least)
            kept[j, _DONE] += some
            kept[j, _AT] = kept[j, _FOUND]
            if some < left:
                found[j, :16] = found[j, 16 * there : 16 * there + 16]
                found[j, 16 * there : 16 * there + 16] = 0
            else:
                found[j, 16 * some : 16 * there + 16] = 0
