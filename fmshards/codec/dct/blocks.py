"""How `dct` lays out a feature: blocks of 16 coefficients, and the segments of a row that hold them.

A feature whose places have two sides of 3 or more is cut, channel by channel, into blocks of 4 x 4 cells, some of 3
where a side is no multiple of 4, so that nothing is padded; each is transformed by a DCT of its own size, or, where
that serves better, its values are the coefficients. What has no such places (vectors, class tokens, sequences, sides
under 3) is laid end to end in runs of 16 values, never transformed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from fmshards.codec.feature import FeatureSpec

SEGMENT = 512
"""Blocks of a segment; the last one of a row has what is left."""
SCAN = (0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15)
"""Of a block, the coefficient 4 u + v (u across rows, v across columns) at each place of the scan."""
CELLS = tuple(4 * (cell % 4) + cell // 4 for cell in SCAN)
"""The same by columns, 4 v + u: where decoders put the coefficient, as they go across first."""
STEPS = 6689
"""How many steps there are: step i is 2^(i / 32 - 126), its part under an octave rounded to binary32. With the
largest, 2^83, no row decodes to infinity."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Blocks:
    """The blocks of a feature: those of its places first, channel by channel, row by row, then the runs.

    Runs hold a sample's first `run_values` values in its own order; the last run is filled up with zeros.
    """

    spec: FeatureSpec

    @property
    def sides(self) -> tuple[int, int] | None:
        """(h, w) of the places that are cut into blocks; None where there are only runs."""
        places = self.spec.spatial
        return places if places is not None and min(places) >= 3 else None

    @property
    def turned(self) -> bool:
        """Whether a sample holds its values place by place, not channel by channel."""
        return self.spec.kind in ("map_last", "tokens")

    @property
    def skipped(self) -> int:
        """Values of a sample before the first of the grid: the class tokens'."""
        return self.spec.class_tokens * self.spec.channels if self.sides else 0

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Heights of the blocks, from the top."""
        return parts(self.sides[0]) if self.sides else ()

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """Widths of the blocks, from the left."""
        return parts(self.sides[1]) if self.sides else ()

    @property
    def grid(self) -> int:
        """Blocks of the places."""
        return self.spec.channels * math.prod(-(-side // 4) for side in self.sides) if self.sides else 0

    @property
    def run_values(self) -> int:
        """Values in runs."""
        return self.skipped if self.sides else self.spec.values

    @property
    def count(self) -> int:
        """All blocks of a sample."""
        return self.grid + -(-self.run_values // 16)

    @property
    def segments(self) -> int:
        return -(-self.count // SEGMENT)

    @property
    def offsets(self) -> int:
        """How many offsets there are: one for each channel, and behind a grid one for each value of the runs."""
        return self.spec.channels + self.skipped

    @property
    def head(self) -> int:
        """Bytes of a row before its segments: the step, and each segment's length."""
        return 2 + 2 * self.segments

    @cached_property
    def inside(self) -> npt.NDArray[np.bool_]:
        """bool [blocks of a channel, 16]: whether a place of the scan is in the block, which may have sides of 3."""
        cells = [[u < height and v < width for u in range(4) for v in range(4)] for height, width in self._sizes]
        return np.array(cells, bool).reshape(-1, 16)[:, SCAN]

    @property
    def _sizes(self) -> list[tuple[int, int]]:
        return [(height, width) for height in self.rows for width in self.columns]

    def plain(self, nonnegative: bool, transformed: bool) -> int:
        """How many coefficients of a block, from the first on, have no sign."""
        return 0 if not nonnegative else 1 if transformed else 16


@lru_cache(maxsize=64)
def parts(side: int) -> tuple[int, ...]:
    """A side of 3 or more cut into as few parts of 4 and 3 as there may be, those of 4 first; 5 into 3 and 2."""
    if side == 5:
        return 3, 2
    count = -(-side // 4)
    threes = 4 * count - side
    return (4,) * (count - threes) + (3,) * threes


@lru_cache(maxsize=2)
def transforms(transformed: bool = True) -> Floats:
    """float32 [5, 4, 4]: of each size n (2 to 4) the matrix that takes n values to n coefficients, zeros elsewhere.

    The orthonormal DCT-II: row k is sqrt(c / n) cos(pi (2 i + 1) k / (2 n)), c = 1 for k = 0 and else 2, each rounded
    to binary32 (Ahmed, Natarajan, Rao 1974). Not transformed: what takes each value to itself.
    """
    found = np.zeros((5, 4, 4))
    for n in (2, 3, 4):
        if not transformed:
            found[n, :n, :n] = np.eye(n)
            continue
        for k in range(n):
            for i in range(n):
                found[n, k, i] = math.sqrt((2 if k else 1) / n) * math.cos(math.pi * (2 * i + 1) * k / (2 * n))
    found[np.abs(found) < 1e-9] = 0
    return found.astype(np.float32)


@lru_cache(maxsize=1)
def steps() -> Floats:
    """float32 [STEPS]."""
    octave, part = np.divmod(np.arange(STEPS), 32)
    found: Floats = np.ldexp((2.0 ** (part / 32)).astype(np.float32), octave - 126)
    return found
