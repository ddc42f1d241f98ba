"""Which step a row is written with: one with which it fits, as fine as a part of its blocks and few tries say.

Integers decide, so that every engine writes the same bytes. cpu/encode.py has the same search compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from fmshards.codec.dct.blocks import STEPS, Blocks, steps
from fmshards.codec.dct.events import LARGEST

DEADZONE = 0.4
"""Added to a coefficient's magnitude, in steps, before what is no whole step is cut off."""
SAMPLED = 128
"""Blocks from which on a part of them says where to try: of every 8 times 16 blocks the first 16."""
TRIES, NEAR, SPARE = 6, 32, 64
"""How often the part is asked where to try; how many steps from the try before; what may be left over, a SPAREth."""


def find_step(
    peak: float, blocks: Blocks, row_bytes: int, part: Callable[[int], int], whole: Callable[[int], int]
) -> int:
    """The number of a step.

    peak: the largest magnitude of a coefficient, a float32. part, whole: bits of the part (of few blocks: all) and
    bytes of all segments, with that step.
    """
    # The finest step that is known to fit, as those without levels do, and the coarsest that is known not to.
    good, bad = _first(peak, 1), _first(peak, LARGEST + 1) - 1
    room, some = row_bytes - blocks.head, part_of(blocks.count)
    left, right, most = bad + 1, good, 8 * room * some // blocks.count
    tries = 0
    while good - bad > 1:
        step = (bad + good) // 2
        if tries < TRIES:
            step = min(_bisect(left, right, partial(_fits, part, most)), good - 1)
        tries += 1
        size = whole(step)
        if size > room:
            bad = step
        elif some == blocks.count or (room - size) * SPARE <= room:
            return step
        else:
            good = step
        left, right = max(bad + 1, step - NEAR), min(good, step + NEAR)
        # What all blocks take beside the part is about the same with the steps around.
        most = room * part(step) // max(size, 1)
    return good


def part_of(count: int) -> int:
    """How many of so many blocks are in the part."""
    return count if count < SAMPLED else count // 128 * 16


def _fits(part: Callable[[int], int], most: int, step: int) -> bool:
    return part(step) <= most


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
