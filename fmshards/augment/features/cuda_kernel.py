"""Moving, the stored channels and the output's dtype in one kernel for CUDA devices: the rules of move.py and
channels.py, in one pass over the batch.

A second kernel after the decoder's and not the same one: an output cell needs cells that other lanes decode, and on the
way a fitted mirror map, where there is one, is a convolution of torch's. What lies between is read from the cache where
a batch fits there.

A program takes a tile of places; their positions are found once, in float64 as on the host, and serve a loop over
channels. Corners of no weight are not read, and a whole position is a copy to the last bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fmshards.kernels.rounding import rounded


@triton.jit
def _snapped(position, cells):
    """Whole where it is within a thousandth of it; what is far outside stays outside, near enough for 32 bits."""
    position = tl.minimum(tl.maximum(position, -2.0), cells + 1.0)
    whole = tl.floor(position + 0.5)
    return tl.where(tl.abs(position - whole) <= 1e-3, whole, position)


@triton.jit
def move_put(
    x,
    theta,
    mirrored,
    fill,
    view,
    slots,
    axes,
    out,
    x_sample,
    x_channel,
    x_place,
    fill_channel,
    fill_place,
    view_sample,
    view_channel,
    view_place,
    out_sample,
    out_channel,
    out_place,
    channels,
    places,
    h,
    w,
    kept,
    DTYPE: tl.constexpr,
    PLACE_LAST: tl.constexpr,
    CHANNELS: tl.constexpr,
    PLACES: tl.constexpr,
    STEPS: tl.constexpr,
):
    """out [B, channels, places] from x: the first `kept` places as they are, the h * w others moved.

    axes: float64 [2, 4], those of a `LayerMove`. slots: int32 [channels], the view's channel that replaces each, -1 for
    none. fill and view may be None.
    """
    across, down = tl.cdiv(places, PLACES), tl.cdiv(channels, CHANNELS * STEPS)
    sample = (tl.program_id(0) // (across * down)).to(tl.int64)
    tile = tl.program_id(0) % (across * down)
    place = tile % across * PLACES + tl.arange(0, PLACES)
    moves = (place >= kept) & (place < places)

    # Where the source is: on_torch._sources, operation by operation.
    cell = tl.maximum(place - kept, 0)
    height, stride_y, offset_y = tl.load(axes + 1), tl.load(axes + 2), tl.load(axes + 3)
    width, stride_x, offset_x = tl.load(axes + 5), tl.load(axes + 6), tl.load(axes + 7)
    py = (2 * ((cell // w).to(tl.float64) * stride_y + offset_y) + 1) / height - 1
    px = (2 * ((cell % w).to(tl.float64) * stride_x + offset_x) + 1) / width - 1
    a = theta + sample * 6
    sign = tl.where(tl.load(mirrored + sample) != 0, -1.0, 1.0).to(tl.float64)
    qx = tl.load(a).to(tl.float64) * sign * px + tl.load(a + 2).to(tl.float64) * sign
    qx += tl.load(a + 1).to(tl.float64) * sign * py
    qy = tl.load(a + 4).to(tl.float64) * py + tl.load(a + 5).to(tl.float64) + tl.load(a + 3).to(tl.float64) * px
    row = _snapped((((qy + 1) * height - 1) / 2 - offset_y) / stride_y, h)
    column = _snapped((((qx + 1) * width - 1) / 2 - offset_x) / stride_x, w)

    # Four corners: their weights, whether each is read, and whether one that counts is outside.
    y0, x0 = tl.floor(row), tl.floor(column)
    fy = tl.where(moves, (row - y0).to(tl.float32), 0.0)
    fx = tl.where(moves, (column - x0).to(tl.float32), 0.0)
    y, x_cell = y0.to(tl.int32), x0.to(tl.int32)
    top, below = (y >= 0) & (y < h), (y >= -1) & (y < h - 1)
    left, right = (x_cell >= 0) & (x_cell < w), (x_cell >= -1) & (x_cell < w - 1)
    w00, w01, w10, w11 = (1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx
    in00, in01, in10, in11 = (top & left) | (place < kept), top & right, below & left, below & right
    out01, out10, out11 = (w01 != 0) & (in01 == 0), (w10 != 0) & (in10 == 0), (w11 != 0) & (in11 == 0)
    source = tl.where(moves, kept + y * w + x_cell, place) * x_place
    good_place = place < places
    outside = (in00 == 0) | out01 | out10 | out11

    start, target = x + sample * x_sample, out + sample * out_sample
    for step in range(STEPS):
        channel = (tile // across * STEPS + step) * CHANNELS + tl.arange(0, CHANNELS)
        good_channel = channel < channels
        if view is not None:
            slot = tl.load(slots + channel, mask=good_channel, other=-1)
            # Replaced channels are not moved first.
            moved = _tile(good_channel & (slot < 0), PLACE_LAST, True) & _tile(good_place, PLACE_LAST, False)
        else:
            moved = _tile(good_channel, PLACE_LAST, True) & _tile(good_place, PLACE_LAST, False)
        at = _tile(channel * x_channel, PLACE_LAST, True) + _tile(source, PLACE_LAST, False)
        blank = tl.zeros_like(at).to(tl.float32)
        if fill is not None:
            own = _tile(channel * fill_channel, PLACE_LAST, True) + _tile(place * fill_place, PLACE_LAST, False)
            blank = tl.load(fill + own, mask=moved & _tile(outside, PLACE_LAST, False), other=0).to(tl.float32)
        v00 = _corner(start + at, in00, in00 == 0, moved, blank, PLACE_LAST)
        v01 = _corner(start + at + x_place, in01 & (w01 != 0), out01, moved, blank, PLACE_LAST)
        v10 = _corner(start + at + w * x_place, in10 & (w10 != 0), out10, moved, blank, PLACE_LAST)
        v11 = _corner(start + at + (w + 1) * x_place, in11 & (w11 != 0), out11, moved, blank, PLACE_LAST)
        value = v00 * _tile(w00, PLACE_LAST, False) + v01 * _tile(w01, PLACE_LAST, False)
        value = value + v10 * _tile(w10, PLACE_LAST, False) + v11 * _tile(w11, PLACE_LAST, False)
        value = tl.where(_tile(w00 == 1, PLACE_LAST, False), v00, value)
        inside = _tile(good_channel, PLACE_LAST, True) & _tile(good_place, PLACE_LAST, False)
        if view is not None:
            stored = _tile(slot >= 0, PLACE_LAST, True)
            own = _tile(slot * view_channel, PLACE_LAST, True) + _tile(place * view_place, PLACE_LAST, False)
            put = tl.load(view + sample * view_sample + own, mask=inside & stored, other=0).to(tl.float32)
            value = tl.where(stored, put, value)
        own = _tile(channel * out_channel, PLACE_LAST, True) + _tile(place * out_place, PLACE_LAST, False)
        tl.store(target + own, rounded(value, DTYPE), mask=inside)


@triton.jit
def _tile(x, PLACE_LAST: tl.constexpr, CHANNELS: tl.constexpr):
    """A vector over channels, or over places, along its axis of a tile [channels, places], or the other way round."""
    # One return: Triton takes all that follow each other.
    if PLACE_LAST == CHANNELS:
        tile = x[:, None]
    else:
        tile = x[None, :]
    return tile


@triton.jit
def _corner(data, inside, outside, moved, blank, PLACE_LAST: tl.constexpr):
    """float32: a corner's values; what the fill has where it is outside and counts; 0 where nothing is needed."""
    value = tl.load(data, mask=moved & _tile(inside, PLACE_LAST, False), other=0).to(tl.float32)
    return tl.where(_tile(outside, PLACE_LAST, False), blank, value)
