"""Fitting the mapped mirror by least squares on the calibration sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F

from fmshards.augment.features.places import to_map
from fmshards.augment.mirror_map import MirrorMap
from fmshards.codec import FeatureSpec
from fmshards.errors import InputError

_RIDGE = 1e-6  # of the mean squared input: for rank, not for shrinkage
_RESCUE = 1e-4  # where rounding leaves the matrix not positive
_RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # tried where the equations are few
_PLENTY = 20  # equations for each unknown beyond which more are left out
_ENOUGH = 1 << 15  # ... and at least so many are kept
_LARGEST = 12_000  # unknowns: a float64 matrix of 1.2 GB
_COLUMNS = 256  # of the normal equations at a time
_BATCH_BYTES = 64 << 20


def fit_mirror(
    base: torch.Tensor, mirror: torch.Tensor, spec: FeatureSpec, kernel: int = 3, relu: bool = False
) -> tuple[MirrorMap, float]:
    """The map from base [n, *shape] to mirror [n, *shape] (features of the images and of their flips), and its error.

    Least squares by normal equations in float64, over the whole zero-padded map as `apply` sees it. What is fitted is
    the difference from the plain flip, so that the ridge (tiny, or chosen by inner validation where the sample is small
    for the number of unknowns) shrinks towards the plain flip. The last fifth of the samples takes no part in the fit;
    the error is on it: 10 log10(sum of squared error / sum of squares), with the ReLU where `relu`.

    Raises InputError for fewer than 5 samples, unequal shapes or a kernel too large for the number of channels.
    """
    if base.shape != mirror.shape or tuple(base.shape[1:]) != tuple(spec.shape):
        raise InputError(
            f"mirror map: expected two [n, {', '.join(map(str, spec.shape))}] arrays, "
            f"found {list(base.shape)} and {list(mirror.shape)}"
        )
    n = len(base)
    if n < 5:
        raise InputError(f"mirror map: at least 5 calibration samples are needed, found {n}")
    unknowns = spec.channels * (1 if spec.spatial is None else kernel * kernel) + 1
    if unknowns > _LARGEST:
        raise InputError(
            f"mirror map: {spec.channels} channels with kernel {kernel} are {unknowns} unknowns for each output, more "
            f"than {_LARGEST}: use mapped(kernel=1), or store the mirror"
        )
    kept = n - n // 5
    base, mirror = base.float(), mirror.float()
    class_weight = class_bias = None
    if spec.spatial is None:
        weight, bias = _linear(base[:kept].flatten(0, -2), mirror[:kept].flatten(0, -2))
    else:
        weight, bias = _places(to_map(base[:kept], spec), to_map(mirror[:kept], spec), kernel)
        if spec.kind == "tokens" and spec.class_tokens:
            fits = [_linear(base[:kept, k], mirror[:kept, k]) for k in range(spec.class_tokens)]
            class_weight, class_bias = (torch.stack(parts) for parts in zip(*fits, strict=True))
    fitted = MirrorMap(weight, bias, relu, spec, class_weight, class_bias)
    return fitted, mirror_error(fitted, base[kept:], mirror[kept:])


def mirror_error(fitted: MirrorMap, base: torch.Tensor, mirror: torch.Tensor) -> float:
    """10 log10(|apply(base) - mirror|^2 / |mirror|^2), in dB, at least -200."""
    error = energy = 0.0
    for some, wanted in zip(torch.split(base, 64), torch.split(mirror, 64), strict=True):
        error += float((fitted.apply(some) - wanted).double().square().sum())
        energy += float(wanted.double().square().sum())
    return 10 * math.log10(max(error / max(energy, 1e-300), 1e-20))


def _linear(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x, y [n, D] -> weight [D, D] and bias [D] with y ~ weight x + bias."""
    few = len(x) < _PLENTY * (x.shape[1] + 1)
    inner = len(x) - len(x) // 5 if few else len(x)
    solution = _solve(_moments([(x[:inner], (y - x)[:inner])]), _moments([(x[inner:], (y - x)[inner:])]))
    return (solution[:-1].T + torch.eye(x.shape[1])).float().contiguous(), solution[-1].float()


def _places(x: torch.Tensor, y: torch.Tensor, kernel: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x, y [n, C, h, w] -> weight [C, C, K, K] and bias [C] of the convolution from flipped x to y."""
    n, c, h, w = x.shape
    unknowns = c * kernel * kernel + 1
    few = n * h * w < _PLENTY * unknowns
    inner = n - n // 5 if few else n
    every = max(1, n * h * w // max(_PLENTY * unknowns, _ENOUGH))
    fit = _moments(_equations(x[:inner], y[:inner], kernel, every))
    solution = _solve(fit, _moments(_equations(x[inner:], y[inner:], kernel, every)))
    weight = solution[:-1].view(kernel, kernel, c, c).permute(3, 2, 0, 1).float()
    weight[:, :, kernel // 2, kernel // 2] += torch.eye(c)
    return weight.contiguous(), solution[-1].float()


def _equations(
    x: torch.Tensor, y: torch.Tensor, kernel: int, every: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs [rows, K*K*C] and what they must add to the flip [rows, C], of one of `every` places."""
    n, c, h, w = x.shape
    size = max(1, _BATCH_BYTES // (4 * c * kernel * kernel * h * w))
    generator = torch.Generator().manual_seed(0)
    reach = kernel // 2
    for start in range(0, n, size):
        flipped = x[start : start + size].flip(-1).permute(0, 2, 3, 1)
        target = y[start : start + size].permute(0, 2, 3, 1) - flipped
        padded = F.pad(flipped, (0, 0, reach, reach, reach, reach))
        places = torch.arange(len(flipped) * h * w)
        if every > 1:
            places = torch.randperm(len(places), generator=generator)[: -(-len(places) // every)].sort().values
        sample, row, column = places // (h * w), places // w % h, places % w
        corner = (sample * padded.shape[1] + row) * padded.shape[2] + column
        cells = padded.flatten(0, 2)
        taps = [dy * padded.shape[2] + dx for dy in range(kernel) for dx in range(kernel)]
        columns = torch.cat([cells.index_select(0, corner + tap) for tap in taps], dim=1)
        yield columns, target.flatten(0, 2).index_select(0, places)


def _moments(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """X'X and X'Y in float64 with a column of ones last in X; None for no rows."""
    total: tuple[torch.Tensor, torch.Tensor] | None = None
    for x, y in pairs:
        if not len(x):
            continue
        wide = F.pad(x.double(), (0, 1), value=1.0)
        xx, xy = _gram(wide), wide.T @ y.double()
        total = (xx, xy) if total is None else (total[0] + xx, total[1] + xy)
    return total


def _gram(x: torch.Tensor) -> torch.Tensor:
    """x'x, its lower half mirrored from the upper."""
    unknowns = x.shape[1]
    out = torch.zeros(unknowns, unknowns, dtype=x.dtype)
    for start in range(0, unknowns, _COLUMNS):
        out[start : start + _COLUMNS, start:] = x[:, start : start + _COLUMNS].T @ x[:, start:]
    return out.triu() + out.triu(1).T


def _solve(
    fit: tuple[torch.Tensor, torch.Tensor] | None, validation: tuple[torch.Tensor, torch.Tensor] | None
) -> torch.Tensor:
    """The least-squares solution [unknowns, outputs], the last row the bias, which the ridge leaves alone.

    With `validation` the ridge is the one whose solution on `fit` is best there; the solution is then on both.
    """
    assert fit is not None  # five samples or more
    if validation is None:
        return _ridge(fit, _RIDGE)
    losses = []
    for ridge in _RIDGES:
        s = _ridge(fit, ridge)
        losses.append(float((s * (validation[0] @ s - 2 * validation[1])).sum()))
    best = _RIDGES[losses.index(min(losses))]
    return _ridge((fit[0] + validation[0], fit[1] + validation[1]), best)


def _ridge(moments: tuple[torch.Tensor, torch.Tensor], ridge: float) -> torch.Tensor:
    xx, xy = moments
    penalty = torch.full((len(xx),), ridge * float(xx.diagonal()[:-1].mean()) + 1e-30, dtype=torch.float64)
    penalty[-1] = 0
    factor, failed = torch.linalg.cholesky_ex(xx + torch.diag(penalty))
    if int(failed):
        factor, _ = torch.linalg.cholesky_ex(xx + torch.diag(penalty + _RESCUE * xx.diagonal().mean()))
    solution: torch.Tensor = torch.cholesky_solve(xy, factor)
    return solution
