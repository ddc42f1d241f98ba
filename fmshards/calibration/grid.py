"""Where a feature's cells lie in the base image, measured by touching the image and seeing which cells answer.

Columns of pixels are disturbed one at a time in an image. For a column at pixel x the squared change of the feature is
spread over the cells i like a bell around (x - offset) / stride: effective receptive fields are close to Gaussian (Luo
et al., "Understanding the effective receptive field in deep convolutional neural networks", 2016). The bell is cut off
at the feature's borders and may stand on a floor (global pooling, attention). Stride, offset, width and floor are those
of greatest likelihood. It needs neither gradients nor channels that know of flips, and gives the strides and paddings
of convolutions back to about a twentieth of a cell; where trained kernels are lopsided it gives where they really look.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch

from fmshards.augment.features.places import to_map
from fmshards.codec import FeatureSpec
from fmshards.shards import Grid

FeaturesOf = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]
"""A prefix as it is run here: images [B, 3, H, W] to the features [B, *shape] of each layer, by its name."""

Floats = npt.NDArray[np.float64]

_COLUMNS = 16  # disturbed columns on each axis, spread over the middle half of the image
_NOISE = 0.5  # of the images' standard deviation
_WIDTHS = np.geomspace(0.2, 8, 12)  # of the bell, in cells
_FLOORS = (1e-3, 0.03, 0.1, 0.3, 0.6)  # the part of the change that is spread evenly
_OFFSETS = np.arange(-64, 129) / 64  # in strides
_MARGIN = 0.02  # of log-likelihood, for each column
_WHOLE = 1 / 8  # of a cell: nearer than this to a flip by whole cells, it is one


def cell_centres(size: tuple[int, int], cells: tuple[int, int]) -> Grid:
    """The grid of cells that tile an image of `size` (H, W) and are looked at in their middle."""
    stride = (size[0] / cells[0], size[1] / cells[1])
    return Grid(stride, ((stride[0] - 1) / 2, (stride[1] - 1) / 2))


def grid_passes(size: tuple[int, int], images: int, each: int) -> int:
    """How many images of `size` (H, W) `measure_grid` runs through the prefix, given `images` and `each`."""
    return images + each * sum(len(_columns(side)) for side in size)


def measure_grid(
    prefix: FeaturesOf,
    images: torch.Tensor,
    specs: Mapping[str, FeatureSpec],
    seed: int = 0,
    each: int | None = None,
) -> dict[str, Grid]:
    """The grid of each layer with places; images float32 [n, 3, H, W] as the prefix takes them (8 are enough).

    each: images that a column of pixels is disturbed in, columns taking them in turn; all n by default. It should
    divide n. Images differ in what they answer far more than columns do: one of 4 finds the strides, and offsets to
    half a pixel or one, as all 4 do. Costs `grid_passes`: n and 32 times `each` at most.

    Offsets are rounded to half a pixel, where those of convolutions lie, and to the flip by whole cells where that is
    within 1/8 of a cell: flips are then copies. A layer that does not answer, or has one cell on an axis, gets cell
    centres there.
    """
    placed = {name: spec for name, spec in specs.items() if spec.spatial is not None}
    if not placed:
        return {}
    each = len(images) if each is None else min(each, len(images))
    still = prefix(images)
    y, x = (_measure_axis(prefix, images, still, placed, axis, seed, each) for axis in (0, 1))
    return {name: Grid((y[name][0], x[name][0]), (y[name][1], x[name][1])) for name in placed}


def _measure_axis(
    prefix: FeaturesOf,
    images: torch.Tensor,
    still: Mapping[str, torch.Tensor],
    specs: Mapping[str, FeatureSpec],
    axis: int,
    seed: int,
    each: int,
) -> dict[str, tuple[float, float]]:
    """(stride, offset) of each layer along `axis` (0: y, 1: x)."""
    side = int(images.shape[2 + axis])
    columns = _columns(side)
    generator = torch.Generator().manual_seed(seed)
    scale = _NOISE * float(images.float().std())
    answers: dict[str, list[Floats]] = {name: [] for name in specs}
    turns = len(images) // each  # columns that go through the prefix together, each in images of its own
    for first in range(0, len(columns), turns):
        together = columns[first : first + turns]
        touched = images[: len(together) * each].clone()
        parts = [slice(k * each, (k + 1) * each) for k in range(len(together))]
        for column, part in zip(together, parts, strict=True):
            strip = touched[part].narrow(2 + axis, int(column), 1)
            strip += (scale * torch.randn(strip.shape, generator=generator)).to(strip)
        for name, features in prefix(touched).items():
            if name in specs:
                answers[name] += [_answer(features[p], still[name][p], specs[name], axis) for p in parts]
    return {name: _fit(np.stack(rows), columns, side) for name, rows in answers.items()}


def _columns(side: int) -> Floats:
    """Pixels in the middle half, an odd step apart: strides are mostly even, and every phase must be seen."""
    step = max(1, side // (2 * _COLUMNS))
    step += 1 - step % 2
    count = min(_COLUMNS, 1 + (side - 1) // step)
    first = round((side - 1 - step * (count - 1)) / 2)
    return np.array([first + step * k for k in range(count)], dtype=np.float64)


def _answer(touched: torch.Tensor, still: torch.Tensor, spec: FeatureSpec, axis: int) -> Floats:
    """Squared change of each cell along `axis`, over samples, channels and the other axis: float64[cells]."""
    change = (to_map(touched, spec).float() - to_map(still, spec).float()).square()
    sums: Floats = change.sum((0, 1, 3 - axis)).double().cpu().numpy()
    return sums


def _fit(answers: Floats, columns: Floats, side: int) -> tuple[float, float]:
    """answers float64[columns, cells] -> (stride, offset) in pixels."""
    cells = answers.shape[1]
    total = answers.sum(1, keepdims=True)
    if cells == 1 or not np.isfinite(total).all() or (total <= 0).all():
        return side / cells, (side / cells - 1) / 2
    share = np.divide(answers, total, out=np.zeros_like(answers), where=total > 0)
    ratio, *others = ((stride, *_offset(share, columns, stride)) for stride in _strides(side, cells))
    # A bell is not the box that patches answer with: a whole number is given up for good reason only.
    margin = _MARGIN * len(columns) if ratio[0].is_integer() else 0.0
    other = max(others, key=lambda found: found[1], default=ratio)
    stride, _, offset = other if other[1] > ratio[1] + margin else ratio
    return stride, _round(offset, stride, side)


def _offset(share: Floats, columns: Floats, stride: float) -> tuple[float, float]:
    """The greatest log-likelihood of cells this stride apart, and its offset in pixels."""
    cells = share.shape[1]
    away = (columns[:, None] / stride - np.arange(cells))[None] - _OFFSETS[:, None, None]
    best = (-math.inf, 0.0)
    for width in _WIDTHS:
        bell = np.exp(-np.minimum(away**2 / (2 * width**2), 60))
        bell /= bell.sum(2, keepdims=True)
        for floor in _FLOORS:
            fits = (share * np.log((1 - floor) * bell + floor / cells)).sum((1, 2))
            k = int(fits.argmax())
            best = max(best, (float(fits[k]), float(_OFFSETS[k] * stride)))
    return best


def _strides(side: int, cells: int) -> list[float]:
    """Side over cells first; then what else it may be: 227 pixels make 8 cells of 32, and 35 make 5 of 8.

    Where side over cells is whole it is seldom wrong, and only powers of two are held against it.
    """
    ratio = side / cells
    near = range(math.ceil(0.8 * ratio), math.floor((side - 1) / max(cells - 1, 1)) + 1)
    if ratio.is_integer():
        return [ratio] if _is_power(int(ratio)) else [ratio, *(float(s) for s in near if _is_power(s))]
    coarse = 1 if ratio < 10 else 2 if ratio < 20 else 4 if ratio < 40 else 8
    return [ratio, *(float(s) for s in near if s % coarse == 0)]


def _is_power(stride: int) -> bool:
    return stride & (stride - 1) == 0


def _round(offset: float, stride: float, side: int) -> float:
    offset = round(2 * offset) / 2
    flip = (side - 1 - 2 * offset) / stride  # cell i goes to cell flip - i
    if abs(flip - round(flip)) <= _WHOLE:
        return (side - 1 - stride * round(flip)) / 2
    return offset
