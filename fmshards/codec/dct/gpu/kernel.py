"""The tables of `dct` on a device, and its kernels' launches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import triton

from fmshards.codec.dct.blocks import CELLS, Blocks, steps, transforms
from fmshards.codec.dct.gpu.levels import dct_levels
from fmshards.codec.dct.gpu.values import dct_grid, dct_runs
from fmshards.codec.dct.tables import Arrays
from fmshards.kernels.rounding import TYPES
from fmshards.kernels.strides import strides_of

AT_ONCE = 2**26
"""Coefficients that are kept at a time, 4 bytes each, but for what one row has."""
SEGMENTS = 32
"""Segments that a program reads: one warp, whose test of all lanes is one instruction."""
LINES = 128
"""Rows of blocks, or values of runs, that a program makes."""


@dataclass(frozen=True)
class Placed:
    """What the kernels look up, on a device; see their arguments of these names."""

    table: torch.Tensor
    levels: torch.Tensor
    steps: torch.Tensor
    cells: torch.Tensor
    matrices: torch.Tensor
    gains: torch.Tensor
    means: torch.Tensor
    offsets: torch.Tensor
    run_offsets: torch.Tensor
    down: torch.Tensor
    across: torch.Tensor


@lru_cache(maxsize=64)
def placed(blocks: Blocks, tables: Arrays, device: torch.device) -> Placed:
    """Kept, as bringing them to a device for every batch would make the host wait."""
    arrays: tuple[Any, ...] = (
        *(tables.decode.view(np.int32), tables.levels, steps(), np.array(CELLS, np.int32)),
        transforms(tables.transformed),
        *(tables.gains, tables.means, tables.offsets, tables.run_offsets, _sides(blocks.rows), _sides(blocks.columns)),
    )
    return Placed(*(torch.from_numpy(np.array(array)).to(device) for array in arrays))


def decode(rows: torch.Tensor, blocks: Blocks, tables: Arrays, out: torch.Tensor) -> None:
    """Decode rows, uint8 [B, row_bytes] (bytes of a row side by side), into out [B, *shape] of the same device.

    out: float32, float16 or bfloat16 whose places follow each other in one step, as those of contiguous and of
    channels-last tensors do. Takes memory for `AT_ONCE` coefficients, or those of one row.
    """
    if not len(rows):
        return
    at_once = min(len(rows), max(1, AT_ONCE // (16 * blocks.count)))
    found = torch.empty(at_once * blocks.count * 16, dtype=torch.float32, device=rows.device)
    for first in range(0, len(rows), at_once):
        decode_slab(rows[first : first + at_once], blocks, tables, found, out[first : first + at_once])


def decode_slab(rows: torch.Tensor, blocks: Blocks, tables: Arrays, found: torch.Tensor, out: torch.Tensor) -> None:
    """As `decode`, of one row or more, by way of `found`: float32 for as many rows' blocks of 16, of any values."""
    strides = strides_of(out, blocks.spec.kind)
    assert strides is not None, "the caller looks at the strides"
    n, channels, there = len(rows), blocks.spec.channels, placed(blocks, tables, rows.device)
    found.zero_()
    lanes = n * blocks.segments
    dct_levels[(triton.cdiv(lanes, SEGMENTS),)](
        *(rows, there.table, there.levels, there.cells, found),
        *(rows.stride(0), rows.shape[1], lanes, blocks.segments, blocks.count, tables.plain),
        LANES=SEGMENTS,
        num_warps=1,
        enable_fp_fusion=False,
    )
    to = (out.stride(0), *strides)
    last = {"DTYPE": TYPES[out.dtype], "LANES": LINES, "num_warps": 4, "enable_fp_fusion": False}
    if blocks.sides is not None:
        lanes = 4 * n * blocks.grid
        dct_grid[(triton.cdiv(lanes, LINES),)](
            *(rows, found, out, there.steps, there.matrices, there.gains, there.means, there.offsets),
            *(there.down, there.across),
            *(rows.stride(0), *to, lanes, blocks.count, channels, len(blocks.rows), len(blocks.columns)),
            *(blocks.sides[1], blocks.skipped // channels, tables.least),
            TRANSFORMED=tables.transformed,
            CHANNEL_FIRST=strides[0] == 1 and strides[1] != 1,
            **last,
        )
    if blocks.run_values:
        lanes = n * blocks.run_values
        turned = blocks.turned
        dct_runs[(triton.cdiv(lanes, LINES),)](
            *(rows, found, out, there.steps, there.cells, there.run_offsets),
            *(rows.stride(0), *to, lanes, blocks.count, blocks.grid, blocks.run_values),
            *(channels if turned else blocks.spec.values // channels, tables.least),
            TURNED=turned,
            **last,
        )


def _sides(parts: tuple[int, ...]) -> Any:
    """int32 [parts, 2]: of each part its first cell and its size."""
    return np.array([(sum(parts[:i]), part) for i, part in enumerate(parts)], np.int32).reshape(-1, 2)
