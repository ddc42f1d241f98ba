"""float32 to an output's dtype in kernels, to nearest, ties to even, as torch rounds."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def rounded(value, DTYPE: tl.constexpr):
    """float32 as DTYPE."""
    if INTERPRETED and tl.bfloat16 == DTYPE:
        # The interpreter cuts bits off where the device rounds.
        bits = value.to(tl.uint32, bitcast=True)
        near = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        out = tl.where(value != value, 0x7FC0, near).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        out = value.to(DTYPE)
    return out


TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
INTERPRETED = tl.constexpr(not isinstance(rounded, triton.JITFunction))
