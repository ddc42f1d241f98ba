"""The engine of `int` on numpy, where there are no compiled kernels; and how scales and offsets are fitted to a run.

From each of a few ranges that the codes may cover, the values are coded, and a line through (code, value) by least
squares gives the next scale and offset; each is rounded to bfloat16 before its error is measured, and the least error
wins. The run's own range is tried too, and the one that rounding leaves around it, so that no run is worse than by its
extremes. A run whose least value is 0 keeps offset 0: zeros stay zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fmshards.codec.base import Bytes, Floats
from fmshards.codec.integer.runs import LEAST_RANGE, ROUNDS, Runs, shares

_LARGEST_BF16 = np.float32(3.3895314e38)


def encode(x: Floats, runs: Runs, out: Bytes) -> None:
    """As `engine.encode_rows`."""
    values = x.reshape(len(x), runs.length, runs.count).swapaxes(1, 2) if runs.turned else x
    values = values.reshape(-1, runs.count, runs.length)
    top = np.float32((1 << runs.bits) - 1)
    if runs.steps is None:
        scale, offset, codes = _fit(np.ascontiguousarray(values), runs.bits)
        steps = np.concatenate([scale, offset], 1).view(np.uint32) >> 16
        out[:, : runs.head] = steps.astype("<u2").view(np.uint8)
    else:
        scale, offset = (part if len(part) == runs.length and runs.count == 1 else part[:, None] for part in runs.steps)
        with np.errstate(over="ignore", divide="ignore"):
            inverse = np.where(scale > 0, np.float32(1) / scale, np.float32(0))
        codes = _codes(values, offset, inverse, top)
    bits = (codes[..., None] >> np.arange(runs.bits, dtype=np.uint8)) & 1
    packed = np.packbits(bits.reshape(len(x), runs.count, -1), axis=2, bitorder="little")
    out[:, runs.head :] = packed.reshape(len(x), -1)


def _codes(values: Floats, offset: Floats, inverse: Floats, top: np.float32) -> npt.NDArray[np.uint8]:
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.nan_to_num((values - offset) * inverse, nan=0.0)
    codes: npt.NDArray[np.uint8] = np.rint(np.clip(scaled, 0, top)).astype(np.uint8)
    return codes


def decode(rows: Bytes, runs: Runs) -> Floats:
    """The values of rows, uint8 [n, row_bytes], as float32 [n, R, L]."""
    n, bits = len(rows), runs.bits
    packed = rows[:, runs.head :].reshape(n, runs.count, runs.run_bytes)
    each = np.unpackbits(packed, axis=2, count=runs.length * bits, bitorder="little")
    codes = each.reshape(n, runs.count, runs.length, bits) @ (1 << np.arange(bits))
    if runs.steps is None:
        halves = np.ascontiguousarray(rows[:, : runs.head]).view("<u2").astype(np.uint32)
        steps = (halves << 16).view(np.float32).reshape(n, 2, runs.count, 1)
        scale, offset = steps[:, 0], steps[:, 1]
    else:
        scale, offset = (part if runs.count == 1 and len(part) == runs.length else part[:, None] for part in runs.steps)
    with np.errstate(over="ignore", invalid="ignore"):
        values: Floats = scale * codes.astype(np.float32) + offset
    return values


def _fit(x: Floats, bits: int) -> tuple[Floats, Floats, npt.NDArray[np.uint8]]:
    """scale and offset, float32 [n, R], and codes, uint8 [n, R, L], of x [n, R, L]: what cpu/kernels.py does."""
    top = np.float32((1 << bits) - 1)
    low, high = x.min(2), x.max(2)
    fixed = low == 0
    start = np.where(fixed, np.float32(0), _floor(low))
    reach = high.astype(np.float64) - start
    alone = reach < LEAST_RANGE
    start = np.where(alone, _nearest(np.asarray(np.clip(np.float32(0), low, high) + np.float32(0))), start)
    reach = np.where(alone, 1.0, reach)
    with np.errstate(over="ignore"):
        factor = np.where(alone, 0.0, 2 / reach).astype(np.float32)
    y = (x * np.float32(0.5) - (start * np.float32(0.5))[..., None]) * factor[..., None]
    total, length = y.sum(2, dtype=np.float64), x.shape[2]
    best, scale, offset = np.full(low.shape, np.inf), np.zeros_like(start), start.copy()
    span = high - low.astype(np.float64)
    whole = np.where(fixed, np.float32(0), _nearest(low))
    starts = [(_away(reach / top), start, 1), (_nearest(span / top), whole, 1)]
    for share in shares(bits):
        shift = np.where(fixed, np.float32(0), _nearest(low + (1 - share) / 2 * span))
        starts.append((_nearest(share * span / top), shift, ROUNDS))
    for step, shift, rounds in starts:
        for _ in range(rounds):
            unit, begin, inverse = _units(step, shift, start, reach)
            codes = _codes(y, begin[..., None], inverse[..., None], top).astype(np.float32)
            error = np.square(y - (codes * unit[..., None] + begin[..., None])).sum(2, dtype=np.float64)
            better = (error < best) & ~alone
            best = np.where(better, error, best)
            scale, offset = np.where(better, step, scale), np.where(better, shift, offset)
            q, qq = codes.sum(2, dtype=np.float64), np.square(codes).sum(2, dtype=np.float64)
            qy = (codes * y).sum(2, dtype=np.float64)
            spread = np.where(fixed, qq, qq - q * q / length)
            covered = np.where(fixed, qy, qy - q * total / length)
            slope = np.where(spread > 1e-6, covered / np.where(spread > 1e-6, spread, 1), 0)
            level = np.where(fixed, 0, (total - slope * q) / length)
            moved = slope > 0
            step = np.where(moved, _nearest(slope * reach), step)
            shift = np.where(moved, _nearest(start + level * reach), shift)
    _, begin, inverse = _units(scale, offset, start, reach)
    return scale, offset, _codes(y, begin[..., None], inverse[..., None], top)


def _units(scale: Floats, offset: Floats, start: Floats, reach: Any) -> tuple[Floats, Floats, Floats]:
    """Scale, offset and 1 / scale for y, whose range is about 0 to 1."""
    unit = scale / reach
    inverse = np.where(unit > 0, 1 / np.where(unit > 0, unit, 1), 0)
    begin = (offset.astype(np.float64) - start) / reach
    return unit.astype(np.float32), begin.astype(np.float32), inverse.astype(np.float32)


def _nearest(value: npt.NDArray[Any]) -> Floats:
    """The nearest bfloat16, never an infinite one, as float32."""
    with np.errstate(over="ignore"):
        bits = np.asarray(value, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) & np.uint32(0xFFFF0000)
    large = (bits & 0x7FFFFFFF) >= 0x7F7F8000
    return _limited(np.where(large, bits, rounded).astype(np.uint32), large)


def _away(value: npt.NDArray[Any]) -> Floats:
    """The next bfloat16 away from zero, never an infinite one."""
    with np.errstate(over="ignore"):
        bits = np.asarray(value, np.float32).view(np.uint32)
    next_ = np.where(bits & 0xFFFF, (bits & 0xFFFF0000) + 0x10000, bits).astype(np.uint32)
    return _limited(next_, (next_ & 0x7FFFFFFF) >= 0x7F800000)


def _floor(value: Floats) -> Floats:
    cut = (value.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(value < 0, _away(value), cut)


def _limited(bits: npt.NDArray[np.uint32], large: npt.NDArray[np.bool_]) -> Floats:
    values = bits.view(np.float32)
    return np.where(large, np.copysign(_LARGEST_BF16, values), values).astype(np.float32)
