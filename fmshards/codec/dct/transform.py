"""Features to coefficients and back, by numpy.

All arithmetic on values is binary32, in one order: the bits are those of the kernels.
"""

from __future__ import annotations

import numpy as np

from fmshards.codec.base import Floats
from fmshards.codec.dct.blocks import SCAN, Blocks, transforms
from fmshards.codec.dct.tables import Arrays

_ENDS = np.array(SCAN)


def coefficients(x: Floats, blocks: Blocks, tables: Arrays) -> Floats:
    """float32 [n, blocks.count, 16], in scan order, of x, float32 [n, values]."""
    n = len(x)
    found = np.zeros((n, blocks.count, 16), np.float32)
    runs = found[:, blocks.grid :].reshape(n, -1)
    runs[:, : blocks.run_values] = x[:, : blocks.run_values] - tables.run_offsets
    found[:, blocks.grid :] = runs.reshape(n, -1, 16)
    if blocks.sides is None:
        return found
    maps = _maps(x[:, blocks.run_values :], blocks) - tables.offsets[:, None, None]
    maps *= (np.float32(1) / tables.gains)[:, None, None]
    matrices = transforms(tables.transformed)
    grid = found[:, : blocks.grid].reshape(n, blocks.spec.channels, len(blocks.rows), len(blocks.columns), 16)
    for i, j, down, across in _parts(blocks):
        part = np.zeros((*grid.shape[:2], 4, 4), np.float32)
        height, width = blocks.rows[i], blocks.columns[j]
        part[..., :height, :width] = maps[:, :, down : down + height, across : across + width]
        made = _transformed(part, matrices[height], matrices[width])
        grid[:, :, i, j] = made.reshape(*grid.shape[:2], 16)[..., _ENDS]
    return found


def values(found: Floats, scale: Floats, blocks: Blocks, tables: Arrays) -> Floats:
    """float32 [n, values] of coefficients [n, blocks.count, 16], in steps, of rows with steps `scale`, [n]."""
    n, spec = len(found), blocks.spec
    x = np.empty((n, spec.values), np.float32)
    runs = found[:, blocks.grid :].reshape(n, -1)[:, : blocks.run_values]
    x[:, : blocks.run_values] = runs * scale[:, None] + tables.run_offsets
    if blocks.sides is not None:
        maps = np.empty((n, spec.channels, *blocks.sides), np.float32)
        grid = found[:, : blocks.grid].reshape(n, spec.channels, len(blocks.rows), len(blocks.columns), 16)
        matrices, meant = transforms(tables.transformed), 1 if tables.transformed else 16
        for i, j, down, across in _parts(blocks):
            height, width = blocks.rows[i], blocks.columns[j]
            part = np.empty((n, spec.channels, 16), np.float32)
            part[..., _ENDS] = grid[:, :, i, j]
            part[..., :meant] = np.where(part[..., :meant] == 0, tables.means[:, None], part[..., :meant])
            back = _back(part.reshape(n, spec.channels, 4, 4), matrices[height], matrices[width])
            back *= (tables.gains * scale[:, None])[..., None, None]
            back += tables.offsets[:, None, None]
            maps[:, :, down : down + height, across : across + width] = back[..., :height, :width]
        rest = x[:, blocks.run_values :]
        rest[...] = maps.transpose(0, 2, 3, 1).reshape(n, -1) if blocks.turned else maps.reshape(n, -1)
    x[x < tables.least] = 0
    return x


def _parts(blocks: Blocks) -> list[tuple[int, int, int, int]]:
    """Row and column of each block of a channel, and its first cell's."""
    down, across = (np.cumsum([0, *sides]) for sides in (blocks.rows, blocks.columns))
    return [(i, j, int(down[i]), int(across[j])) for i in range(len(blocks.rows)) for j in range(len(blocks.columns))]


def _maps(x: Floats, blocks: Blocks) -> Floats:
    """x, [n, values of the grid], as [n, C, h, w]."""
    assert blocks.sides is not None
    if not blocks.turned:
        return x.reshape(len(x), blocks.spec.channels, *blocks.sides)
    return x.reshape(len(x), *blocks.sides, blocks.spec.channels).transpose(0, 3, 1, 2)


def _transformed(part: Floats, down: Floats, across: Floats) -> Floats:
    """Coefficients of part [..., 4, 4]: down and then across, each sum of four from the left."""
    once = np.empty_like(part)
    for k in range(4):
        row = part[..., 0, :] * down[k, 0]
        for i in range(1, 4):
            row = row + part[..., i, :] * down[k, i]
        once[..., k, :] = row
    twice = np.empty_like(part)
    for k in range(4):
        column = once[..., 0] * across[k, 0]
        for i in range(1, 4):
            column = column + once[..., i] * across[k, i]
        twice[..., k] = column
    return twice


def _back(part: Floats, down: Floats, across: Floats) -> Floats:
    """Cells of coefficients [..., 4, 4]: across and then down, the even ones' sum and the odd ones' added."""
    once = np.empty_like(part)
    for x in range(4):
        even = part[..., 0] * across[0, x] + part[..., 2] * across[2, x]
        once[..., x] = even + (part[..., 1] * across[1, x] + part[..., 3] * across[3, x])
    twice = np.empty_like(part)
    for y in range(4):
        even = once[..., 0, :] * down[0, y] + once[..., 2, :] * down[2, y]
        twice[..., y, :] = even + (once[..., 1, :] * down[1, y] + once[..., 3, :] * down[3, y])
    return twice
