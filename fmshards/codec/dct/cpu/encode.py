"""Values to rows of `dct`. Imported only where numba works; engine.py says what is asked, and checks lengths.

A sample is transformed once; then steps are tried, by counting and writing what its events take, as search.py does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from fmshards.codec.base import Bytes, Floats
from fmshards.codec.dct.blocks import SEGMENT, STEPS, Blocks, steps
from fmshards.codec.dct.cpu.matrices import matrices
from fmshards.codec.dct.cpu.segment import count_bits, write_bits
from fmshards.codec.dct.cpu.vectors import forward, largest
from fmshards.codec.dct.events import BASE, EXTRA, LARGEST, SKIPS, class_of
from fmshards.codec.dct.search import DEADZONE, NEAR, SAMPLED, SPARE, TRIES
from fmshards.codec.dct.tables import Arrays
from fmshards.kernels import jit
from fmshards.kernels.llvm import address, pointer

_KNOWN = class_of(np.arange(64)).astype(np.uint8)  # of small magnitudes
_SKIPS = np.array(SKIPS)
_HALF, _MOST, _ONE = np.float32(DEADZONE), np.float32(LARGEST), np.float32(1)


def rows(x: Floats, blocks: Blocks, tables: Arrays, out: Bytes) -> None:
    """As `engine.encode_rows`."""
    sides = blocks.sides or (0, 0)
    _encode(
        *(x.ctypes.data, len(x), blocks.spec.values),
        *(tables.lengths, tables.sizes, tables.bits, _KNOWN, BASE, EXTRA, _SKIPS, steps(), tables.plain),
        *(np.float32(1) / tables.gains, tables.offsets, tables.run_offsets, matrices(tables.transformed)),
        *(np.array(blocks.rows, np.int64), np.array(blocks.columns, np.int64)),
        *(blocks.count, blocks.grid, blocks.turned, *sides, out),
    )


@jit.inner
def _first(peak: Any, scales: Any, magnitude: Any) -> Any:
    low, high = 0, STEPS - 1
    while low < high:
        middle = (low + high) // 2
        if peak * (_ONE / scales[middle]) + _HALF < magnitude:
            high = middle
        else:
            low = middle + 1
    return low


@jit.called
def _part(source: Any, peaks: Any, count: Any, inverse: Any, tables: Any, found: Any) -> Any:
    """Bits of the part of the blocks that says where to try; of few blocks, of all."""
    plain, lengths, sizes, _, known, _, _, skips = tables
    last, each = (1, count) if count < SAMPLED else (count // 128 * 128, 16)
    taken = 0
    for first in range(0, last, 128):
        taken += count_bits(source, peaks, first, first + each, inverse, plain, lengths, sizes, known, skips, found)
    return taken


@jit.called
def _whole(source: Any, peaks: Any, count: Any, inverse: Any, tables: Any, found: Any, target: Any, taken: Any) -> Any:
    """All segments, written one after another to address `target`; the bytes of each to `taken`, and their sum."""
    plain, lengths, _, codes, known, base, extra, skips = tables
    at = target
    for which in range(len(taken)):
        first = SEGMENT * which
        last = min(first + SEGMENT, count)
        taken[which] = write_bits(
            *(source, peaks, first, last, inverse, plain, lengths, codes, known, base, extra, skips, found, at)
        )
        at += taken[which]
    return at - target


@jit.inner
def _search(
    source: Any,
    peaks: Any,
    count: Any,
    room: Any,
    scales: Any,
    tables: Any,
    found: Any,
    target: Any,
    taken: Any,
) -> Any:
    """The number of the step of a row whose segments have `room` bytes; they are written with it. As `find_step`."""
    peak = np.float32(0)
    for block in range(count):
        peak = max(peak, peaks[block])
    good, bad = _first(peak, scales, _ONE), _first(peak, scales, _MOST + _ONE) - 1
    some = count if count < SAMPLED else count // 128 * 16
    left, right, most = bad + 1, good, 8 * room * some // count
    tries, written = 0, -1
    while good - bad > 1:
        step = (bad + good) // 2
        if tries < TRIES:
            while left < right:
                middle = (left + right) // 2
                if _part(source, peaks, count, _ONE / scales[middle], tables, found) <= most:
                    right = middle
                else:
                    left = middle + 1
            step = min(right, good - 1)
        tries += 1
        size, written = _whole(source, peaks, count, _ONE / scales[step], tables, found, target, taken), step
        if size > room:
            bad = step
        else:
            good = step
            if some == count or (room - size) * SPARE <= room:
                break
        left, right = max(bad + 1, step - NEAR), min(good, step + NEAR)
        most = room * _part(source, peaks, count, _ONE / scales[step], tables, found) // max(size, 1)
    if written != good:
        _whole(source, peaks, count, _ONE / scales[good], tables, found, target, taken)
    return good


@jit.inner
def _transform(
    x: Any,
    grid: Any,
    inverse_gains: Any,
    offsets: Any,
    matrix: Any,
    heights: Any,
    widths: Any,
    turned: Any,
    height: Any,
    width: Any,
    block: Any,
    target: Any,
) -> None:
    """A sample's places at address `x` to the coefficients of its grid at `target`."""
    channels, rows, columns = len(inverse_gains), len(heights), len(widths)
    at_block, at_matrix = address(block), address(matrix)
    by_row, by_column = (width * channels, channels) if turned else (width, 1)
    for channel in range(channels):
        start = x + 4 * channel * (1 if turned else height * width)
        y = 0
        for i in range(rows):
            place = 0
            for j in range(columns):
                down, across = at_matrix + 384 * heights[i], at_matrix + 384 * widths[j] + 256
                here = start + 4 * (y * by_row + place * by_column)
                if not turned and heights[i] == 4 and widths[j] == 4:
                    forward(here, 4 * width, down, across, offsets[channel], inverse_gains[channel], target)
                else:
                    span = (heights[i] - 1) * by_row + (widths[j] - 1) * by_column + 1
                    flat = carray(pointer(here), (span,), np.float32)
                    block[:] = 0
                    for r in range(heights[i]):
                        for c in range(widths[j]):
                            block[r, c] = flat[r * by_row + c * by_column] - offsets[channel]
                    forward(at_block, 16, down, across, np.float32(0), inverse_gains[channel], target)
                target += 64
                place += widths[j]
            y += heights[i]


@jit.kernel(
    "void(i8, i8, i8, u1[::1], u1[::1], u4[::1], u1[::1], i8[::1], i8[::1], i8[::1], f4[::1], i8, f4[::1], f4[::1],"
    "f4[::1], f4[:,::1], i8[::1], i8[::1], i8, i8, b1, i8, i8, u1[:,::1])"
)
def _encode(
    x: Any,
    n: Any,
    values: Any,
    lengths: Any,
    sizes: Any,
    codes: Any,
    known: Any,
    base: Any,
    extra: Any,
    skips: Any,
    scales: Any,
    plain: Any,
    inverse_gains: Any,
    offsets: Any,
    run_offsets: Any,
    matrix: Any,
    heights: Any,
    widths: Any,
    count: Any,
    grid: Any,
    turned: Any,
    height: Any,
    width: Any,
    out: Any,
) -> None:
    """n samples at address `x` into rows `out`."""
    segments = (count + SEGMENT - 1) // SEGMENT
    head, row_bytes = 2 + 2 * segments, out.shape[1]
    coefficients = np.zeros((count, 16), np.float32)
    peaks = np.empty(count, np.float32)
    block = np.zeros((4, 4), np.float32)
    found = np.zeros(16, np.int32)
    # A block takes 64 bytes at most, 32 bits a level; of what is tried, all is written.
    written, taken = np.empty(64 * count + 16, np.uint8), np.zeros(segments, np.int64)
    source, target = address(coefficients), address(written)
    sizes_of, known_of = address(sizes), address(known)
    runs, run_values = coefficients[grid:].reshape(-1), len(run_offsets)
    for sample in range(n):
        start = x + 4 * sample * values
        if grid:
            places = start + 4 * run_values
            _transform(
                *(places, grid, inverse_gains, offsets, matrix, heights, widths, turned, height, width, block, source)
            )
        if run_values:
            runs[:run_values] = carray(pointer(start), (run_values,), np.float32) - run_offsets
        for number in range(count):
            peaks[number] = largest(source + 64 * number)
        tables = (plain, lengths, sizes_of, codes, known_of, base, extra, skips)
        step = _search(source, peaks, count, row_bytes - head, scales, tables, found, target, taken)
        row, at = out[sample], 0
        row[0], row[1] = np.uint8(step & 255), np.uint8(step >> 8)
        for which in range(segments):
            row[2 + 2 * which], row[3 + 2 * which] = np.uint8(taken[which] & 255), np.uint8(taken[which] >> 8)
            at += taken[which]
        row[head : head + at] = written[:at]
        row[head + at :] = 0
