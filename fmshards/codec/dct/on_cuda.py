"""`dct` on a CUDA device: rows that are there are decoded there, by the kernels of gpu/. As zfp/on_cuda.py."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fmshards.codec.dct import engine
from fmshards.codec.dct.blocks import Blocks
from fmshards.codec.dct.tables import Arrays, arrays, usual
from fmshards.codec.feature import FeatureSpec
from fmshards.errors import CodecError
from fmshards.kernels import cuda

if TYPE_CHECKING:
    import torch


def available(device: torch.device) -> bool:
    """Whether rows on this device are decoded there; the first question about a device tries it on a few rows."""
    return cuda.usable(device, "dct rows are decoded on the CPU", trial)


def decode(rows: torch.Tensor, blocks: Blocks, tables: Arrays, out: torch.Tensor) -> None:
    """Decode rows, uint8 [B, row_bytes], into out [B, *shape] on the same device. See `gpu.kernel.decode`."""
    from fmshards.codec.dct.gpu import kernel

    with cuda.current(rows.device):
        kernel.decode(rows, blocks, tables, out)


def trial(device: torch.device) -> None:
    """Raises unless the kernels give on this device what the CPU does, to the last bit."""
    import torch

    spec = FeatureSpec("tokens", (50, 140), (7, 7), 1)  # blocks and runs, two segments
    blocks = Blocks(spec)
    x = np.zeros((3, *spec.shape), np.float32)
    x[..., 3::45] = np.random.default_rng(0).standard_normal((3, 50, 4))  # of all channels nothing would be left
    for transformed in (True, False):
        tables = arrays(replace(usual(blocks), transformed=transformed), blocks)
        rows = np.empty((3, 128), np.uint8)
        engine.encode_rows(x.reshape(3, -1), blocks, tables, rows)
        expected, found = torch.empty(3, *spec.shape), torch.full((3, *spec.shape), torch.nan, device=device)
        engine.decode_rows(rows, blocks, tables, expected)
        decode(torch.from_numpy(rows).to(device), blocks, tables, found)
        if not torch.equal(found.cpu(), expected):
            raise CodecError("dct rows decode to other values than on the CPU")
