"""S_theta: a feature moved as the image would be, in place of running the prefix on the moved image.

Cell i of a feature lies at base pixel `stride * i + offset` on each axis (the measured grid). An output cell goes to
its pixel, through theta to the reference's pixel, and back to a fractional source cell. Positions within a
thousandth of a whole cell are taken as whole, so flips and whole-cell shifts are copies; others are bilinear. What
comes from outside the feature is `fill` at the output cell, in the proportion in which it is outside.

How: samples become a table of cells, a row of C values each, with the fill's cells below; an output cell is a
weighted sum of four rows (one `embedding_bag`). On a CPU this goes over as many samples at a time as stay in the
cache, and where all positions are whole cells the copy is made directly. On an accelerator the batch is one table and
no value is looked at, so nothing waits for the device and graphs can be captured. float32 on a CPU that is moved
without rotation or shear does not come this way: move_cpu.py has one pass for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from fmshards.augment.features.channels import check_view, replace
from fmshards.augment.features.on_cpu import SNAP, axes_of, fits, move_straight
from fmshards.augment.features.places import to_map
from fmshards.augment.theta import phi_of
from fmshards.codec import FeatureSpec
from fmshards.errors import InputError
from fmshards.shards import Grid

_EYE = np.eye(2, 3)
_SAME = 1e-6  # how near a theta is to one that moves nothing
_FAR = 1 << 28  # marks a place outside; two of them still fit 32 bits
_BLOCK_BYTES = 1 << 20  # of a table on a CPU: what stays in its cache


def move(
    x: torch.Tensor,
    theta: torch.Tensor | npt.NDArray[np.float32],
    mirrored: torch.Tensor | npt.NDArray[np.bool_],
    spec: FeatureSpec,
    grid: Grid | None,
    fill: torch.Tensor | None,
    base_size: tuple[int, int],
    view: torch.Tensor | None = None,
    sensitive: Sequence[int] = (),
) -> torch.Tensor:
    """Reference features x [B, *shape] moved by theta float[B, 2, 3] (in base coordinates): [B, *shape], x's dtype.

    mirrored bool[B]: where true, x is the mirror's feature and theta = F . phi, so phi = F . theta is left to apply.
    fill [*shape]: the prefix's feature of a blank image; None is zeros. grid None: cells at their centres. Class
    tokens do not move. A vector (or tokens without a grid) has no places: any phi but the identity raises InputError.
    The result is contiguous; on a CPU it is x itself where nothing moves. Bilinear sums are in float32.
    view, sensitive: where given, these channels are taken from view, as `replace` does, in the same pass if it can be.
    """
    if view is not None:
        check_view(x, view, len(sensitive), spec)
    if tuple(x.shape[1:]) != tuple(spec.shape) or len(theta) != len(x) or len(mirrored) != len(x):
        raise InputError(
            f"move: expected features [B, {', '.join(map(str, spec.shape))}] with a theta and a mirrored each, "
            f"found {list(x.shape)}, {len(theta)} and {len(mirrored)}"
        )
    if fits(x) and _may_look(x.device) and spec.spatial is not None:
        return _move_here(x, _phi_here(theta, mirrored), spec, grid, fill, base_size, view, sensitive)
    phi = _phi(torch.as_tensor(theta).to(x.device), torch.as_tensor(mirrored).to(x.device))
    look = _may_look(x.device)
    if (look or spec.spatial is None) and _is_identity(phi):
        return x if view is None else replace(x, view, sensitive, spec)
    if spec.spatial is None:
        raise InputError(
            f"a {spec.kind} feature {list(spec.shape)} has no places and cannot be moved: store whole views of it "
            "(views=V, sensitive=1.0), or use a recipe that only flips, with the mirror stored or mapped"
        )
    out = _move_any(x, phi, spec, axes_of(spec.spatial, grid, base_size), fill, look)
    return out if view is None else replace(out, view, sensitive, spec)


def _move_here(
    x: torch.Tensor,
    phi: npt.NDArray[np.float64],
    spec: FeatureSpec,
    grid: Grid | None,
    fill: torch.Tensor | None,
    base_size: tuple[int, int],
    view: torch.Tensor | None,
    sensitive: Sequence[int],
) -> torch.Tensor:
    """What move_cpu.py can do, and the samples that it cannot, those that are rotated or sheared."""
    if (np.abs(phi - _EYE) <= _SAME).all():
        return x if view is None else replace(x, view, sensitive, spec)
    axes = axes_of(spec.spatial or (0, 0), grid, base_size)
    out = move_straight(x, phi, spec, axes, fill, view, sensitive)
    if phi[:, 0, 1].any() or phi[:, 1, 0].any():
        turned = np.flatnonzero((phi[:, 0, 1] != 0) | (phi[:, 1, 0] != 0))
        some = _move_any(x[turned], torch.from_numpy(phi[turned]), spec, axes, fill, True)
        out[turned] = some if view is None else replace(some, view[turned], sensitive, spec)
    return out


def _move_any(
    x: torch.Tensor,
    phi: torch.Tensor,
    spec: FeatureSpec,
    axes: npt.NDArray[np.float64],
    fill: torch.Tensor | None,
    look: bool,
) -> torch.Tensor:
    """Any affine map, any dtype, any device; look: whether values of phi may be looked at."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    source, target = to_map(x, spec), to_map(out, spec)
    _, c, h, w = source.shape
    rows, columns = _sources(phi, axes, look and _axis_aligned(phi))
    edge = torch.zeros_like(source[0]) if fill is None else to_map(fill[None].to(x), spec)[0]
    whole = look and bool((rows == rows.round()).all()) and bool((columns == columns.round()).all())
    # Samples at a time, and where in their table an output cell's sources are.
    size = min(len(x), max(1, _BLOCK_BYTES // (4 * c * h * w))) if look else len(x)
    if whole and source.is_contiguous():
        _copy_cells(source, _index(rows.int(), columns.int(), h, w), edge, target)
    elif whole:
        entries = _entries(_index(rows.int(), columns.int(), h, w).expand(len(x), h, w), size).flatten(1)
        for part, table in _tables(source, edge, size):
            moved = table.index_select(0, entries[part].flatten())
            target[part].copy_(moved.view(-1, h, w, c).permute(0, 3, 1, 2))
    else:
        index, weights = _corners(rows, columns, (h, w))
        entries = _entries(index, size).flatten(2).permute(1, 2, 0).contiguous()
        weights = weights.flatten(2).permute(1, 2, 0).contiguous()
        for part, table in _tables(source.float(), edge, size):
            moved = F.embedding_bag(
                entries[part].flatten(0, 1),
                table,
                mode="sum",
                per_sample_weights=weights[part].flatten(0, 1),
            )
            target[part].copy_(moved.view(-1, h, w, c).permute(0, 3, 1, 2))
    if spec.kind == "tokens":
        out[:, : spec.class_tokens] = x[:, : spec.class_tokens]
    return out


def _may_look(device: torch.device) -> bool:
    """Whether reading values costs nothing: elsewhere the host would wait for the device."""
    return device.type == "cpu"


def _phi(theta: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """F . theta for the mirrored, theta for the others: float64[B, 2, 3]."""
    sign = torch.ones(len(theta), 2, 1, dtype=torch.float64, device=theta.device)
    sign[:, 0, 0] -= 2.0 * mirrored
    return theta.double() * sign


def _phi_here(
    theta: torch.Tensor | npt.NDArray[np.float32], mirrored: torch.Tensor | npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """The same in numpy, where there is a CPU's time to save."""
    arrays = (each.numpy(force=True) if isinstance(each, torch.Tensor) else each for each in (theta, mirrored))
    return phi_of(*arrays)


def _is_identity(phi: torch.Tensor) -> bool:
    eye = torch.eye(2, 3, dtype=phi.dtype, device=phi.device)
    return bool(((phi - eye).abs() <= _SAME).all())


def _axis_aligned(phi: torch.Tensor) -> bool:
    return not bool(phi[:, 0, 1].any()) and not bool(phi[:, 1, 0].any())


def _sources(phi: torch.Tensor, axes: npt.NDArray[np.float64], axis_aligned: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Source row and column of every output cell, snapped: float64, both broadcastable to [B, h, w].

    Axis-aligned: [B, h, 1] and [B, 1, w].
    """
    (h, w), (height, width), stride, offset = axes.T.tolist()
    py = _to_normal(_numbers(int(h), phi) * stride[0] + offset[0], height)[None, :, None]
    px = _to_normal(_numbers(int(w), phi) * stride[1] + offset[1], width)[None, None, :]
    a = phi[:, :, :, None, None]
    qy, qx = a[:, 1, 1] * py + a[:, 1, 2], a[:, 0, 0] * px + a[:, 0, 2]
    if not axis_aligned:
        qy, qx = qy + a[:, 1, 0] * px, qx + a[:, 0, 1] * py
    row = (((qy + 1) * height - 1) / 2 - offset[0]) / stride[0]
    column = (((qx + 1) * width - 1) / 2 - offset[1]) / stride[1]
    return _snap(row), _snap(column)


def _numbers(n: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(n, dtype=torch.float64, device=like.device)


def _to_normal(pixel: torch.Tensor, size: float) -> torch.Tensor:
    return (2 * pixel + 1) / size - 1


def _snap(position: torch.Tensor) -> torch.Tensor:
    whole = position.round()
    return torch.where((position - whole).abs() <= SNAP, whole, position)


def _copy_cells(source: torch.Tensor, index: torch.Tensor, fill: torch.Tensor, out: torch.Tensor) -> None:
    """source [B, C, h, w] at whole places into out, both contiguous, without a table."""
    b, c, h, w = source.shape
    size = max(1, _BLOCK_BYTES // (4 * c * h * w))
    index = index.expand(b, h, w)
    outside = (index >= _FAR)[:, None]
    where = index.clamp(max=h * w - 1).long().view(b, 1, h * w)
    blank = bool(outside.any())
    for start in range(0, b, size):
        part = slice(start, start + size)
        torch.gather(source[part].flatten(2), 2, where[part].expand(-1, c, -1), out=out[part].flatten(2))
        if blank:
            torch.where(outside[part], fill, out[part], out=out[part])


def _corners(rows: torch.Tensor, columns: torch.Tensor, cells: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices int32 and bilinear weights float32, broadcastable to [4, B, h, w], of the cells around each position."""
    y0, x0 = rows.floor(), columns.floor()
    fy, fx = (rows - y0).float(), (columns - x0).float()
    y, x = torch.stack([y0, y0, y0 + 1, y0 + 1]).int(), torch.stack([x0, x0 + 1, x0, x0 + 1]).int()
    weights = torch.stack([1 - fy, 1 - fy, fy, fy]) * torch.stack([1 - fx, fx, 1 - fx, fx])
    return _index(y, x, *cells), weights


def _tables(source: torch.Tensor, fill: torch.Tensor, size: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """`size` samples at a time as a table [h*w + size*h*w, C]: the fill's cells, then theirs. One memory for all."""
    b, c, h, w = source.shape
    table = torch.empty((size + 1) * h * w, c, dtype=source.dtype, device=source.device)
    cells = table.view(size + 1, h, w, c)
    cells[0].copy_(fill.permute(1, 2, 0))
    for start in range(0, b, size):
        part = slice(start, min(start + size, b))
        cells[1 : 1 + part.stop - start].copy_(source[part].permute(0, 2, 3, 1))
        yield part, table


def _index(y: torch.Tensor, x: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """The number y * w + x of a sample's cell, _FAR or more where that is outside; broadcasts."""
    row = torch.where((y >= 0) & (y < h), y * w, _FAR)
    return row + torch.where((x >= 0) & (x < w), x, _FAR)


def _entries(index: torch.Tensor, size: int) -> torch.Tensor:
    """Rows of the tables of `size` samples for index [..., B, h, w]; outside, the fill's row for the output cell."""
    b, h, w = index.shape[-3:]
    own = torch.arange(h * w, dtype=torch.int32, device=index.device).view(h, w)
    place = 1 + torch.arange(b, dtype=torch.int32, device=index.device) % size
    return torch.where(index >= _FAR, own, index + (place * (h * w)).view(b, 1, 1))
