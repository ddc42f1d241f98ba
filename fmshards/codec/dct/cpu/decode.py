"""Rows of `dct` to values. Imported only where numba works; engine.py says what is asked, and checks lengths.

Two segments are read at a time, as each next event waits for the one before it. Levels go to a buffer of a segment's
blocks, which are then brought back and laid where they belong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import carray

from fmshards.codec.base import Bytes
from fmshards.codec.dct.blocks import SEGMENT, STEPS, Blocks, steps
from fmshards.codec.dct.cpu.matrices import matrices
from fmshards.codec.dct.cpu.vectors import inverse
from fmshards.codec.dct.events import BASE, ESCAPED, EXTRA, STARTS, STATES
from fmshards.codec.dct.tables import Arrays
from fmshards.kernels import jit
from fmshards.kernels.bits import load8, load32, load64, shr
from fmshards.kernels.llvm import pointer

if TYPE_CHECKING:
    import torch

_SOURCE, _STOP, _BITS, _HELD, _AT, _END, _STATE, _LEFT = range(8)  # what is kept of a segment that is being read


def rows(data: Bytes, blocks: Blocks, tables: Arrays, out: torch.Tensor) -> None:
    """As `engine.decode_rows`; data with a last stride of 1."""
    sides = blocks.sides or (0, 0)
    _decode(
        *(data.ctypes.data, data.strides[0], len(data), data.shape[1]),
        *(tables.decode, tables.levels, EXTRA, steps(), tables.plain, tables.least),
        *(tables.gains, tables.means, matrices(True)),
        *(np.array(blocks.rows, np.int64), np.array(blocks.columns, np.int64)),
        *(blocks.count, blocks.grid, blocks.run_values, blocks.turned, *sides),
        *(out.data_ptr(), out.stride(0)),
    )


@jit.inner
def _address(array: Any) -> Any:
    return np.int64(array.ctypes.data)


@jit.inner
def _event(table: Any, levels: Any, extra: Any, plain: Any, held: Any, state: Any, at: Any, scale: Any, found: Any) -> Any:
    """The event that begins at bit 0 of `held`: bits taken, where the next one's level may be, and the next state.

    Its level goes to `found`, at its place.
    """
    entry = load32(table + ((state << 10) | ((held & 255) << 2)))
    taken, code = entry & 31, (entry >> 5) & 15
    kind, run, last = (entry >> 9) & 31, (entry >> 14) & 15, (entry >> 18) & 1
    skip, following = (entry >> 19) & 63, entry >> 25
    place = at + run
    if kind == 31:
        raw = shr(held, code)
        place = at + (raw & 15)
        if (place ^ at) >> 4:
            place = at | 15
        last = (raw >> 4) & 1
        if place & 15 == 15:
            last = 1
        kind = min(max((raw >> 5) & 31, 1), 30)
        code += ESCAPED
        large = 1 if kind >= 3 or (state >= STARTS and (state - STARTS) & 1) else 0
        following = 1 + large if last else STARTS + 2 * (place & 15) + large
        taken = code + extra[kind] + (1 if place & 15 >= plain else 0)
        skip = 0
    width = extra[kind]
    more = shr(held, code)
    value = (levels[((place & 15) << 5) | kind] + np.float32(more & ((1 << width) - 1))) * scale
    sign = shr(more, width) & (taken - code - width)
    found[place] = -value if sign else value
    return taken, (place | -last & 15) + 1 + (skip << 4), following


@jit.inner
def _finish(kept: Any, table: Any, levels: Any, extra: Any, plain: Any, scale: Any, found: Any) -> None:
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
        taken, at, state = _event(table, levels, extra, plain, held, state, at, scale, found)
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
    a: Any, b: Any, table: Any, levels: Any, extra: Any, plain: Any, scale_a: Any, scale_b: Any, found_a: Any, found_b: Any
) -> None:
    """Two segments, as far as both have blocks, and 8 bytes or more ahead."""
    source_a, held_a, bits_a, at_a, state_a = a[_SOURCE], a[_HELD], a[_BITS], a[_AT], a[_STATE]
    source_b, held_b, bits_b, at_b, state_b = b[_SOURCE], b[_HELD], b[_BITS], b[_AT], b[_STATE]
    end_a, stop_a, end_b, stop_b = a[_END], a[_STOP] - 8, b[_END], b[_STOP] - 8
    while at_a < end_a and at_b < end_b and source_a <= stop_a and source_b <= stop_b:
        # 56 bits or more: an event takes up to 32.
        held_a |= load64(source_a) << bits_a
        source_a += (63 - bits_a) >> 3
        bits_a |= 56
        held_b |= load64(source_b) << bits_b
        source_b += (63 - bits_b) >> 3
        bits_b |= 56
        taken, at_a, state_a = _event(table, levels, extra, plain, held_a, state_a, at_a, scale_a, found_a)
        held_a = shr(held_a, taken)
        bits_a -= taken
        taken, at_b, state_b = _event(table, levels, extra, plain, held_b, state_b, at_b, scale_b, found_b)
        held_b = shr(held_b, taken)
        bits_b -= taken
        # A second one of each, where none is left out of the 24 bits that may be left.
        if bits_a >= 32 and bits_b >= 32 and at_a < end_a and at_b < end_b:
            taken, at_a, state_a = _event(table, levels, extra, plain, held_a, state_a, at_a, scale_a, found_a)
            held_a = shr(held_a, taken)
            bits_a -= taken
            taken, at_b, state_b = _event(table, levels, extra, plain, held_b, state_b, at_b, scale_b, found_b)
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
def _read_one(kept: Any, table: Any, levels: Any, extra: Any, plain: Any, scale: Any, found: Any) -> None:
    source, held, bits, at, state = kept[_SOURCE], kept[_HELD], kept[_BITS], kept[_AT], kept[_STATE]
    end, stop = kept[_END], kept[_STOP] - 8
    while at < end and source <= stop:
        held |= load64(source) << bits
        source += (63 - bits) >> 3
        bits |= 56
        taken, at, state = _event(table, levels, extra, plain, held, state, at, scale, found)
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
    for _ in range(first, last):
        down, across = at_matrix + 384 * heights[i], at_matrix + 384 * widths[j] + 256
        mean, gain = means[channel] * step, gains[channel]
        # What is written beyond a narrow block is written again by the next one, but at a row's and the map's end.
        wide = widths[j] == 4 or j + 1 < columns
        tall = heights[i] == 4 or i + 1 < rows or channel + 1 < channels
        if not turned and wide and tall:
            target = to + 4 * ((channel * height + y) * width + x)
            inverse(source, mean, down, across, gain, least, target, 4 * width)
        else:
            inverse(source, mean, down, across, gain, least, at_block, 16)
            by_row = width * (channels if turned else 1)
            by_column = channels if turned else 1
            start = y * by_row + x * by_column + channel * (1 if turned else height * width)
            span = (heights[i] - 1) * by_row + (widths[j] - 1) * by_column + 1
            flat = carray(pointer(to + 4 * start), (span,), np.float32)
            for r in range(heights[i]):
                for c in range(widths[j]):
                    flat[r * by_row + c * by_column] = block[r, c]
        source += 64
        x += widths[j]
        j += 1
        if j == columns:
            j, x = 0, 0
            y += heights[i]
            i += 1
            if i == rows:
                i, y = 0, 0
                channel += 1


@jit.inner
def _lay_runs(found: Any, first: Any, last: Any, grid: Any, values: Any, to: Any, least: Any) -> None:
    """Those of blocks first to last that hold runs, from `found`, to a sample at address `to`."""
    for number in range(max(first, grid), last):
        begin, at = 16 * (number - grid), 16 * (number - first)
        some = min(16, values - begin)
        flat = carray(pointer(to + 4 * begin), (some,), np.float32)
        for i in range(some):
            value = found[at + i]
            flat[i] = np.float32(0) if value < least else value
        found[at : at + 16] = 0


@jit.kernel(
    "void(i8, i8, i8, i8, u4[::1], f4[::1], i8[::1], f4[::1], i8, f4, f4[::1], f4[::1], f4[:,::1], i8[::1], i8[::1],"
    "i8, i8, i8, b1, i8, i8, i8, i8)"
)
def _decode(
    data: Any,
    row_stride: Any,
    n: Any,
    row_bytes: Any,
    table: Any,
    levels: Any,
    extra: Any,
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
    head, jobs, codes = 2 + 2 * segments, n * segments, _address(table)
    found = np.zeros((2, 16 * SEGMENT), np.float32)
    kept = np.zeros((2, 8), np.int64)
    scale = np.zeros(2, np.float32)
    block = np.zeros((4, 4), np.float32)
    for job in range(0, jobs, 2):
        for j in range(min(2, jobs - job)):
            row = data + (job + j) // segments * row_stride
            scale[j] = scales[min(load8(row) | (load8(row + 1) << 8), STEPS - 1)]
            _segment(row, row_bytes, head, (job + j) % segments, count, kept[j])
        if job + 1 < jobs:
            _read_two(kept[0], kept[1], codes, levels, extra, plain, scale[0], scale[1], found[0], found[1])
        for j in range(min(2, jobs - job)):
            _read_one(kept[j], codes, levels, extra, plain, scale[j], found[j])
            _finish(kept[j], codes, levels, extra, plain, scale[j], found[j])
            sample, first = (job + j) // segments, (job + j) % segments * SEGMENT
            last, to = min(first + SEGMENT, count), out + 4 * sample * out_stride
            cells = to + 4 * run_values
            _lay(
                *(found[j], scale[j], first, min(last, grid), gains, means, matrix, heights, widths, turned),
                *(height, width, cells, least, block),
            )
            _lay_runs(found[j], first, last, grid, run_values, to, least)
