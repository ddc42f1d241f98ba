"""From coefficients to values, in their places in the output.

Of blocks one lane makes a row of four values: all sums are of four products from the left, each operation rounded, as
every engine does. Runs are copied, one lane a value.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fmshards.codec.dct.gpu.levels import step_of
from fmshards.kernels.rounding import rounded


@triton.jit
def _sum(a0, a1, a2, a3, column, stride, mask):
    """float32: a0 to a3 times the four factors from each address on, `stride` apart."""
    total = a0 * tl.load(column, mask=mask, other=0)
    total = total + a1 * tl.load(column + stride, mask=mask, other=0)
    total = total + a2 * tl.load(column + 2 * stride, mask=mask, other=0)
    return total + a3 * tl.load(column + 3 * stride, mask=mask, other=0)


@triton.jit
def dct_grid(
    rows,
    found,
    out,
    steps,
    matrices,
    gains,
    means,
    down,
    across,
    row_stride,
    out_sample,
    out_channel,
    out_place,
    lanes,
    blocks,
    channels,
    high,
    wide,
    side,
    skipped,
    least,
    CHANNEL_FIRST: tl.constexpr,
    DTYPE: tl.constexpr,
    LANES: tl.constexpr,
):
    """Blocks of the grid, `high` times `wide` of each channel, from `found` (see `dct_levels`).

    matrices: `blocks.transforms`. down, across: int32 [high, 2] and [wide, 2], of each row and column of blocks its
    first cell and its size. side: cells of a row. skipped: places before the first cell. least: what is below becomes
    0. CHANNEL_FIRST: whether neighbouring lanes take neighbouring channels, else neighbouring blocks.
    """
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    there = lane < lanes
    lines = 4 * high * wide
    sample = lane // (channels * lines)
    own = lane - sample * (channels * lines)
    if CHANNEL_FIRST:
        line = own // channels
        channel = own - line * channels
    else:
        channel = own // lines
        line = own - channel * lines
    i, y, j = line // (4 * wide), line // wide % 4, line % wide
    top = tl.load(down + 2 * i, mask=there, other=0)
    height = tl.load(down + 2 * i + 1, mask=there, other=0)
    left = tl.load(across + 2 * j, mask=there, other=0)
    width = tl.load(across + 2 * j + 1, mask=there, other=0)
    there = there & (y < height)

    source = found + (sample.to(tl.int64) * blocks + (channel * high + i) * wide + j) * 16
    step = step_of(rows + sample.to(tl.int64) * row_stride, steps, there)
    x = tl.load(source, mask=there, other=0)
    mean = tl.load(means + channel, mask=there, other=0) * step
    x = tl.where(x == 0, mean, x)
    factors = matrices + 16 * height + y
    f0 = tl.load(factors, mask=there, other=0)
    f1 = tl.load(factors + 4, mask=there, other=0)
    f2 = tl.load(factors + 8, mask=there, other=0)
    f3 = tl.load(factors + 12, mask=there, other=0)
    a0 = f0 * x
    a0 = a0 + f1 * tl.load(source + 4, mask=there, other=0)
    a0 = a0 + f2 * tl.load(source + 8, mask=there, other=0)
    a0 = a0 + f3 * tl.load(source + 12, mask=there, other=0)
    a1 = _sum(f0, f1, f2, f3, source + 1, 4, there)
    a2 = _sum(f0, f1, f2, f3, source + 2, 4, there)
    a3 = _sum(f0, f1, f2, f3, source + 3, 4, there)

    gain = tl.load(gains + channel, mask=there, other=0)
    place = skipped + (top + y) * side + left
    target = out + sample.to(tl.int64) * out_sample + channel * out_channel
    for k in tl.static_range(4):
        value = _sum(a0, a1, a2, a3, matrices + 16 * width + k, 4, there) * gain
        value = tl.where(value < least, 0.0, value)
        tl.store(target + (place + k) * out_place, rounded(value, DTYPE), mask=there & (k < width))


@triton.jit
def dct_runs(
    found,
    out,
    scan,
    out_sample,
    out_channel,
    out_place,
    lanes,
    blocks,
    grid,
    values,
    inner,
    least,
    TURNED: tl.constexpr,
    DTYPE: tl.constexpr,
    LANES: tl.constexpr,
):
    """The first `values` values of each sample, from the blocks behind the first `grid`. least: as of `dct_grid`.

    A sample holds `inner` places channel by channel or, TURNED, `inner` channels place by place.
    """
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    there = lane < lanes
    sample = lane // values
    own = lane - sample * values
    cell = tl.load(scan + own % 16, mask=there, other=0)
    block = sample.to(tl.int64) * blocks + grid + own // 16
    value = tl.load(found + block * 16 + cell, mask=there, other=0)
    value = tl.where(value < least, 0.0, value)
    outer = own // inner
    within = own - outer * inner
    if TURNED:
        offset = outer * out_place + within * out_channel
    else:
        offset = outer * out_channel + within * out_place
    tl.store(out + sample.to(tl.int64) * out_sample + offset, rounded(value, DTYPE), mask=there)
