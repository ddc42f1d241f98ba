"""Rows of `dct` to values. Imported only where numba works; engine.py says what is asked, and checks lengths.

Two segments are read at a time, as each next event waits for the one before it. Levels go to a buffer of a segment's
blocks, which are then brought back and laid where they belong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import carray

from fmshards.codec.base import Bytes
from fmshards.codec.dct.blocks import SCAN, SEGMENT, STEPS, Blocks, steps
from fmshards.codec.dct.cpu.matrices import matrices
from fmshards.codec.dct.cpu.vectors import as_float, get, inverse, put
from fmshards.codec.dct.events import ESCAPED, EXTRA, FURTHEST, NEXT_STATE, STARTS, UNUSUAL
from fmshards.codec.dct.tables import Arrays
from fmshards.kernels import jit
from fmshards.kernels.bits import load8, load32, load64, shr
from fmshards.kernels.llvm import pointer

if TYPE_CHECKING:
    import torch

_AT_ONCE = 5  # events of 9 bits at most that 56 bits hold, without a look at how many are left
_BEYOND = _AT_ONCE * FURTHEST + 16  # floats behind a segment's
_QUICK, _SLOW, _LEVELS, _EXTRA, _SCAN = range(5)  # addresses of tables
_SOURCE, _STOP, _BITS, _HELD, _AT, _END, _STATE, _LEFT = range(8)  # what is kept of a segment that is being read


def rows(data: Bytes, blocks: Blocks, tables: Arrays, out: torch.Tensor) -> None:
    """As `engine.decode_rows`; data with a last stride of 1."""
    sides = blocks.sides or (0, 0)
    _decode(
        *(data.ctypes.data, data.strides[0], len(data), data.shape[1]),
        *(tables.quick, tables.decode, tables.levels, EXTRA.astype(np.uint8), np.array(SCAN, np.uint8)),
        *(steps(), tables.plain, tables.least),
        *(tables.gains, tables.means, matrices(True)),
        *(np.array(blocks.rows, np.int64), np.array(blocks.columns, np.int64)),
        *(blocks.count, blocks.grid, blocks.run_values, blocks.turned, *sides),
        *(out.data_ptr(), out.stride(0)),
    )


@jit.inner
def _address(array: Any) -> Any:
    return np.int64(array.ctypes.data)


@jit.inner
def _event(tables: Any, plain: Any, held: Any, state: Any, at: Any, scale: Any, found: Any) -> Any:
    """The event that begins at bit 0 of `held`: bits taken, where the next one's level may be, and the next state.

    A level goes to the address `found`, to its block's cell; where there is none, 0 does, to a block that has none.
    States are kept 2^11 times as large.
    """
    entry = load32(tables[_SLOW] + ((state >> 1) | ((held & 255) << 2)))
    taken, code, kind = entry & 31, (entry >> 5) & 15, (entry >> 9) & 31
    place, last = at + ((entry >> 14) & 15), (entry >> 18) & 1
    skip, following = (entry >> 19) & 63, entry >> 25
    if kind == 31:
        raw = shr(held, code)
        place = min(at + (raw & 15), at | 15)
        last = (raw >> 4) & 1 if place & 15 != 15 else 1
        kind = min(max((raw >> 5) & 31, 1), 30)
        number = state >> 11
        large = 1 if kind >= 3 or (number >= STARTS and (number - STARTS) & 1) else 0
        following = 1 + large if last else STARTS + 2 * (place & 15) + large
        code += ESCAPED
        taken = code + load8(tables[_EXTRA] + kind) + (1 if place & 15 >= plain else 0)
    width = load8(tables[_EXTRA] + kind)
    more = shr(held, code)
    level = get(tables[_LEVELS] + (((place & 15) << 7) | (kind << 2))) + np.float32(more & ((1 << width) - 1))
    cell = (place & -16) + load8(tables[_SCAN] + (place & 15))
    put(found + (cell << 2), level * scale, shr(more, width) & (taken - code - width))
    return taken, (place | (-last & 15)) + 1 + (skip << 4), following << 11


@jit.inner
def _quick(entry: Any, held: Any, at: Any, scale: Any, found: Any) -> Any:
    """As `_event`, where one look was enough."""
    cell = found - 64 + ((at + ((entry >> 5) & 31)) << 2)
    put(cell, as_float(entry >> 32) * scale, shr(held, (entry & 31) - 1) & (entry >> 10))
    return entry & 31, at + ((entry >> 18) & 2047), entry & NEXT_STATE


@jit.inner
def _finish(kept: Any, tables: Any, plain: Any, scale: Any, found: Any) -> None:
    """The rest of a segment, of which `kept` says how far it was read, byte by byte; behind its end are zeros."""
    source, held, bits, at, state = kept[_SOURCE], kept[_HELD], kept[_BITS], kept[_AT], kept[_STATE]
    end, stop = kept[_END], kept[_STOP]
    # Bits that are left: those held, and those of bytes not yet read.
    left = bits + 8 * (stop - source)
    while at < end and left > 0:
        while bits <= 48 and source < stop:
            held |= load8(source) << bits
            source += 1
            bits += 8
        taken, at, state = _event(tables, plain, held, state, at, scale, found)
        held = shr(held, taken)
        bits = max(bits - taken, 0)
        left -= taken


@jit.inner
def _segment(row: Any, row_bytes: Any, head: Any, which: Any, count: Any, kept: Any) -> None:
    """Where segment `which` of a row lies, and how many blocks it has."""
    begin = head
    for i in range(which):
        begin += load8(row + 2 + 2 * i) | (load8(row + 3 + 2 * i) << 8)
    begin = min(begin, row_bytes)
    size = load8(row + 2 + 2 * which) | (load8(row + 3 + 2 * which) << 8)
    kept[_SOURCE] = row + begin
    kept[_STOP] = row + min(begin + size, row_bytes)
    kept[_BITS] = kept[_HELD] = kept[_AT] = kept[_STATE] = 0
    kept[_END] = 16 * min(SEGMENT, count - SEGMENT * which)


@jit.inner
def _read_two(
    a: Any,
    b: Any,
    tables: Any,
    plain: Any,
    scale_a: Any,
    scale_b: Any,
    found_a: Any,
    found_b: Any,
) -> None:
    """Two segments, as far as both have blocks, and 8 bytes or more ahead."""
    source_a, held_a, bits_a, at_a, state_a = a[_SOURCE], a[_HELD], a[_BITS], a[_AT], a[_STATE]
    source_b, held_b, bits_b, at_b, state_b = b[_SOURCE], b[_HELD], b[_BITS], b[_AT], b[_STATE]
    end_a, stop_a, end_b, stop_b = a[_END], a[_STOP] - 8, b[_END], b[_STOP] - 8
    table, unusual = tables[_QUICK], 0
    while at_a < end_a and at_b < end_b and source_a <= stop_a and source_b <= stop_b:
        # 56 bits or more: an event takes up to 32, and up to 9 where one look is enough.
        held_a |= load64(source_a) << bits_a
        source_a += (63 - bits_a) >> 3
        bits_a |= 56
        held_b |= load64(source_b) << bits_b
        source_b += (63 - bits_b) >> 3
        bits_b |= 56
        if unusual:
            taken, at_a, state_a = _event(tables, plain, held_a, state_a, at_a, scale_a, found_a)
            held_a = shr(held_a, taken)
            bits_a -= taken
            taken, at_b, state_b = _event(tables, plain, held_b, state_b, at_b, scale_b, found_b)
            held_b = shr(held_b, taken)
            bits_b -= taken
            unusual = 0
            continue
        for _ in range(_AT_ONCE):  # perhaps beyond the last block
            entry_a = load64(table + (state_a | ((held_a & 255) << 3)))
            entry_b = load64(table + (state_b | ((held_b & 255) << 3)))
            unusual = (entry_a | entry_b) & UNUSUAL
            if unusual:
                break
            taken, at_a, state_a = _quick(entry_a, held_a, at_a, scale_a, found_a)
            held_a = shr(held_a, taken)
            bits_a -= taken
            taken, at_b, state_b = _quick(entry_b, held_b, at_b, scale_b, found_b)
            held_b = shr(held_b, taken)
            bits_b -= taken
    _keep(a, source_a, held_a, bits_a, at_a, state_a)
    _keep(b, source_b, held_b, bits_b, at_b, state_b)


@jit.inner
def _keep(kept: Any, source: Any, held: Any, bits: Any, at: Any, state: Any) -> None:
    kept[_SOURCE], kept[_BITS], kept[_AT], kept[_STATE] = source, bits, at, state
    # What was read ahead beyond the bits that are counted is read again.
    kept[_HELD] = held & ((1 << bits) - 1)


@jit.inner
def _read_one(kept: Any, tables: Any, plain: Any, scale: Any, found: Any) -> None:
    source, held, bits, at, state = kept[_SOURCE], kept[_HELD], kept[_BITS], kept[_AT], kept[_STATE]
    end, stop = kept[_END], kept[_STOP] - 8
    while at < end and source <= stop:
        held |= load64(source) << bits
        source += (63 - bits) >> 3
        bits |= 56
        taken, at, state = _event(tables, plain, held, state, at, scale, found)
        held = shr(held, taken)
        bits -= taken
    _keep(kept, source, held, bits, at, state)


@jit.inner
def _lay(
    found: Any,
    step: Any,
    first: Any,
    last: Any,
    gains: Any,
    means: Any,
    matrix: Any,
    heights: Any,
    widths: Any,
    turned: Any,
    height: Any,
    width: Any,
    to: Any,
    least: Any,
    block: Any,
) -> None:
    """Blocks first to last of the grid, from `found`, to a sample's places at address `to`."""
    channels, rows, columns = len(gains), len(heights), len(widths)
    channel, rest = first // (rows * columns), first % (rows * columns)
    i, j = rest // columns, rest % columns
    y, x = 0, 0
    for k in range(i):
        y += heights[k]
    for k in range(j):
        x += widths[k]
    source, at_block, at_matrix = _address(found), _address(block), _address(matrix)
    by_row, by_column = (width * channels, channels) if turned else (width, 1)
    number = first
    while number < last:
        # The blocks side by side from here on.
        down, mean, gain = at_matrix + 384 * heights[i], means[channel] * step, gains[channel]
        start = to + 4 * (channel * (1 if turned else height * width) + y * by_row)
        # What is written beyond a narrow block is written again by the next one, but at a row's and the map's end.
        tall = heights[i] == 4 or i + 1 < rows or channel + 1 < channels
        stop = min(columns, j + last - number)
        number += stop - j
        while j < stop:
            across, here = at_matrix + 384 * widths[j] + 256, start + 4 * x * by_column
            if not turned and tall and (widths[j] == 4 or j + 1 < columns):
                inverse(source, mean, down, across, gain, least, here, 4 * width)
            else:
                inverse(source, mean, down, across, gain, least, at_block, 16)
                flat = carray(pointer(here), ((heights[i] - 1) * by_row + (widths[j] - 1) * by_column + 1,), np.float32)
                for r in range(heights[i]):
                    for c in range(widths[j]):
                        flat[r * by_row + c * by_column] = block[r, c]
            source += 64
            x += widths[j]
            j += 1
        j, x = 0, 0
        y += heights[i]
        i += 1
        if i == rows:
            i, y = 0, 0
            channel += 1


@jit.inner
def _lay_runs(found: Any, scan: Any, first: Any, last: Any, grid: Any, values: Any, to: Any, least: Any) -> None:
    """Those of blocks first to last that hold runs, from `found`, to a sample at address `to`."""
    for number in range(max(first, grid), last):
        begin, at = 16 * (number - grid), 16 * (number - first)
        some = min(16, values - begin)
        flat = carray(pointer(to + 4 * begin), (some,), np.float32)
        for i in range(some):
            value = found[at + scan[i]]
            flat[i] = np.float32(0) if value < least else value
        found[at : at + 16] = 0


@jit.kernel(
    "void(i8, i8, i8, i8, u8[::1], u4[::1], f4[::1], u1[::1], u1[::1], f4[::1], i8, f4, f4[::1], f4[::1], f4[:,::1],"
    "i8[::1], i8[::1], i8, i8, i8, b1, i8, i8, i8, i8)"
)
def _decode(
    data: Any,
    row_stride: Any,
    n: Any,
    row_bytes: Any,
    quick: Any,
    table: Any,
    levels: Any,
    extra: Any,
    scan: Any,
    scales: Any,
    plain: Any,
    least: Any,
    gains: Any,
    means: Any,
    matrix: Any,
    heights: Any,
    widths: Any,
    count: Any,
    grid: Any,
    run_values: Any,
    turned: Any,
    height: Any,
    width: Any,
    out: Any,
    out_stride: Any,
) -> None:
    """n rows of row_bytes bytes, row_stride apart, from address `data` on; `out` an address, its stride in values."""
    segments = (count + SEGMENT - 1) // SEGMENT
    head, jobs = 2 + 2 * segments, n * segments
    addresses = (_address(quick), _address(table), _address(levels), _address(extra), _address(scan))
    found = np.zeros((2, 16 * SEGMENT + _BEYOND), np.float32)
    at_found = _address(found)
    kept = np.zeros((2, 8), np.int64)
    scale = np.zeros(2, np.float32)
    block = np.zeros((4, 4), np.float32)
    for job in range(0, jobs, 2):
        for j in range(min(2, jobs - job)):
            row = data + (job + j) // segments * row_stride
            scale[j] = scales[min(load8(row) | (load8(row + 1) << 8), STEPS - 1)]
            _segment(row, row_bytes, head, (job + j) % segments, count, kept[j])
        if job + 1 < jobs:
            _read_two(
                kept[0],
                kept[1],
                addresses,
                plain,
                scale[0],
                scale[1],
                at_found,
                at_found + 4 * found.shape[1],
            )
        for j in range(min(2, jobs - job)):
            _read_one(kept[j], addresses, plain, scale[j], at_found + 4 * found.shape[1] * j)
            _finish(kept[j], addresses, plain, scale[j], at_found + 4 * found.shape[1] * j)
            if kept[j, _AT] > kept[j, _END]:
                found[j, kept[j, _END] : kept[j, _AT] + 16] = 0
            sample, first = (job + j) // segments, (job + j) % segments * SEGMENT
            last, to = min(first + SEGMENT, count), out + 4 * sample * out_stride
            cells = to + 4 * run_values
            _lay(
                *(found[j], scale[j], first, min(last, grid), gains, means, matrix, heights, widths, turned),
                *(height, width, cells, least, block),
            )
            _lay_runs(found[j], scan, first, last, grid, run_values, to, least)
