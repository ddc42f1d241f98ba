"""The engine under `dct` on this CPU: values to rows and back, by compiled kernels or numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fmshards.codec.base import Bytes, Floats
from fmshards.codec.dct import on_numpy
from fmshards.codec.dct.blocks import Blocks
from fmshards.codec.dct.tables import Arrays
from fmshards.kernels import jit

if TYPE_CHECKING:
    import torch


def encode_rows(x: Floats, blocks: Blocks, tables: Arrays, out: Bytes) -> None:
    """Encode x, float32 [n, values] (contiguous, under 2^64), into out, uint8 [n, row_bytes] (contiguous)."""
    if jit.missing():
        on_numpy.encode(x, blocks, tables, out)
        return
    from fmshards.codec.dct.cpu import encode

    encode.rows(x, blocks, tables, out)


def decode_rows(rows: Bytes, blocks: Blocks, tables: Arrays, out: torch.Tensor) -> None:
    """Decode rows, uint8 [n, row_bytes] (any strides), into out, float32 [n, *shape] on the CPU for which `straight`.

    Any bytes decode to something; no byte beside a row is read.
    """
    if rows.strides[1] != 1:
        rows = np.ascontiguousarray(rows)
    if jit.missing():
        out.numpy()[...] = on_numpy.decode(np.ascontiguousarray(rows), blocks, tables).reshape(out.shape)
        return
    from fmshards.codec.dct.cpu import decode

    decode.rows(rows, blocks, tables, out)


def straight(out: torch.Tensor) -> bool:
    """Whether `decode_rows` can write into `out` itself: places in rows, and runs' values side by side."""
    return str(out.dtype) == "torch.float32" and out.device.type == "cpu" and out[:1].is_contiguous()
