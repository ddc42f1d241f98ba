"""How a row of `int` holds a feature: runs of values, and what fits of their scales and offsets begin with.

A feature is R runs of L values, each with a scale and an offset: the R channels of a map or of tokens, or a vector as
one run. A row is R scales and R offsets as bfloat16 (unless they are given from outside, one a channel), then each
run's L codes of b bits. A value is float32(float32(scale * code) + offset) on every engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fmshards.codec.feature import FeatureSpec

ROUNDS = 3
"""How often a range is coded and fitted."""

LEAST_RANGE = 2.0**-100
"""A run whose values lie closer together is stored as one value, as float32 has no step for it: the least magnitude
between its extremes, so that no value's error is larger than the value (to its nearest bfloat16, too)."""


def shares(bits: int) -> npt.NDArray[np.float64]:
    """The parts of a run's range that fits start from: with fewer bits, clipping more pays."""
    clipped = {2: (0.8, 0.5), 3: (0.85, 0.65), 4: (0.95, 0.8), 5: (0.97, 0.88)}
    return np.array(clipped.get(bits, (1.0, 0.97)))


@dataclass(frozen=True)
class Runs:
    """How a row holds a feature. steps: None where scales and offsets are in the row, else (scale, offset) float32
    [channels] each."""

    spec: FeatureSpec
    bits: int
    steps: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None

    @property
    def count(self) -> int:
        """R."""
        return 1 if self.spec.kind == "vector" else self.spec.channels

    @property
    def length(self) -> int:
        """L."""
        return self.spec.values // self.count

    @property
    def turned(self) -> bool:
        """Whether a sample holds its values place by place, not run by run."""
        return self.spec.kind in ("map_last", "tokens")

    @property
    def head(self) -> int:
        """Bytes of scales and offsets in a row."""
        return 4 * self.count if self.steps is None else 0

    @property
    def run_bytes(self) -> int:
        return -(-self.length * self.bits // 8)

    @property
    def row_bytes(self) -> int:
        return self.head + self.count * self.run_bytes
