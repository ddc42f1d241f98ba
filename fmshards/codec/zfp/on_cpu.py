"""The engine of compiled kernels (cpu/): rows of a layout from values and back, straight to where they belong."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fmshards.codec.zfp.cpu import decode as d
from fmshards.codec.zfp.cpu import encode as e
from fmshards.codec.zfp.layout import Layout, gather_of
from fmshards.kernels.machine import half_precision

_Ints = npt.NDArray[np.int64]
_KINDS = {"torch.float32": d.FLOAT32, "torch.bfloat16": d.BFLOAT16} | (
    {"torch.float16": d.FLOAT16} if half_precision() else {}
)


def writes(out: npt.NDArray[Any], dtype: str) -> bool:
    """Whether `decode_rows` can write into this memory: any strides."""
    return dtype in _KINDS


def decode_rows(
    rows: npt.NDArray[np.uint8], layout: Layout, block_bits: int, out: npt.NDArray[Any], dtype: str
) -> None:
    """Decode rows, uint8 [n, row_bytes] (any strides), into out [n, *shape], any strides.

    dtype: one that `writes` says; out holds float32, or the 16-bit patterns of `dtype` in a dtype of 2 bytes.
    """
    row_bytes = layout.blocks * block_bits // 8
    if rows.shape != (len(out), row_bytes) or out.shape[1:] != layout.spec.shape:
        raise ValueError(f"rows {rows.shape} for features {out.shape}")
    if out.itemsize != (4 if dtype == "torch.float32" else 2):
        raise ValueError(f"{out.dtype} cannot hold {dtype}")
    if rows.strides[1] != 1:
        rows = np.ascontiguousarray(rows)
    end = rows.ctypes.data + max(0, (len(rows) - 1) * rows.strides[0]) + row_bytes
    places = _places(layout, out.strides, _KINDS[dtype])
    scratch = np.empty(d.scratch_bytes(layout.map_blocks[2]), np.uint8)
    d.decode_rows(
        rows.ctypes.data,
        rows.strides[0],
        len(rows),
        block_bits // 8,
        end,
        *places.addresses,
        d.SCALES.ctypes.data,
        out.ctypes.data,
        scratch.ctypes.data,
    )


def encode_rows(x: npt.NDArray[np.float32], layout: Layout, block_bits: int, out: npt.NDArray[np.uint8]) -> None:
    """Encode x, float32 [n, values] (contiguous, finite), into out, uint8 [n, row_bytes] (contiguous)."""
    n, values = x.shape
    if not (x.flags.c_contiguous and out.flags.c_contiguous) or values != layout.spec.values:
        raise ValueError(f"features {x.shape} {x.strides} for {layout.spec}")
    if out.shape != (n, layout.blocks * block_bits // 8):
        raise ValueError(f"rows {out.shape} for {n} features of {layout.blocks} blocks of {block_bits} bits")
    plain, index = _sources(layout)
    scratch = np.empty(e.SCRATCH, np.uint8)
    e.encode_rows(
        x.ctypes.data, values, n, block_bits // 8, plain, index, e.SCALES, out.ctypes.data, scratch.ctypes.data
    )


@lru_cache(maxsize=32)
def _sources(layout: Layout) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """What the encoder is told of a layout: the blocks of a plain map, else the value at each place of the blocks."""
    # A plain map with a side that is no multiple of 4 has padding.
    if layout.plain and layout.spec.shape[1] % 4 == 0 and layout.spec.shape[2] % 4 == 0:
        return np.array(layout.map_blocks, np.int64), np.empty(0, np.int32)
    places = gather_of(layout)
    index = places.index.astype(np.int32)
    index[places.zeros] = -1
    return np.zeros(3, np.int64), index


class _Places:
    """What the decoder is told of a layout and a destination: arrays, kept for as long as their addresses."""

    def __init__(self, numbers: _Ints, blocks: _Ints, channel: _Ints, tile: _Ints, down: _Ints) -> None:
        self._arrays = [np.ascontiguousarray(a, np.int64) for a in (numbers, blocks, channel, tile, down)]
        g, *others = (a.ctypes.data for a in self._arrays)
        self.addresses = (g, others[0], len(blocks), *others[1:])


@lru_cache(maxsize=64)
def _places(layout: Layout, strides: tuple[int, ...], kind: int) -> _Places:
    """See `cpu.decode.decode_rows`."""
    spec, (ty, tx), (bz, by, bx) = layout.spec, layout.tile, layout.map_blocks
    c, h, w = spec.channels, *(spec.spatial or (1, 1))
    sample, *own = strides
    start, token, run_values = 0, 0, 0
    if spec.kind == "map":
        to_channel, to_row, to_column = own
    elif spec.kind == "map_last":
        to_row, to_column, to_channel = own
    else:
        token, to_channel = own if spec.kind == "tokens" else (0, own[0])
        if spec.kind == "tokens" and spec.grid is None:
            w = spec.shape[0] - spec.class_tokens
        to_row, to_column, start = w * token, token, spec.class_tokens * token
        run_values = c * (spec.class_tokens if spec.kind == "tokens" else 1)
    straight = layout.tile == (1, 1) and not (c % 4 or h % 4 or w % 4 or start)
    g = np.zeros(d.NUMBERS, np.int64)
    g[[d.C, d.W, d.TX, d.TILE, d.BZ, d.BY, d.BX]] = c, w, tx, ty * tx, bz, by, bx
    g[[d.MAP_BLOCKS, d.RUN_VALUES, d.RUN_TOKEN]] = bz * by * bx, run_values, token
    g[[d.SAMPLE, d.ROW, d.COLUMN, d.MAP_START, d.KIND]] = sample, to_row, to_column, start, kind
    g[d.STRAIGHT] = straight and kind == d.FLOAT32 and to_column == 4
    # Channels last: all channels of a few cells at a time, so that their memory stays in the cache.
    g[d.ROWS_FIRST] = abs(to_channel) < abs(to_column)
    blocks = np.arange(bz * by * bx).reshape(bz, by, bx)
    if g[d.ROWS_FIRST]:
        blocks = blocks.transpose(1, 0, 2)
    blocks = np.concatenate([blocks.reshape(-1), np.arange(bz * by * bx, layout.blocks)])
    order = np.arange(c) if layout.order is None else np.asarray(layout.order, np.int64)
    line = np.arange(4 * by)
    tile = np.where(line < ty * h, line // h * tx, -1)
    return _Places(g, blocks, order * to_channel, tile, line % h * to_row)
