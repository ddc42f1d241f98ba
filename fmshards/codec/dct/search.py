"""Which step a row is written with: the finest with which it fits, near where a part of its blocks says.

Integers decide, so that every engine writes the same bytes. cpu/encode.py has the same search compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fmshards.codec.dct.blocks import STEPS, Blocks, steps
from fmshards.codec.dct.events import LARGEST

DEADZONE = 0.4
"""Added to a coefficient's magnitude, in steps, before what is no whole step is cut off."""
SAMPLED = 1024
"""Blocks from which on a part of them is asked first: of every 8 times 16 blocks the first 16."""


def find_step(peak: float, blocks: Blocks, row_bytes: int, bits: Callable[[int, slice | None], Any]) -> int:
    """The number of a step.

    peak: the largest magnitude of a coefficient, a float32. bits(step, chosen): of each segment with that step; chosen:
    None, or anything else for the part.
    """
    low, high = _first(peak, LARGEST + 1), _first(peak, 1)
    if high == 0:
        return 0

    def fits(step: int) -> bool:
        return step >= high or blocks.head + int((-(-bits(step, None) // 8)).sum()) <= row_bytes

    if blocks.count < SAMPLED:
        return _bisect(low, high, fits)
    some = blocks.count // 128 * 16
    most = (row_bytes - blocks.head) * 8 * some // blocks.count
    step = _bisect(low, high, lambda step: step >= high or int(bits(step, slice(0)).sum()) <= most)
    far = 1
    if fits(step):
        while step > low:
            lower = max(low, step - far)
            if not fits(lower):
                return _bisect(lower + 1, step, fits)
            step, far = lower, 2 * far
        return step
    while True:
        higher = min(high, step + far)
        if fits(higher):
            return _bisect(step + 1, higher, fits)
        step, far = higher, 2 * far


def _bisect(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The first of low to high that fits, where those above fit too; `high` is not asked."""
    while low < high:
        middle = (low + high) // 2
        if fits(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _first(peak: float, magnitude: int) -> int:
    """The finest step with which the peak is under a magnitude."""
    size = np.float32(peak)

    def under(step: int) -> bool:
        with np.errstate(over="ignore"):
            return bool(size * (np.float32(1) / steps()[step]) + np.float32(DEADZONE) < magnitude)

    return _bisect(0, STEPS - 1, under)
