"""`int` on a CUDA device: rows that are there are decoded there, by the kernel of gpu/. As zfp/on_cuda.py."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fmshards.codec.feature import FeatureSpec
from fmshards.codec.integer import engine
from fmshards.codec.integer.runs import Runs
from fmshards.errors import CodecError
from fmshards.kernels import cuda

if TYPE_CHECKING:
    import torch


def available(device: torch.device) -> bool:
    """Whether rows on this device are decoded there; the first question about a device tries it on a few rows."""
    return cuda.usable(device, "int rows are decoded on the CPU", trial)


def decode(
    rows: torch.Tensor,
    spec: FeatureSpec,
    bits: int,
    steps: tuple[tuple[float, ...], tuple[float, ...]] | None,
    out: torch.Tensor,
) -> None:
    """Decode rows, uint8 [B, row_bytes], into out [B, *shape] on the same device. See `gpu.kernel.decode`.

    steps: (scale, offset) of each channel; None where each row has its own.
    """
    from fmshards.codec.integer.gpu import kernel

    scale, offset = (None, None) if steps is None else (_placed(s, rows.device) for s in steps)
    with cuda.current(rows.device):
        kernel.decode(rows, spec, bits, scale, offset, out)


def trial(device: torch.device) -> None:
    """Raises unless the kernel gives on this device what the CPU does, to the last bit."""
    import torch

    spec = FeatureSpec("map", (8, 14, 14))
    runs = Runs(spec, 4, None)
    x = np.random.default_rng(0).standard_normal((3, spec.values)).astype(np.float32)
    rows = np.empty((3, runs.row_bytes), np.uint8)
    engine.encode_rows(x, runs, rows)
    expected, found = torch.empty(3, *spec.shape), torch.full((3, *spec.shape), torch.nan, device=device)
    engine.decode_rows(rows, runs, expected)
    decode(torch.from_numpy(rows).to(device), spec, 4, None, found)
    if not torch.equal(found.cpu(), expected):
        raise CodecError("int rows of 4 bits a value decode to other values than on the CPU")


@lru_cache(maxsize=64)
def _placed(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    # Kept, as bringing them to a device for every batch would make the host wait.
    import torch

    return torch.tensor(values, dtype=torch.float32, device=device)
