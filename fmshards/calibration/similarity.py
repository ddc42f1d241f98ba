"""How alike moved features and features of moved images are, channel by channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fmshards.codec import FeatureSpec
from fmshards.shards import Similarity

_SMALL, _LARGE = 1e-15, 1e15


@dataclass
class Comparison:
    """Running sums over batches, one value a channel (class tokens and places together); features are not kept.

    dot, moved, true: sums of m*t, m*m and t*t; gap: of (m - t)**2. float64[C].
    """

    spec: FeatureSpec
    dot: npt.NDArray[np.float64]
    moved: npt.NDArray[np.float64]
    true: npt.NDArray[np.float64]
    gap: npt.NDArray[np.float64]

    @staticmethod
    def empty(spec: FeatureSpec) -> Comparison:
        return Comparison(spec, *(np.zeros(spec.channels) for _ in range(4)))

    def add(self, moved: torch.Tensor, true: torch.Tensor) -> None:
        """Count a batch, [B, *shape] both: S_theta of the references' features; the features of the moved images."""
        axis = self.spec.channel_axis + 1
        m, t = (x.float().movedim(axis, 0).flatten(1) for x in (moved, true))
        # float32 products, added in float64: enough for three digits, at half the memory of doubles. Not where squares
        # would leave float32's range.
        if _extreme(m) or _extreme(t):
            m, t = m.double(), t.double()
        for total, product in (
            (self.dot, m * t),
            (self.moved, m.square()),
            (self.true, t.square()),
            (self.gap, (m - t).square()),
        ):
            total += product.sum(1, dtype=torch.float64).cpu().numpy()

    def similarity(self) -> Similarity:
        """Cosine and relative squared error of each channel.

        Where both are zero everywhere they are alike: cosine 1, error 0. Where one alone is zero: cosine 0, error 1.
        """
        both = np.sqrt(self.moved * self.true)
        alike = self.gap == 0
        cosine = np.where(both > 0, self.dot / np.where(both > 0, both, 1), alike)
        error = np.where(self.true > 0, self.gap / np.where(self.true > 0, self.true, 1), ~alike)
        cosine = np.where(alike, 1.0, np.clip(cosine, -1, 1))
        return Similarity(tuple(float(v) for v in cosine), tuple(float(v) for v in error))

    @property
    def relative_error(self) -> float:
        """Squared error over energy, all channels together; 0 where both are zero."""
        return float(self.gap.sum() / max(self.true.sum(), 1e-300)) if self.gap.any() else 0.0

    @property
    def cosine(self) -> float:
        """The cosine of everything at once; 1 where both are zero."""
        both = float(np.sqrt(self.moved.sum() * self.true.sum()))
        return float(self.dot.sum()) / both if both > 0 else float(not self.gap.any())


def _extreme(x: torch.Tensor) -> bool:
    """Whether a channel of x [C, n] has its largest value where float32's squares are inexact or infinite."""
    largest = x.abs().amax(1)
    return bool(((largest > 0) & ((largest < _SMALL) | (largest > _LARGE))).any())
