"""The engine on a CUDA device: rows that are there are decoded there, by the kernel of gpu/, into any output.

Importing this imports neither torch nor triton. No value is looked at on the host and shapes alone decide, so that
nothing waits for the device and CUDA graphs can be captured once a first call has compiled the kernel and made its
tables. Where triton is missing the codec brings rows to the CPU and takes features back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fmshards.codec.feature import FeatureSpec
from fmshards.codec.zfp.engine import engine
from fmshards.codec.zfp.layout import Layout, layout_of
from fmshards.errors import CodecError
from fmshards.kernels import cuda

if TYPE_CHECKING:
    import torch


def available(device: torch.device) -> bool:
    """Whether rows on this device are decoded there; the first question about a device tries it on a few rows."""
    return cuda.usable(device, "zfp rows are decoded on the CPU", trial)


def decode(rows: torch.Tensor, layout: Layout, block_bits: int, out: torch.Tensor) -> None:
    """Decode rows, uint8 [B, row_bytes], into out [B, *shape] on the same device. See `gpu.kernel.decode`."""
    from fmshards.codec.zfp.gpu import kernel

    step = cuda.LARGEST // layout.blocks
    with cuda.current(rows.device):
        for first in range(0, len(rows), step):
            kernel.decode(rows[first : first + step], layout, block_bits, out[first : first + step])


def trial(device: torch.device) -> None:
    """Raises unless the kernel gives on this device what the CPU does, to the last bit."""
    import torch

    for block_bits, shape in ((256, (16, 14, 14)), (128, (8, 8, 8))):
        layout = layout_of(FeatureSpec("map", shape))
        x = np.random.default_rng(0).standard_normal((3, layout.spec.values)).astype(np.float32)
        rows = np.empty((3, layout.blocks * block_bits // 8), np.uint8)
        engine().encode_rows(x, layout, block_bits, rows)
        expected, found = torch.empty(3, *shape), torch.full((3, *shape), torch.nan, device=device)
        engine().decode_rows(rows, layout, block_bits, expected.numpy(), "torch.float32")
        decode(torch.from_numpy(rows).to(device), layout, block_bits, found)
        if not torch.equal(found.cpu(), expected):
            raise CodecError(f"zfp rows of {block_bits} bits a block decode to other values than on the CPU")
