"""Linear least squares with a ridge, from sums over equations that are seen once: the normal equations in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_RIDGE = 1e-6  # of the mean squared input: for rank, not for shrinkage
_RESCUE = 1e-4  # where rounding leaves the matrix not positive
_RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # tried where the equations are few
_COLUMNS = 256  # of the normal equations at a time


class Moments:
    """X'X and X'Y of equations X [rows, inputs] -> Y [rows, outputs], a column of ones last in X: float64.

    Of X'X the upper triangle alone is summed until `complete`.
    """

    def __init__(self) -> None:
        self.xx, self.xy = torch.empty(0), torch.empty(0)

    def __bool__(self) -> bool:
        """Whether there was any equation."""
        return bool(self.xx.numel())

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Count equations, float [rows, inputs] and [rows, outputs]."""
        if not len(x):
            return
        unknowns = x.shape[1] + 1
        if not self:
            self.xx = torch.zeros(unknowns, unknowns, dtype=torch.float64)
            self.xy = torch.zeros(unknowns, y.shape[1], dtype=torch.float64)
        wide = F.pad(x.double(), (0, 1), value=1.0)
        for start in range(0, unknowns, _COLUMNS):
            self.xx[start : start + _COLUMNS, start:] += wide[:, start : start + _COLUMNS].T @ wide[:, start:]
        self.xy += wide.T @ y.double()

    def complete(self) -> None:
        """Mirror the lower triangle from the upper."""
        for start in range(0, len(self.xx), _COLUMNS):
            end = start + _COLUMNS
            corner = self.xx[start:end, start:end]
            corner.copy_(corner.triu() + corner.triu(1).T)
            self.xx[end:, start:end] = self.xx[start:end, end:].T


class LeastSquares:
    """`fit` is solved; where `validation` has equations, its loss chooses the ridge, and the solution is on both."""

    def __init__(self) -> None:
        self.fit, self.validation = Moments(), Moments()

    def solve(self) -> torch.Tensor:
        """float64 [inputs + 1, outputs], the last row the bias, which the ridge leaves alone. Once: sums are spent."""
        self.fit.complete()
        if not self.validation:
            return _ridge(self.fit, _RIDGE)
        self.validation.complete()
        losses = []
        for ridge in _RIDGES:
            s = _ridge(self.fit, ridge)
            losses.append(float((s * (self.validation.xx @ s - 2 * self.validation.xy)).sum()))
        self.fit.xx += self.validation.xx
        self.fit.xy += self.validation.xy
        self.validation = Moments()
        return _ridge(self.fit, _RIDGES[losses.index(min(losses))])


def _ridge(moments: Moments, ridge: float) -> torch.Tensor:
    """The solution with this ridge, in parts of the mean squared input; moments are as they were afterwards."""
    diagonal = moments.xx.diagonal()
    kept = diagonal.clone()
    penalty = torch.full((len(kept),), ridge * float(kept[:-1].mean()) + 1e-30, dtype=torch.float64)
    penalty[-1] = 0
    diagonal.copy_(kept + penalty)
    factor, failed = torch.linalg.cholesky_ex(moments.xx)
    if int(failed):
        diagonal.copy_(kept + (penalty + _RESCUE * kept.mean()))
        factor, _ = torch.linalg.cholesky_ex(moments.xx)
    diagonal.copy_(kept)
    solution: torch.Tensor = torch.cholesky_solve(moments.xy, factor)
    return solution
