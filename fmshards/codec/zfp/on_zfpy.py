"""The engine on zfpy: rows of a layout from values and back. The only file that imports zfpy.

An engine is these two functions on plain arrays; the codec above it checks every length before it calls them.
zfpy releases the GIL. It reads compressed words of 8 bytes and trusts the caller for the stream's length, and
under 9 bits a block it is memory-unsafe: both are refused here once more.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import zfpy

from fmshards.codec.threads import slabs
from fmshards.codec.zfp.layout import BLOCK, Layout, gather_of
from fmshards.errors import CodecError

_FLOAT = zfpy.dtype_to_ztype(np.dtype(np.float32))
_WORD = 8
_GROUPS = {1: np.float32, 2: np.float64, 4: np.complex128}


def encode_rows(x: npt.NDArray[np.float32], layout: Layout, block_bits: int, out: npt.NDArray[np.uint8]) -> None:
    """Encode x, float32 [n, values] (contiguous, finite), into out, uint8 [n, row_bytes]. n is at least 1."""
    stream = _compress(_to_blocks(x, layout), block_bits)
    out[...] = np.frombuffer(stream, np.uint8, out.size).reshape(out.shape)


def writes(out: npt.NDArray[Any], dtype: str) -> bool:
    """Whether `decode_rows` can write into this memory."""
    return dtype == "torch.float32" and out.flags.c_contiguous


def decode_rows(
    rows: npt.NDArray[np.uint8], layout: Layout, block_bits: int, out: npt.NDArray[np.float32], dtype: str
) -> None:
    """Decode rows, uint8 [n, row_bytes] (any strides), into out, float32 [n, *shape] (contiguous)."""
    values = layout.spec.values
    for first, last in slabs(len(rows), values):
        _decode_slab(rows[first:last], layout, block_bits, out[first:last].reshape(-1, values))


def _decode_slab(rows: npt.NDArray[np.uint8], layout: Layout, block_bits: int, out: npt.NDArray[np.float32]) -> None:
    n = len(rows)
    stream = _to_stream(rows)
    if layout.plain:
        c, h, w = layout.spec.shape
        _decompress(stream, block_bits, out.reshape(n * c, h, w))
        return
    places = gather_of(layout)
    if places.identity:
        _decompress(stream, block_bits, out.reshape(-1, 4, 4))
        return
    blocks = np.empty((n, layout.blocks * BLOCK), np.float32)
    _decompress(stream, block_bits, blocks.reshape(-1, 4, 4))
    _move(blocks, places.wide_inverse, places.width, out)


def _to_blocks(x: npt.NDArray[np.float32], layout: Layout) -> npt.NDArray[np.float32]:
    """float32 [z, y, x]: an array whose blocks of 4 x 4 x 4, as zfpy takes them, are the layout's."""
    n = len(x)
    if layout.plain:
        c, h, w = layout.spec.shape
        return x.reshape(n * c, h, w)
    places = gather_of(layout)
    if places.identity:
        return x.reshape(-1, 4, 4)
    blocks = np.empty((n, layout.blocks * BLOCK), np.float32)
    _move(x, places.wide_index, places.width, blocks)
    if places.zeros.size:
        blocks[:, places.zeros] = 0
    return blocks.reshape(-1, 4, 4)


def _to_stream(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The rows end to end, in whole words: the rows themselves where they lie like that, else a copy."""
    if rows.flags.c_contiguous and rows.size % _WORD == 0 and rows.ctypes.data % _WORD == 0:
        return rows.reshape(-1)
    stream = np.zeros(-(-rows.size // _WORD) * _WORD, np.uint8)
    stream[: rows.size].reshape(rows.shape)[...] = rows
    return stream


def _move(x: npt.NDArray[np.float32], index: npt.NDArray[np.int64], width: int, out: npt.NDArray[np.float32]) -> None:
    """out = x[:, index], in groups of `width` values: twice as fast for 2 of them."""
    group = _GROUPS[width]
    # "clip" only spares numpy a buffered copy: every index is in range.
    np.take(x.view(group), index, axis=1, out=out.view(group), mode="clip")


def _compress(array: npt.NDArray[np.float32], block_bits: int) -> bytes:
    _check(array, block_bits)
    return bytes(zfpy.compress_numpy(array, rate=block_bits / BLOCK, write_header=False))


def _decompress(stream: npt.NDArray[np.uint8], block_bits: int, out: npt.NDArray[np.float32]) -> None:
    _check(out, block_bits)
    blocks = math.prod(-(-side // 4) for side in out.shape)
    if stream.size * 8 < blocks * block_bits or stream.size % _WORD or not stream.flags.c_contiguous:
        raise CodecError(f"expected a stream of {blocks} blocks of {block_bits} bits, found {stream.size} bytes")
    zfpy._decompress(stream, _FLOAT, out.shape, out=out, rate=block_bits / BLOCK)


def _check(array: npt.NDArray[np.float32], block_bits: int) -> None:
    if block_bits < 16 or not array.size or not array.flags.c_contiguous or array.dtype != np.float32:
        raise CodecError(f"no stream of {block_bits} bits a block over {array.dtype} {array.shape}")
