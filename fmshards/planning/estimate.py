"""Means over photos with their standard errors, and how many photos would tell two of them apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` photos. error: its standard error; never below what one more photo could change."""

    value: float
    error: float
    n: int

    @staticmethod
    def of(values: npt.ArrayLike) -> Estimate:
        """Of one number a photo, float [n], n >= 1: the mean, and s / sqrt(n).

        Where all numbers are equal s says nothing; the error is then what (k + 1) of (n + 2) gives for k = 0 or n: a
        share of 0 of 300 is not known to be 0.
        """
        x = np.asarray(values, np.float64)
        n = len(x)
        spread = float(x.std()) / math.sqrt(n)
        least = math.sqrt((n + 1) / (n + 3)) / (n + 2)  # of a share of 1 in n + 2, by Laplace's rule of succession
        return Estimate(float(x.mean()), max(spread, least), n)

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "error": self.error, "n": self.n}

    def percent(self) -> str:
        """ "0.3% +- 0.4%"."""
        return f"{100 * self.value:.1f}% +- {100 * self.error:.1f}%"


def photos_needed(found: Estimate, apart: float) -> int:
    """How many photos would bring the standard error of `found` down to half of `apart`, so that a difference of
    `apart` is two standard errors: n (2 error / apart)^2."""
    return max(found.n, math.ceil(found.n * (2 * found.error / max(apart, 1e-6)) ** 2))
