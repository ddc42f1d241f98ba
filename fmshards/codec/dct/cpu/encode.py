"""Values to rows of `dct`. Imported only where numba works; engine.py says what is asked, and checks lengths.

A sample is transformed once; then steps are tried, by counting the bits that its events would take, as search.py does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from fmshards.codec.base import Bytes, Floats
from fmshards.codec.dct.blocks import SEGMENT, STEPS, Blocks, steps
from fmshards.codec.dct.cpu.matrices import matrices
from fmshards.codec.dct.cpu.vectors import forward, largest, negative, quantise
from fmshards.codec.dct.events import BASE, EXTRA, LARGEST, SKIPS, STARTS, class_of
from fmshards.codec.dct.search import DEADZONE, SAMPLED
from fmshards.codec.dct.tables import Arrays
from fmshards.kernels import jit
from fmshards.kernels.bits import count_leading_zeros, count_trailing_zeros, load8, load32, store64
from fmshards.kernels.llvm import pointer

_KNOWN = class_of(np.arange(64)).astype(np.uint8)  # of small magnitudes
_SKIPS = np.array(SKIPS)
_HALF, _MOST, _ONE = np.float32(DEADZONE), np.float32(LARGEST), np.float32(1)


def rows(x: Floats, blocks: Blocks, tables: Arrays, out: Bytes) -> None:
    """As `engine.encode_rows`."""
    sides = blocks.sides or (0, 0)
    _encode(
        *(x.ctypes.data, len(x), blocks.spec.values),
        *(tables.lengths, tables.sizes, tables.bits, _KNOWN, BASE, EXTRA, _SKIPS, steps(), tables.plain),
        *(np.float32(1) / tables.gains, tables.offsets, tables.run_offsets, matrices()),
        *(np.array(blocks.rows, np.int64), np.array(blocks.columns, np.int64)),
        *(blocks.count, blocks.grid, blocks.turned, *sides, out),
    )


@jit.inner
def _address(array: Any) -> Any:
    return np.int64(array.ctypes.data)


@jit.inner
def _class(known: Any, magnitude: Any) -> Any:
    """The class of a magnitude of 1 or more. known: the address of small ones'."""
    if magnitude < 64:
        return load8(known + magnitude)
    # Two classes an octave: the magnitudes less one begin with 10 or 11 in binary.
    extra = 62 - count_leading_zeros(magnitude - 1)
    return 2 * extra + 1 + (((magnitude - 1) >> extra) & 1) + 2


@jit.inner
def _skip(lengths: Any, skips: Any, state: Any, empty: Any) -> Any:
    """Which of the skips comes next: the largest with a code."""
    j = len(skips) - 1
    while skips[j] > empty or lengths[((state * 16 + j) * 32) * 2] == 0:
        j -= 1
    return j


@jit.inner
def _skipped(lengths: Any, skips: Any, state: Any, empty: Any) -> Any:
    """Bits that so many empty blocks take."""
    bits = 0
    while empty:
        j = _skip(lengths, skips, state, empty)
        bits += lengths[((state * 16 + j) * 32) * 2]
        empty -= skips[j]
        state = 0
    return bits


@jit.inner
def _levels(source: Any, inverse: Any, plain: Any, found: Any) -> Any:
    """A block's magnitudes to `found`, int32 [16]; the bits of those that are not 0."""
    mask = quantise(source, inverse, _HALF, _MOST, _address(found))
    if plain:
        mask &= ~(negative(source) & ((1 << plain) - 1))
    return mask


@jit.inner
def _bits(
    source: Any,
    peaks: Any,
    first: Any,
    last: Any,
    inverse: Any,
    plain: Any,
    lengths: Any,
    sizes: Any,
    known: Any,
    skips: Any,
    found: Any,
) -> Any:
    """Bits of a segment of the blocks first to last; 0 where it has no level."""
    bits, state, empty, some = 0, 0, 0, False
    levels = _address(found)
    for block in range(first, last):
        if peaks[block] * inverse + _HALF < _ONE:
            empty += 1
            continue
        mask = _levels(source + 64 * block, inverse, plain, found)
        if mask == 0:
            empty += 1
            continue
        some = True
        if empty:
            bits += _skipped(lengths, skips, state, empty)
            state, empty = 0, 0
        before, large = -1, 0
        while mask:
            place = count_trailing_zeros(mask)
            mask &= mask - 1
            magnitude = load32(levels + 4 * place)
            end = 1 if mask == 0 else 0
            which = ((state * 16 + place - before - 1) * 32 + _class(known, magnitude)) * 2 + end
            bits += load8(sizes + which)
            large |= 1 if magnitude >= 3 else 0
            state = 1 + large if end else STARTS + 2 * place + large
            before = place
    if not some:
        return 0
    if empty:
        bits += _skipped(lengths, skips, state, empty)
    return bits


@jit.inner
def _fits(
    source: Any,
    peaks: Any,
    count: Any,
    part: Any,
    most: Any,
    inverse: Any,
    plain: Any,
    lengths: Any,
    sizes: Any,
    known: Any,
    skips: Any,
    found: Any,
) -> Any:
    """Whether a sample's segments take no more than `most` bytes; of a part of the blocks, so many bits."""
    taken = 0
    if part:
        for first in range(0, count // 128 * 128, 128):
            taken += _bits(source, peaks, first, first + 16, inverse, plain, lengths, sizes, known, skips, found)
            if taken > most:
                return False
        return True
    for first in range(0, count, SEGMENT):
        last = min(first + SEGMENT, count)
        taken += (_bits(source, peaks, first, last, inverse, plain, lengths, sizes, known, skips, found) + 7) >> 3
        if taken > most:
            return False
    return True


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


@jit.inner
def _search(
    source: Any,
    peaks: Any,
    count: Any,
    room: Any,
    scales: Any,
    plain: Any,
    lengths: Any,
    sizes: Any,
    known: Any,
    skips: Any,
    found: Any,
) -> Any:
    """The number of the step, of a row whose segments have `room` bytes. As `find_step`, with its bisections."""
    peak = np.float32(0)
    for block in range(count):
        peak = max(peak, peaks[block])
    low, end = _first(peak, scales, _MOST + _ONE), _first(peak, scales, _ONE)
    if end == 0:
        return 0
    high = end
    if count >= SAMPLED:
        most = room * 8 * (count // 128 * 16) // count
        left, right = low, end
        while left < right:
            step = (left + right) // 2
            inverse = _ONE / scales[step]
            if _fits(source, peaks, count, True, most, inverse, plain, lengths, sizes, known, skips, found):
                right = step
            else:
                left = step + 1
        # From there on in steps that double, up to one that fits or down to one that does not.
        step, far = left, 1
        good = step >= end
        if not good:
            inverse = _ONE / scales[step]
            good = _fits(source, peaks, count, False, room, inverse, plain, lengths, sizes, known, skips, found)
        if good:
            high = step
            while high > low:
                lower = max(low, high - far)
                inverse = _ONE / scales[lower]
                if not _fits(source, peaks, count, False, room, inverse, plain, lengths, sizes, known, skips, found):
                    low = lower + 1
                    break
                high, far = lower, 2 * far
        else:
            while True:
                low, high = step + 1, min(end, step + far)
                if high >= end:
                    break
                inverse = _ONE / scales[high]
                if _fits(source, peaks, count, False, room, inverse, plain, lengths, sizes, known, skips, found):
                    break
                step, far = high, 2 * far
    while low < high:
        step = (low + high) // 2
        inverse = _ONE / scales[step]
        if _fits(source, peaks, count, False, room, inverse, plain, lengths, sizes, known, skips, found):
            high = step
        else:
            low = step + 1
    return low


@jit.inner
def _write(
    source: Any,
    peaks: Any,
    first: Any,
    last: Any,
    inverse: Any,
    plain: Any,
    lengths: Any,
    codes: Any,
    known: Any,
    base: Any,
    extra: Any,
    skips: Any,
    found: Any,
    target: Any,
) -> Any:
    """The bytes of a segment to address `target`, up to 8 more are written; how many they are."""
    levels = _address(found)
    begin, held, bits, state, empty, some = target, np.int64(0), 0, 0, 0, False
    for block in range(first, last + 1):
        mask = 0
        if block < last and not peaks[block] * inverse + _HALF < _ONE:
            mask = _levels(source + 64 * block, inverse, plain, found)
        if mask == 0 and block < last:
            empty += 1
            continue
        while empty:
            j = _skip(lengths, skips, state, empty)
            which = ((state * 16 + j) * 32) * 2
            held |= np.int64(codes[which]) << bits
            bits += lengths[which]
            empty -= skips[j]
            state = 0
            store64(target, held)
            target += bits >> 3
            held >>= bits & 56
            bits &= 7
        below = negative(source + 64 * block) if mask else 0
        some = some or mask != 0
        before, large = -1, 0
        while mask:
            place = count_trailing_zeros(mask)
            mask &= mask - 1
            magnitude = load32(levels + 4 * place)
            kind = _class(known, magnitude)
            end = 1 if mask == 0 else 0
            which = ((state * 16 + place - before - 1) * 32 + kind) * 2 + end
            width = extra[kind]
            data = (magnitude - base[kind]) | (((below >> place) & 1) << width)
            held |= (np.int64(codes[which]) | (data << np.int64(lengths[which]))) << bits
            bits += lengths[which] + width + (1 if place >= plain else 0)
            large |= 1 if magnitude >= 3 else 0
            state = 1 + large if end else STARTS + 2 * place + large
            before = place
            store64(target, held)
            target += bits >> 3
            held >>= bits & 56
            bits &= 7
    if not some:
        return 0
    return target - begin + (1 if bits else 0)


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
    at_block, at_matrix = _address(block), _address(matrix)
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
    "void(i8, i8, i8, u1[::1], u1[::1], u4[::1], u1[::1], i8[::1], i8[::1], i8[::1], f4[::1], i8, f4[::1], f4[::1], f4[::1],"
    "f4[:,::1], i8[::1], i8[::1], i8, i8, b1, i8, i8, u1[:,::1])"
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
    written = np.empty(row_bytes + 16, np.uint8)
    source, target = _address(coefficients), _address(written)
    sizes_of, known_of = _address(sizes), _address(known)
    runs, run_values = coefficients[grid:].reshape(-1), len(run_offsets)
    for sample in range(n):
        start = x + 4 * sample * values
        if grid:
            _transform(
                *(start + 4 * run_values, grid, inverse_gains, offsets, matrix, heights, widths, turned, height, width, block),
                source,
            )
        if run_values:
            runs[:run_values] = carray(pointer(start), (run_values,), np.float32) - run_offsets
        for number in range(count):
            peaks[number] = largest(source + 64 * number)
        room = row_bytes - head
        step = _search(source, peaks, count, room, scales, plain, lengths, sizes_of, known_of, skips, found)
        inverse = _ONE / scales[step]
        row, at = out[sample], 0
        row[0], row[1] = np.uint8(step & 255), np.uint8(step >> 8)
        for which in range(segments):
            first = SEGMENT * which
            last = min(first + SEGMENT, count)
            size = _write(
                *(source, peaks, first, last, inverse, plain, lengths, codes, known_of, base, extra, skips, found),
                target + at,
            )
            row[2 + 2 * which], row[3 + 2 * which] = np.uint8(size & 255), np.uint8(size >> 8)
            at += size
        row[head : head + at] = written[:at]
        row[head + at :] = 0
