"""S_theta: a feature moved as the image would be, in place of running the prefix on the moved image.

Cell i of a feature lies at base pixel `stride * i + offset` on each axis (the measured grid). An output cell goes to its
pixel, through theta to the reference's pixel, and back to a fractional source cell. Positions within a thousandth of a
whole cell are taken as whole, so flips and whole-cell shifts are copies; others are bilinear. What comes from outside
the feature is `fill` at the output cell, in the proportion in which it is outside.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from fmshards.augment.layout import from_map, to_map
from fmshards.codec import FeatureSpec
from fmshards.errors import InputError
from fmshards.shards import Grid

_SNAP = 1e-3


def move(
    x: torch.Tensor,
    theta: torch.Tensor | npt.NDArray[np.float32],
    mirrored: torch.Tensor | npt.NDArray[np.bool_],
    spec: FeatureSpec,
    grid: Grid | None,
    fill: torch.Tensor | None,
    base_size: tuple[int, int],
) -> torch.Tensor:
    """Reference features x [B, *shape] moved by theta float[B, 2, 3] (in base coordinates): [B, *shape], x's dtype.

    mirrored bool[B]: where true, x is the mirror's feature and theta = F . phi, so phi = F . theta is left to apply.
    fill [*shape]: the prefix's feature of a blank image; None is zeros. grid None: cells at their centres. Class tokens
    do not move. A vector has no places: any phi but the identity raises InputError.
    """
    theta = torch.as_tensor(theta)
    mirrored = torch.as_tensor(mirrored, device=theta.device)
    phi = _phi(theta, mirrored)
    if spec.kind == "vector":
        return _unmoved(x, phi)
    places = to_map(x, spec)
    h, w = places.shape[-2:]
    rows, columns = _sources(phi, (h, w), grid, base_size)
    edge = None if fill is None else to_map(fill.to(x.device, x.dtype)[None], spec)[0]
    out = _gather(places, rows.to(x.device), columns.to(x.device), edge)
    return from_map(out, x, spec)


def _phi(theta: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    phi = theta.double().clone()
    phi[:, 0] *= torch.where(mirrored, -1.0, 1.0).double()[:, None]
    return phi


def _unmoved(x: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    if not torch.allclose(phi, torch.eye(2, 3, dtype=phi.dtype, device=phi.device), rtol=0, atol=1e-6):
        raise InputError(
            "a vector feature has no places and cannot be moved: store whole views of it (views=V, sensitive=1.0), "
            "or use a recipe that only flips, with the mirror stored or mapped"
        )
    return x


def _sources(
    phi: torch.Tensor, cells: tuple[int, int], grid: Grid | None, base_size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Source cells (row, column) float64[B, h, w] of every output cell, snapped to whole cells."""
    (height, width), (h, w) = base_size, cells
    stride = (height / h, width / w) if grid is None else grid.stride
    offset = tuple((s - 1) / 2 for s in stride) if grid is None else grid.offset
    ys = torch.arange(h, dtype=torch.float64, device=phi.device) * stride[0] + offset[0]
    xs = torch.arange(w, dtype=torch.float64, device=phi.device) * stride[1] + offset[1]
    py, px = ((2 * ys + 1) / height - 1)[None, :, None], ((2 * xs + 1) / width - 1)[None, None, :]
    a = phi[:, :, :, None, None]
    qx = a[:, 0, 0] * px + a[:, 0, 1] * py + a[:, 0, 2]
    qy = a[:, 1, 0] * px + a[:, 1, 1] * py + a[:, 1, 2]
    column = (((qx + 1) * width - 1) / 2 - offset[1]) / stride[1]
    row = (((qy + 1) * height - 1) / 2 - offset[0]) / stride[0]
    return _snap(row), _snap(column)


def _snap(position: torch.Tensor) -> torch.Tensor:
    whole = position.round()
    return torch.where((position - whole).abs() <= _SNAP, whole, position)


def _gather(places: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, fill: torch.Tensor | None) -> torch.Tensor:
    """Bilinear over four taps: places [B, C, h, w] at rows, columns float64[B, h, w]."""
    _, c, h, w = places.shape
    flat = places.reshape(len(places), c, h * w)
    out = torch.zeros_like(flat)
    inside = torch.zeros(rows.shape, dtype=torch.float64, device=rows.device)
    y0, x0 = rows.floor(), columns.floor()
    for dy in (0, 1):
        for dx in (0, 1):
            y, x = y0 + dy, x0 + dx
            weight = (1 - (rows - y).abs()) * (1 - (columns - x).abs())
            weight = weight * ((y >= 0) & (y < h) & (x >= 0) & (x < w))
            index = (y.clamp(0, h - 1) * w + x.clamp(0, w - 1)).long().flatten(1)
            taken = flat.gather(2, index[:, None, :].expand(-1, c, -1))
            out += taken * weight.flatten(1)[:, None].to(flat.dtype)
            inside += weight
    if fill is not None:
        out += (1 - inside).flatten(1)[:, None].to(flat.dtype) * fill.reshape(1, c, h * w)
    return out.reshape(places.shape)
