"""Blocks of coefficients to where their values belong. Imported only where numba works."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import carray

from fmshards.codec.dct.blocks import Blocks
from fmshards.codec.dct.cpu.inverse import HEIGHTS, WIDTHS, inverse, way
from fmshards.kernels import jit
from fmshards.kernels.llvm import address, pointer

Ints = npt.NDArray[np.int64]

_HEIGHTS, _WIDTHS = max(HEIGHTS), len(WIDTHS)


@lru_cache(maxsize=64)
def sides_of(blocks: Blocks) -> tuple[Ints, Ints, Ints]:
    """Heights and widths of blocks, and int64 [columns, 3]: of each column of blocks its first cell, how it is brought
    back together with the next one, in blocks of 4 rows (-1: it is not), and by itself. See `inverse.way`."""
    widths, found, first = blocks.columns, [], 0
    for j, width in enumerate(widths):
        pair = widths[j : j + 2]
        found.append((first, way(4, pair) if pair in WIDTHS and len(pair) == 2 else -1, way(4, (width,))))
        first += width
    sides = np.array(blocks.rows, np.int64), np.array(widths, np.int64)
    return *sides, np.array(found, np.int64).reshape(-1, 3)


@jit.inner
def lay(
    source: Any,
    step: Any,
    first: Any,
    last: Any,
    gains: Any,
    means: Any,
    offsets: Any,
    heights: Any,
    widths: Any,
    columns: Any,
    turned: Any,
    height: Any,
    width: Any,
    to: Any,
    least: Any,
    block: Any,
    as_they_are: Any,
) -> None:
    """Blocks first to last of the grid, from address `source`, to a sample's places at address `to`.

    columns: see `sides_of`. turned: whether channels lie side by side. block: float32 [4, 8], for use here.
    as_they_are: 0, or AS_THEY_ARE for blocks that were not transformed.
    """
    channels, rows = len(gains), len(heights)
    across = len(widths)
    channel, rest = first // (rows * across), first % (rows * across)
    i, j = rest // across, rest % across
    y = 0
    for k in range(i):
        y += heights[k]
    at_block = address(block)
    number = first
    while number < last:
        # The blocks side by side from here on.
        mean, gain, offset = means[channel], gains[channel] * step, offsets[channel]
        high = heights[i]
        kind = as_they_are + (_HEIGHTS - high) * _WIDTHS
        stop = min(across, j + last - number)
        number += stop - j
        while j < stop:
            some, which = 2, columns[j, 1]
            if which < 0 or j + 1 == stop:
                some, which = 1, columns[j, 2]
            which += kind
            if turned:
                inverse(which, source, mean, gain, offset, least, at_block, 32)
                wide = widths[j] + (widths[j + 1] if some == 2 else 0)
                start = to + 4 * (channel + (y * width + columns[j, 0]) * channels)
                flat = carray(pointer(start), (((high - 1) * width + wide - 1) * channels + 1,), np.float32)
                for r in range(high):
                    for c in range(wide):
                        flat[(r * width + c) * channels] = block[r, c]
            else:
                start = to + 4 * ((channel * height + y) * width + columns[j, 0])
                inverse(which, source, mean, gain, offset, least, start, 4 * width)
            source += 64 * some
            j += some
        j = 0
        y += high
        i += 1
        if i == rows:
            i, y = 0, 0
            channel += 1


@jit.inner
def lay_runs(
    found: Any, cells: Any, step: Any, first: Any, last: Any, grid: Any, offsets: Any, to: Any, least: Any
) -> None:
    """Those of blocks first to last that hold runs, from `found`, which becomes 0, to a sample at address `to`."""
    for number in range(max(first, grid), last):
        begin, at = 16 * (number - grid), 16 * (number - first)
        some = min(16, len(offsets) - begin)
        flat = carray(pointer(to + 4 * begin), (some,), np.float32)
        for i in range(some):
            value = found[at + cells[i]] * step + offsets[begin + i]
            flat[i] = np.float32(0) if value < least else value
        found[at : at + 16] = 0
