"""The kernel of `int`: values of 2 to 8 bits, packed run by run, times a scale, plus an offset.

A run is a channel's places or, of a vector, the vector itself. A program takes a tile of runs and of places in them;
it reads along the runs, where the bytes lie side by side, and writes along whichever lies side by side in the output.
Product and sum are rounded one by one, as every engine does.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fmshards.codec.feature import FeatureSpec
from fmshards.kernels.rounding import TYPES, rounded
from fmshards.kernels.strides import strides_of

_TILE = 1024


@triton.jit
def _bfloat16(data, mask):
    """float32: the little-endian bfloat16 at each address."""
    low = tl.load(data, mask=mask, other=0).to(tl.uint32)
    high = tl.load(data + 1, mask=mask, other=0).to(tl.uint32)
    return ((low << 16) | (high << 24)).to(tl.float32, bitcast=True)


@triton.jit
def int_decode(
    rows,
    out,
    scale,
    offset,
    row_stride,
    out_sample,
    out_run,
    out_place,
    runs,
    places,
    BITS: tl.constexpr,
    VECTOR: tl.constexpr,
    STORED: tl.constexpr,
    RUN_FIRST: tl.constexpr,
    DTYPE: tl.constexpr,
    RUNS: tl.constexpr,
    PLACES: tl.constexpr,
):
    across, down = tl.cdiv(places, PLACES), tl.cdiv(runs, RUNS)
    sample = (tl.program_id(0) // (across * down)).to(tl.int64)
    tile = tl.program_id(0) % (across * down)
    run = tile // across * RUNS + tl.arange(0, RUNS)
    place = tile % across * PLACES + tl.arange(0, PLACES)
    good_run, good_place = run < runs, place < places
    row = rows + sample * row_stride
    if STORED:
        step = _bfloat16(row + 2 * run, good_run)[:, None]
        zero = _bfloat16(row + 2 * runs + 2 * run, good_run)[:, None]
        data = row + 4 * runs
    elif VECTOR:
        step = tl.load(scale + place, mask=good_place, other=0)[None, :]
        zero = tl.load(offset + place, mask=good_place, other=0)[None, :]
        data = row
    else:
        step = tl.load(scale + run, mask=good_run, other=0)[:, None]
        zero = tl.load(offset + run, mask=good_run, other=0)[:, None]
        data = row
    run_bytes = tl.cdiv(places * BITS, 8)
    bit = place * BITS
    here = (run * run_bytes)[:, None] + (bit >> 3)[None, :]
    inside = good_run[:, None] & good_place[None, :]
    word = tl.load(data + here, mask=inside, other=0).to(tl.int32)
    if 8 % BITS != 0:
        # The value may go on in the next byte; where the run ends, it does not.
        goes_on = (bit & 7) + BITS > 8
        word |= tl.load(data + here + 1, mask=inside & goes_on[None, :], other=0).to(tl.int32) << 8
    number = (word >> (bit & 7)[None, :]) & ((1 << BITS) - 1)
    value = rounded(number.to(tl.float32) * step + zero, DTYPE)
    start = out + sample * out_sample
    if RUN_FIRST:
        target = (place * out_place)[:, None] + (run * out_run)[None, :]
        tl.store(start + target, tl.trans(value), mask=good_place[:, None] & good_run[None, :])
    else:
        target = (run * out_run)[:, None] + (place * out_place)[None, :]
        tl.store(start + target, value, mask=inside)


def decode(
    rows: torch.Tensor,
    spec: FeatureSpec,
    bits: int,
    scale: torch.Tensor | None,
    offset: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """Decode rows, uint8 [B, row_bytes] (bytes of a row side by side), into out [B, *shape] of the same device.

    bits: 2 to 8. scale, offset: float32 [C] on the device; None: stored in each row. out: float32, float16 or bfloat16
    whose places follow each other in one step, as those of contiguous and of channels-last tensors do.
    """
    vector, steps = spec.kind == "vector", strides_of(out, spec.kind)
    assert steps is not None, "the caller looks at the strides"
    channels, each = spec.channels, spec.values // spec.channels
    # A vector is one run: its values are what places are elsewhere.
    runs, places = (1, channels) if vector else (channels, each)
    out_run, out_place = (0, steps[0]) if vector else steps
    wide = max(16, min(_TILE, triton.next_power_of_2(places)))
    tall = min(_TILE // wide, triton.next_power_of_2(runs))
    programs = len(rows) * triton.cdiv(places, wide) * triton.cdiv(runs, tall)
    if not programs:
        return
    int_decode[(programs,)](
        rows,
        out,
        scale,
        offset,
        rows.stride(0),
        out.stride(0),
        out_run,
        out_place,
        runs,
        places,
        BITS=bits,
        VECTOR=vector,
        STORED=scale is None,
        RUN_FIRST=out_run == 1 and out_place != 1,
        DTYPE=TYPES[out.dtype],
        RUNS=tall,
        PLACES=wide,
        num_warps=4,
        enable_fp_fusion=False,
    )
