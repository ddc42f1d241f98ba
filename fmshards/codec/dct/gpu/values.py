"""From coefficients to values, in their places in the output.

Of blocks one lane makes a row of four values: sums are those of every engine, each operation rounded. Runs are copied,
one lane a value.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fmshards.codec.dct.gpu.levels import step_of
from fmshards.kernels.rounding import rounded


@triton.jit
def _sum(x0, x1, x2, x3, a0, a1, a2, a3):
    """float32: each of x times the factor of its number, the even ones' sum and the odd ones' added."""
    return (x0 * a0 + x2 * a2) + (x1 * a1 + x3 * a3)


@triton.jit
def _or(x, mean):
    """x, or `mean` where it is 0."""
    return tl.where(x == 0, mean, x)


@triton.jit
def _four(place, stride, mask):
    """Numbers at each address and the three that follow it, `stride` apart."""
    x0 = tl.load(place, mask=mask, other=0)
    x1 = tl.load(place + stride, mask=mask, other=0)
    x2 = tl.load(place + 2 * stride, mask=mask, other=0)
    x3 = tl.load(place + 3 * stride, mask=mask, other=0)
    return x0, x1, x2, x3


@triton.jit
def dct_grid(
    rows,
    found,
    out,
    steps,
    matrices,
    gains,
    means,
    offsets,
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
    TRANSFORMED: tl.constexpr,
    CHANNEL_FIRST: tl.constexpr,
    DTYPE: tl.constexpr,
    LANES: tl.constexpr,
):
    """Blocks of the grid, `high` times `wide` of each channel, from `found` (see `dct_levels`).

    matrices: `blocks.transforms`; TRANSFORMED: of which kind. down, across: int32 [high, 2] and [wide, 2], of each row
    and column of blocks its first cell and its size. side: cells of a row. skipped: places before the first cell.
    least: what is below becomes 0. CHANNEL_FIRST: whether neighbouring lanes take neighbouring channels, else
    neighbouring blocks.
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
    # a: coefficients of row 0, by columns; b, c, d: of rows 1, 2 and 3.
    a0, a1, a2, a3 = _four(source, 4, there)
    b0, b1, b2, b3 = _four(source + 1, 4, there)
    c0, c1, c2, c3 = _four(source + 2, 4, there)
    d0, d1, d2, d3 = _four(source + 3, 4, there)
    mean = tl.load(means + channel, mask=there, other=0)
    a0 = _or(a0, mean)
    if not TRANSFORMED:
        a1, a2, a3 = _or(a1, mean), _or(a2, mean), _or(a3, mean)
        b0, b1, b2, b3 = _or(b0, mean), _or(b1, mean), _or(b2, mean), _or(b3, mean)
        c0, c1, c2, c3 = _or(c0, mean), _or(c1, mean), _or(c2, mean), _or(c3, mean)
        d0, d1, d2, d3 = _or(d0, mean), _or(d1, mean), _or(d2, mean), _or(d3, mean)

    gain = tl.load(gains + channel, mask=there, other=0)
    gain = gain * step_of(rows + sample.to(tl.int64) * row_stride, steps, there)
    offset = tl.load(offsets + channel, mask=there, other=0)
    y0, y1, y2, y3 = _four(matrices + 16 * height + y, 4, there)
    place = skipped + (top + y) * side + left
    target = out + sample.to(tl.int64) * out_sample + channel * out_channel
    for k in tl.static_range(4):
        x0, x1, x2, x3 = _four(matrices + 16 * width + k, 4, there)
        first = _sum(a0, a1, a2, a3, x0, x1, x2, x3)
        second = _sum(b0, b1, b2, b3, x0, x1, x2, x3)
        third = _sum(c0, c1, c2, c3, x0, x1, x2, x3)
        fourth = _sum(d0, d1, d2, d3, x0, x1, x2, x3)
        value = _sum(first, second, third, fourth, y0, y1, y2, y3) * gain
        value = value + offset
        value = tl.where(value < least, 0.0, value)
        tl.store(target + (place + k) * out_place, rounded(value, DTYPE), mask=there & (k < width))


@triton.jit
def dct_runs(
    rows,
    found,
    out,
    steps,
    cells,
    offsets,
    row_stride,
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
    """The first `values` values of each sample, from the blocks behind the first `grid`. offsets: of each of them.
    least: as of `dct_grid`.

    A sample holds `inner` places channel by channel or, TURNED, `inner` channels place by place.
    """
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    there = lane < lanes
    sample = lane // values
    own = lane - sample * values
    cell = tl.load(cells + own % 16, mask=there, other=0)
    block = sample.to(tl.int64) * blocks + grid + own // 16
    value = tl.load(found + block * 16 + cell, mask=there, other=0)
    value = value * step_of(rows + sample.to(tl.int64) * row_stride, steps, there)
    value = value + tl.load(offsets + own, mask=there, other=0)
    value = tl.where(value < least, 0.0, value)
    outer = own // inner
    within = own - outer * inner
    if TURNED:
        offset = outer * out_place + within * out_channel
    else:
        offset = outer * out_channel + within * out_place
    tl.store(out + sample.to(tl.int64) * out_sample + offset, rounded(value, DTYPE), mask=there)
