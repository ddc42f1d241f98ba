"""Moving features in torch's own operations: any affine map, any dtype, any device.

Samples become a table of cells, a row of C values each, with the fill's cells below; an output cell is a weighted sum
of four rows (one `embedding_bag`). On a CPU this goes over as many samples at a time as stay in the cache, and where
all positions are whole cells the copy is made directly. On an accelerator the batch is one table and no value is looked
at, so nothing waits for the device and graphs can be captured.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from fmshards.augment.features.cpu_kernel import SNAP
from fmshards.augment.features.layer_move import LayerMove
from fmshards.augment.features.places import to_map

_FAR = 1 << 28  # marks a place outside; two of them still fit 32 bits
_BLOCK_BYTES = 1 << 20  # of a table on a CPU: what stays in its cache


def move(x: torch.Tensor, phi: torch.Tensor, layer: LayerMove, look: bool) -> torch.Tensor:
    """Features x [B, *shape], which have places, moved by phi float64[B, 2, 3] on their device: new, contiguous.

    look: whether values of phi may be looked at.
    """
    spec = layer.spec
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    source, target = to_map(x, spec), to_map(out, spec)
    _, c, h, w = source.shape
    rows, columns = _sources(phi, layer, look and _axis_aligned(phi))
    edge = torch.zeros_like(source[0]) if layer.fill is None else to_map(layer.fill[None].to(x), spec)[0]
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


def _axis_aligned(phi: torch.Tensor) -> bool:
    return not bool(phi[:, 0, 1].any()) and not bool(phi[:, 1, 0].any())


def _sources(phi: torch.Tensor, layer: LayerMove, axis_aligned: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Source row and column of every output cell, snapped: float64, both broadcastable to [B, h, w].

    Axis-aligned: [B, h, 1] and [B, 1, w].
    """
    (h, height, *row_grid), (w, width, *column_grid) = layer.axes
    stride, offset = zip(row_grid, column_grid, strict=True)
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
