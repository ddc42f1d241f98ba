"""The kernels of `int` rows, imported only where numba works; engine.py says what they do and checks lengths.

Encoding takes a tile of 8 runs at a time, a run a lane: nothing is summed across lanes, so that the sums have one
order and a chunk the same bytes everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from fmshards.codec.integer.cpu.vectors import LANES, extremes, measure, pack, to_unit, unpack, unpack_turned
from fmshards.kernels import jit
from fmshards.kernels.llvm import address, pointer

_PART = 512  # places whose sums are added up in float32; more in float64


@jit.inner
def _unpack_run(
    source: Any,
    source_end: Any,
    count: Any,
    bits: Any,
    scale: Any,
    offset: Any,
    target: Any,
    target_end: Any,
    spare: Any,
    values: Any,
) -> None:
    """`count` values from byte `source` on into floats at `target`, 8 at a time.

    source_end, target_end: where memory that may be read and written ends. Up to 7 floats beyond the run are written
    where they are within it. spare: uint8 [16], values: float32 [8]: for where they are not.
    """
    reach, groups = (bits >> 1) + 4, (count + 7) >> 3
    if source + groups * bits + 4 <= source_end and target + 32 * groups <= target_end:
        # Most runs: nothing to look at on the way.
        for group in range(groups):
            unpack(source + group * bits, bits, scale, offset, target + 32 * group)
        return
    left = count
    while left > 0 and source + reach <= source_end and target + 32 <= target_end:
        unpack(source, bits, scale, offset, target)
        source += bits
        target += 32
        left -= 8
    while left > 0:
        have = min(bits, source_end - source)
        bytes_ = carray(pointer(source), (have,), np.uint8)
        for j in range(have):
            spare[j] = bytes_[j]
        unpack(address(spare), bits, scale, offset, address(values))
        some = min(left, 8)
        out = carray(pointer(target), (some,), np.float32)
        for j in range(some):
            out[j] = values[j]
        source += bits
        target += 32
        left -= 8


@jit.kernel("void(i8, i8, i8, i8, i8, i8, f4[::1], f4[::1], i8, i8, i8, i8)")
def decode(
    rows: Any,
    row_stride: Any,
    n: Any,
    runs: Any,
    length: Any,
    bits: Any,
    scales: Any,
    offsets: Any,
    out: Any,
    by_sample: Any,
    by_run: Any,
    by_value: Any,
) -> None:
    """n rows from address `rows` on, `row_stride` bytes apart; `out` an address, its strides in values."""
    stored = len(scales) == 0
    head = 4 * runs if stored else 0
    run_bytes = (length * bits + 7) >> 3
    row_bytes = head + runs * run_bytes
    spare = np.zeros(16, np.uint8)
    values = np.empty(LANES, np.float32)
    steps = np.empty(2 * runs if stored else 0, np.float32)
    words = steps.view(np.uint32)
    line = np.empty(LANES, np.float32)
    at_line, reach = address(line), (bits >> 1) + 4
    for sample in range(n):
        row = rows + sample * row_stride
        if stored:
            bytes_ = carray(pointer(row), (4 * runs,), np.uint8)
            for i in range(2 * runs):
                words[i] = (np.uint32(bytes_[2 * i]) << np.uint32(16)) | (np.uint32(bytes_[2 * i + 1]) << np.uint32(24))
        scale = steps[:runs] if stored else scales
        offset = steps[runs:] if stored else offsets
        first, codes, end = out + 4 * sample * by_sample, row + head, row + row_bytes
        if by_value == 1:
            for run in range(runs):
                target = first + 4 * run * by_run
                # What is written beyond a run is the beginning of the next, which follows.
                stop = first + 4 * runs * length if by_run == length else target + 4 * length
                source = codes + run * run_bytes
                _unpack_run(source, end, length, bits, scale[run], offset[run], target, stop, spare, values)
            continue
        span = (runs - 1) * by_run + (length - 1) * by_value + 1
        flat = carray(pointer(first), (span,), np.float32)
        for place in range(0, length, LANES):
            count = min(LANES, length - place)
            at = codes + ((place * bits) >> 3)
            run = 0
            if by_run == 1 and count == LANES:
                while run + LANES <= runs and at + (run + LANES - 1) * run_bytes + reach <= end:
                    target = first + 4 * (run + place * by_value)
                    steps_at = 4 * run
                    unpack_turned(
                        at + run * run_bytes,
                        run_bytes,
                        bits,
                        address(scale) + steps_at,
                        address(offset) + steps_at,
                        target,
                        4 * by_value,
                    )
                    run += LANES
            while run < runs:
                source = at + run * run_bytes
                _unpack_run(source, end, count, bits, scale[run], offset[run], at_line, at_line + 32, spare, values)
                for i in range(count):
                    flat[run * by_run + (place + i) * by_value] = line[i]
                run += 1


@jit.kernel("void(i8, i8, i8, i8, i8, f4[::1], f4[::1], i8, i8, i8)")
def decode_each(
    rows: Any,
    row_stride: Any,
    n: Any,
    length: Any,
    bits: Any,
    scales: Any,
    offsets: Any,
    out: Any,
    by_sample: Any,
    by_value: Any,
) -> None:
    """As `decode`, for rows of one run whose values have a step each."""
    row_bytes = (length * bits + 7) >> 3
    spare = np.zeros(16, np.uint8)
    values = np.empty(LANES, np.float32)
    codes = np.empty(length, np.float32)
    at_codes = address(codes)
    for sample in range(n):
        row = rows + sample * row_stride
        end = at_codes + 4 * length
        _unpack_run(row, row + row_bytes, length, bits, np.float32(1), np.float32(0), at_codes, end, spare, values)
        flat = carray(pointer(out + 4 * sample * by_sample), ((length - 1) * by_value + 1,), np.float32)
        if by_value == 1:
            for i in range(length):
                flat[i] = scales[i] * codes[i] + offsets[i]
        else:
            for i in range(length):
                flat[i * by_value] = scales[i] * codes[i] + offsets[i]


@jit.inner
def _round_bf16(value: Any, word: Any, single: Any) -> Any:
    """A float64 to the nearest bfloat16, never an infinite one, as float32. word, single: one uint32, its float32."""
    single[0] = np.float32(value)
    bits = word[0]
    rest = bits & np.uint32(0x7FFFFFFF)
    if rest >= np.uint32(0x7F7F8000):
        word[0] = (bits & np.uint32(0x80000000)) | np.uint32(0x7F7F0000)
    else:
        word[0] = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return single[0]


@jit.inner
def _away_bf16(value: Any, word: Any, single: Any) -> Any:
    """As `_round_bf16`, away from zero."""
    single[0] = np.float32(value)
    bits = word[0]
    if bits & np.uint32(0xFFFF):
        bits = (bits & np.uint32(0xFFFF0000)) + np.uint32(0x10000)
    if (bits & np.uint32(0x7FFFFFFF)) >= np.uint32(0x7F800000):
        bits = (bits & np.uint32(0x80000000)) | np.uint32(0x7F7F0000)
    word[0] = bits
    return single[0]


@jit.inner
def _floor_bf16(value: Any, word: Any, single: Any) -> Any:
    """As `_round_bf16`, down."""
    if value < 0:
        return _away_bf16(value, word, single)
    single[0] = value
    word[0] &= np.uint32(0xFFFF0000)
    return single[0]


@jit.inner
def _fit(
    tile: Any,
    length: Any,
    bits: Any,
    shares: Any,
    rounds: Any,
    least: Any,
    how: Any,
    part: Any,
    sums: Any,
    scale: Any,
    offset: Any,
    word: Any,
    single: Any,
) -> None:
    """scale, offset float32 [8] of a tile of x [length, 8], which becomes y; `how` what codes of y are made with."""
    top = np.float32((1 << bits) - 1)
    at, at_how, at_part = address(tile), address(how), address(part)
    start = np.empty(LANES, np.float32)
    reach = np.empty(LANES, np.float64)
    fixed = np.empty(LANES, np.bool_)
    extremes(at, length, at_part)
    least_most = part[:2].copy()
    for k in range(LANES):
        low, high = part[0, k], part[1, k]
        fixed[k] = low == 0
        start[k] = np.float32(0) if fixed[k] else _floor_bf16(low, word, single)
        reach[k] = np.float64(high) - np.float64(start[k])
        if reach[k] < least:
            reach[k] = 0.0
            start[k] = _round_bf16(low if low > 0 else (high if high < 0 else np.float32(0)), word, single)
        how[0, k] = np.float32(0.5) * start[k]
        how[1, k] = np.float32(2.0 / reach[k]) if reach[k] > 0 else np.float32(0)
        scale[k], offset[k] = np.float32(0), start[k]
    total = np.zeros((5, LANES))
    place = 0
    while place < length:
        to_unit(at + 32 * place, min(_PART, length - place), at_how, at_part)
        total[4] += part[0]
        place += _PART
    best = np.full(LANES, np.inf)
    for begin in range(len(shares) + 2):
        for k in range(LANES):
            if begin == 0:
                sums[0, k] = _away_bf16(reach[k] / top, word, single)
                sums[1, k] = start[k]
                continue
            share = shares[begin - 2] if begin > 1 else 1.0
            span = least_most[1, k] - np.float64(least_most[0, k])
            shift = np.float64(least_most[0, k]) + 0.5 * (1 - share) * span
            sums[0, k] = _round_bf16(share * span / top, word, single)
            sums[1, k] = np.float32(0) if fixed[k] else _round_bf16(shift, word, single)
        for _ in range(rounds if begin > 1 else 1):
            for k in range(LANES):
                unit = np.float64(sums[0, k]) / reach[k] if reach[k] > 0 else 0.0
                how[0, k] = (np.float64(sums[1, k]) - np.float64(start[k])) / reach[k] if reach[k] > 0 else 0.0
                how[1, k] = 1.0 / unit if unit > 0 else 0.0
                how[2, k] = unit
            total[:4] = 0
            place = 0
            while place < length:
                measure(at + 32 * place, min(_PART, length - place), at_how, top, at_part)
                total[:4] += part
                place += _PART
            for k in range(LANES):
                if reach[k] == 0:
                    continue
                error, q, qq, qy, y = total[0, k], total[1, k], total[2, k], total[3, k], total[4, k]
                if error < best[k]:
                    best[k] = error
                    scale[k], offset[k] = sums[0, k], sums[1, k]
                if fixed[k]:
                    step, shift = (qy / qq if qq > 0 else 0.0), 0.0
                else:
                    spread = qq - q * q / length
                    step = (qy - q * y / length) / spread if spread > 1e-6 else 0.0
                    shift = (y - step * q) / length
                if step > 0:
                    sums[0, k] = _round_bf16(step * reach[k], word, single)
                    sums[1, k] = _round_bf16(np.float64(start[k]) + shift * reach[k], word, single)
    for k in range(LANES):
        unit = np.float64(scale[k]) / reach[k] if reach[k] > 0 else 0.0
        how[0, k] = (np.float64(offset[k]) - np.float64(start[k])) / reach[k] if reach[k] > 0 else 0.0
        how[1, k] = 1.0 / unit if unit > 0 else 0.0


@jit.kernel("void(i8, i8, i8, i8, b1, i8, f8[::1], i8, f8, f4[::1], f4[::1], u1[:,::1])")
def encode(
    x: Any,
    n: Any,
    runs: Any,
    length: Any,
    turned: Any,
    bits: Any,
    shares: Any,
    rounds: Any,
    least: Any,
    scales: Any,
    offsets: Any,
    out: Any,
) -> None:
    """Values at address `x`, float32 [n, runs, length], or [n, length, runs] where turned, into rows `out`."""
    stored = len(scales) == 0
    head = 4 * runs if stored else 0
    run_bytes = (length * bits + 7) >> 3
    top = np.float32((1 << bits) - 1)
    groups = (length + 7) >> 3
    tile = np.zeros((8 * groups, LANES), np.float32)
    how = np.zeros((3, LANES), np.float32)
    part = np.zeros((4, LANES), np.float32)
    sums = np.zeros((2, LANES), np.float32)
    scale = np.zeros(LANES, np.float32)
    offset = np.zeros(LANES, np.float32)
    words = np.zeros(LANES, np.uint64)
    single = np.zeros(1, np.float32)
    word = single.view(np.uint32)
    values = carray(pointer(x), (n * runs * length,), np.float32)
    last = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - bits * (length - 8 * (groups - 1)))
    # Runs follow each other over samples; turned ones do not, and a tile ends with its sample.
    for start in range(n * ((runs + LANES - 1) // LANES) if turned else (n * runs + LANES - 1) // LANES):
        if turned:
            tiles = (runs + LANES - 1) // LANES
            sample, first = start // tiles, start % tiles * LANES
            lanes = min(LANES, runs - first)
            base = sample * runs * length + first
            for i in range(length):
                for k in range(lanes):
                    tile[i, k] = values[base + i * runs + k]
                for k in range(lanes, LANES):
                    tile[i, k] = tile[i, 0]
            first += sample * runs
        else:
            first = start * LANES
            lanes = min(LANES, n * runs - first)
            for k in range(LANES):
                base = (first + min(k, lanes - 1)) * length
                for i in range(length):
                    tile[i, k] = values[base + i]
        if stored:
            _fit(tile, length, bits, shares, rounds, least, how, part, sums, scale, offset, word, single)
        else:
            for k in range(LANES):
                run = (first + min(k, lanes - 1)) % runs
                how[0, k] = offsets[run]
                how[1, k] = np.float32(1) / scales[run] if scales[run] > 0 else np.float32(0)
        if stored:
            for k in range(lanes):
                sample, run = (first + k) // runs, (first + k) % runs
                single[0] = scale[k]
                out[sample, 2 * run] = np.uint8(word[0] >> np.uint32(16))
                out[sample, 2 * run + 1] = np.uint8(word[0] >> np.uint32(24))
                single[0] = offset[k]
                out[sample, 2 * (runs + run)] = np.uint8(word[0] >> np.uint32(16))
                out[sample, 2 * (runs + run) + 1] = np.uint8(word[0] >> np.uint32(24))
        for group in range(groups):
            pack(address(tile) + 8 * 32 * group, address(how), top, bits, address(words))
            for k in range(lanes):
                sample, run = (first + k) // runs, (first + k) % runs
                data = words[k] & last if group == groups - 1 else words[k]
                at = head + run * run_bytes + group * bits
                for j in range(min(bits, run_bytes - group * bits)):
                    out[sample, at + j] = np.uint8(data >> np.uint64(8 * j))
