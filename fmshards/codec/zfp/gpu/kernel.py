"""The kernel of `zfp`: one lane a block, one 1-D tensor a coefficient, results straight to their places.

Its text is made here, since Triton has no arrays of registers: 64 names in place of 64 lines. Eight planes at a time
are read, turned by masked swaps and appended to the coefficients, a byte each; the loop ends with the lane that has
most. The inverse transform, the scale and the stores follow in registers.

One warp and 32 blocks a program, so that the tests over all lanes are one instruction. No product is fused with a sum,
and no result is flushed to zero: values are zfp's to the last bit.
"""

from __future__ import annotations

import linecache
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from fmshards.codec.zfp.coefficients import ORDER
from fmshards.codec.zfp.gpu import bits
from fmshards.codec.zfp.gpu.targets import group_starts, targets_of
from fmshards.codec.zfp.layout import BLOCK, Layout
from fmshards.kernels.rounding import TYPES, rounded

LANES = 32

_TEXT = """\
@triton.jit
def {name}(
    rows, out, blocks, places, lanes, per_sample, row_stride, sample_stride,
    BITS: tl.constexpr, WORDS: tl.constexpr, WORD: tl.constexpr, DTYPE: tl.constexpr, LANES: tl.constexpr,
):
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    live = lane < lanes
    sample = lane // per_sample
    own = lane - sample * per_sample
    block = tl.load(blocks + own, mask=live, other=0)
    data = rows + sample.to(tl.int64) * row_stride + block.to(tl.int64) * WORDS
    head = word(data, tl.zeros_like(lane), live, WORDS, WORD)
    full = (head & 1) == 1
    scale = scale_of(tl.where(full, (head >> 1) & 255, 0).to(tl.int32))
    position = tl.where(full, 9, BITS)
    n = tl.zeros_like(lane)
{zeros}
    taken = 0
    while (taken < 32) & (tl.min(position, 0) < BITS):
{planes}
        taken += 8
    # Negabinary to signed: (u ^ m) - m.
    shift = (32 - taken) & 31
{signed}
{lifts}
    start = out + sample.to(tl.int64) * sample_stride
{stores}
"""


def decode(rows: torch.Tensor, layout: Layout, block_bits: int, out: torch.Tensor, lanes: int = LANES) -> None:
    """Decode rows, uint8 [B, row_bytes] (bytes of a row side by side), into out [B, *shape] of the same device.

    out: float32, float16 or bfloat16, any strides. B times the blocks of a sample must be under 2^31, and a sample of
    out must span fewer than 2^31 values.
    """
    block_bytes = block_bits // 8
    total = len(rows) * layout.blocks
    if total == 0:
        return
    itemsize, sample_stride = out.element_size(), out.stride(0)
    aligned = max(w for w in (1, 2, 4) if out.data_ptr() % (w * itemsize) == 0 and sample_stride % w == 0)
    targets = targets_of(layout, out.stride()[1:], itemsize, aligned, out.device)
    # Words that every block starts on: none crosses the end of one, nothing is read beyond the rows.
    size = max(w for w in (1, 2, 4) if rows.data_ptr() % w == rows.stride(0) % w == block_bytes % w == 0)
    width = targets.width
    _kernel(width, targets.along, itemsize)[(triton.cdiv(total, lanes),)](
        triton.reinterpret(rows, _UNSIGNED[size]),
        out if width == 1 else triton.reinterpret(out, _UNSIGNED[itemsize * width]),
        targets.blocks,
        targets.places,
        total,
        layout.blocks,
        rows.stride(0) // size,
        sample_stride // width,
        BITS=block_bits,
        WORDS=block_bytes // size,
        WORD=size,
        DTYPE=TYPES[out.dtype],
        LANES=lanes,
        num_warps=1,
        enable_fp_fusion=False,
    )


_MASK = tl.constexpr(-0x55555556)  # 0xaaaaaaaa as an int32
_UNSIGNED = {1: tl.uint8, 2: tl.uint16, 4: tl.uint32, 8: tl.uint64}


@lru_cache(maxsize=16)
def _kernel(width: int, along: int, itemsize: int) -> Any:
    name = f"zfp_decode_{width}_{along}_{itemsize}"
    text = _TEXT.format(
        name=name,
        zeros=_lines(4, [f"u{i} = n" for i in range(BLOCK)]),
        planes=_lines(8, _planes()),
        signed=_lines(4, [f"v{ORDER[i]} = ((u{i} << shift) ^ MASK) - MASK" for i in range(BLOCK)]),
        lifts=_lines(4, _lifts()),
        stores=_lines(4, _stores(width, along, itemsize)),
    )
    # Triton reads a kernel's source where Python's tracebacks look for it.
    file = f"<fmshards {name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    scope = {"triton": triton, "tl": tl, "__name__": __name__, "MASK": _MASK, "rounded": rounded}
    scope |= {part: getattr(bits, part) for part in ("word", "plane", "transpose", "inverse_lift", "scale_of")}
    exec(compile(text, file, "exec"), scope)
    return scope[name]


def _lines(indent: int, lines: list[str]) -> str:
    return "\n".join(" " * indent + line for line in lines)


def _planes() -> list[str]:
    """Eight planes, and a byte of theirs appended to every coefficient."""
    lines = [f"l{k}, h{k}, position, n = plane(data, position, n, live, BITS, WORDS, WORD)" for k in range(8)]
    for half, first in (("l", 0), ("h", 32)):
        names = ", ".join(f"{half}{k}" for k in range(8))
        lines.append(f"{names} = transpose({names})")
        for i in range(32):
            lines.append(f"u{first + i} = (u{first + i} << 8) | (({half}{i % 8} >> {i // 8 * 8}) & 255).to(tl.int32)")
    return lines


def _lifts() -> list[str]:
    """The inverse transform along z, y, x."""
    lines = []
    for step in (16, 4, 1):
        for first in (i for i in range(BLOCK) if i // step % 4 == 0):
            names = ", ".join(f"v{first + k * step}" for k in range(4))
            lines.append(f"{names} = inverse_lift({names})")
    return lines


def _stores(width: int, along: int, itemsize: int) -> list[str]:
    """Groups of `width` values as words of width * itemsize bytes to their places."""
    lines = []
    bits, wide = 8 * itemsize, 8 * itemsize * width
    for row, first in enumerate(group_starts(width, along)):
        values = [f"rounded(v{first + k * along}.to(tl.float32) * scale, DTYPE)" for k in range(width)]
        if width > 1:
            values = [
                f"({v}.to(tl.uint{bits}, bitcast=True).to(tl.uint{wide}) << {k * bits})" for k, v in enumerate(values)
            ]
        lines.append(f"place = tl.load(places + {row} * per_sample + own, mask=live, other=-1)")
        lines.append(f"tl.store(start + place, {' | '.join(values)}, mask=place >= 0)")
    return lines
