"""Rows to features: block by block, straight to where each value belongs.

Planes are read for a few blocks at a time, two blocks side by side, since each plane waits for the one before it; then
these blocks are transformed. Where a block's lines of 4 are lines of the feature they go there; where not (tiles,
16-bit values, channels last) a row of blocks goes to a strip that stays in the nearest cache, and its lines from there.
"""

from __future__ import annotations

import numpy as np

from fmshards.codec.zfp.cpu.lines import (
    bfloat16_1,
    bfloat16_4,
    bfloat16_8,
    copy_1,
    copy_4,
    copy_8,
    half_1,
    half_4,
    half_8,
)
from fmshards.codec.zfp.cpu.planes import PLANES, leading_zero_planes, read_planes
from fmshards.codec.zfp.cpu.vectors import join_planes, put_block
from fmshards.kernels.bits import load8, load64, shr, store8, store64
from fmshards.kernels.jit import inner, kernel
from fmshards.kernels.machine import way

FLOAT32, FLOAT16, BFLOAT16 = 0, 1, 2
# What the numbers mean that describe a layout and a destination, in bytes; `on_cpu` fills them in.
(C, W, TX, TILE, BZ, BY, BX, MAP_BLOCKS, RUN_VALUES) = range(9)
(SAMPLE, COLUMN, MAP_START, RUN_TOKEN, ROW, KIND, STRAIGHT, ROWS_FIRST) = range(9, 17)
NUMBERS = 17

_GROUP = 8  # blocks whose planes are read before they are transformed
_SLACK = 24  # bytes that `planes` may read behind a block
_PLANES = 8 * PLANES  # bytes of a block's planes
# The scratch memory: three numbers a block, planes, spare blocks, a strip of a row of blocks.
_INFO = 24 * _GROUP
SPARE = 2 * (256 + 32)  # two blocks of the most bytes, and what may be read behind them
_SPARE = _INFO + _GROUP * _PLANES
_STRIP = _SPARE + SPARE


def scratch_bytes(bx: int) -> int:
    """Bytes that `decode_rows` needs for planes and a strip of `bx` blocks."""
    return _STRIP + 256 * max(bx, 1)


# A float32 scale for each exponent: 2^(e - 157), rounded as zfp's ldexp rounds it: denormal, then 0, for the least.
SCALES = np.ldexp(np.float32(1), np.arange(256) - 157).astype(np.float32)


@inner
def _item(table: int, i: int) -> int:
    """Item i of int64 at the address `table`. Arrays handed from function to function would be counted at each call."""
    return load64(table + 8 * i)


@inner
def _clear_planes(address: int) -> None:
    for j in range(PLANES):
        store64(address + 8 * j, 0)


@inner
def _guarded(block: int, size: int, end: int, spare: int) -> int:
    """The address of a block that may be read _SLACK bytes beyond: its own, or at the end of memory a copy's."""
    if block + size + _SLACK <= end:
        return block
    for i in range(size):
        store8(spare + i, load8(block + i))
    return spare


@inner
def _read_pair(block0: int, block1: int, size: int, end: int, info: int, planes: int, spare: int) -> None:
    """Planes of two blocks of `size` bytes, which may be the same.

    info: address of three numbers a block: its exponent, the planes left out at the top, how many planes there are.
    """
    block0 = _guarded(block0, size, end, spare)
    block1 = _guarded(block1, size, end, spare + SPARE // 2)
    bits = 8 * size
    head0, head1 = load64(block0), load64(block1)
    first0 = leading_zero_planes(block0, bits) if head0 & 1 else PLANES
    first1 = leading_zero_planes(block1, bits) if head1 & 1 else PLANES
    _clear_planes(planes)
    _clear_planes(planes + _PLANES)
    count0, count1 = read_planes(block0, block1, bits, first0, first1, planes, planes + _PLANES)
    store64(info, shr(head0, 1) & 255)
    store64(info + 8, first0)
    store64(info + 16, count0)
    store64(info + 24, shr(head1, 1) & 255)
    store64(info + 32, first1)
    store64(info + 40, count1)


@inner
def _put(scratch: int, i: int, scales: int, line0: int, line1: int, line2: int, line3: int, pitch: int) -> None:
    """The values of block i of a group to 4 x 4 lines of 4 float32."""
    info = scratch + 24 * i
    count = load64(info + 16)
    if count:
        planes, scale = scratch + _INFO + _PLANES * i, scales + 4 * load64(info)
        put_block(planes, scale, line0, line1, line2, line3, pitch)
        return
    for y in range(4):
        down = y * pitch
        store64(line0 + down, 0)
        store64(line0 + down + 8, 0)
        store64(line1 + down, 0)
        store64(line1 + down + 8, 0)
        store64(line2 + down, 0)
        store64(line2 + down + 8, 0)
        store64(line3 + down, 0)
        store64(line3 + down + 8, 0)


@inner
def _scatter(kind: int, source: int, destination: int, count: int, step: int) -> None:
    """`count` float32 side by side to values of `kind`, `step` bytes from one to the next."""
    for i in range(count):
        if kind == FLOAT32:
            copy_1(source + 4 * i, destination + step * i)
        elif kind == FLOAT16:
            half_1(source + 4 * i, destination + step * i)
        else:
            bfloat16_1(source + 4 * i, destination + step * i)


@inner
def _copy_line(kind: int, source: int, destination: int, count: int) -> None:
    """`count` float32, 4 or more, to values of `kind`, both side by side."""
    # The last vector may go over values that are there already.
    if count < 8:
        last = count - 4
        if kind == FLOAT32:
            copy_4(source, destination)
            copy_4(source + 4 * last, destination + 4 * last)
        elif kind == FLOAT16:
            half_4(source, destination)
            half_4(source + 4 * last, destination + 2 * last)
        else:
            bfloat16_4(source, destination)
            bfloat16_4(source + 4 * last, destination + 2 * last)
        return
    last = count - 8
    if kind == FLOAT32:
        for i in range(count >> 3):
            copy_8(source + 32 * i, destination + 32 * i)
        copy_8(source + 4 * last, destination + 4 * last)
    elif kind == FLOAT16:
        for i in range(count >> 3):
            half_8(source + 32 * i, destination + 16 * i)
        half_8(source + 4 * last, destination + 2 * last)
    else:
        for i in range(count >> 3):
            bfloat16_8(source + 32 * i, destination + 16 * i)
        bfloat16_8(source + 4 * last, destination + 2 * last)


@inner
def _empty_strip(g: int, channel: int, tile: int, down: int, strip: int, z: int, y: int, out: int) -> None:
    """A row of blocks, 4 mosaics of 4 lines, to the feature's lines that they hold. out: the map's first value."""
    line_bytes, width, kind, step = 16 * _item(g, BX), _item(g, W), _item(g, KIND), _item(g, COLUMN)
    whole = width >= 4 and step == (4 if kind == FLOAT32 else 2)
    for row in range(4):
        first = _item(tile, 4 * y + row)  # the place of the line's first channel in the first mosaic
        if first < 0:
            break
        to = out + _item(down, 4 * y + row)
        for mosaic in range(4):
            line = strip + (4 * mosaic + row) * line_bytes
            place = first + (4 * z + mosaic) * _item(g, TILE)
            for i in range(place, min(place + _item(g, TX), _item(g, C))):
                if whole:
                    _copy_line(kind, line, to + _item(channel, i), width)
                else:
                    _scatter(kind, line, to + _item(channel, i), width, step)
                line += 4 * width


@inner
def _empty_run(g: int, channel: int, strip: int, first: int, out: int) -> None:
    """A block of the run, 64 values from the run's `first` on, to their places."""
    for i in range(first, min(first + 64, _item(g, RUN_VALUES))):
        token = i // _item(g, C)
        at = out + token * _item(g, RUN_TOKEN) + _item(channel, i - token * _item(g, C))
        _scatter(_item(g, KIND), strip + 4 * (i - first), at, 1, 0)


@kernel("void(i8, i8, i8, i8, i8, i8, i8, i8, i8, i8, i8, i8, i8, i8)", way()[0])
def decode_rows(
    rows: int,
    pitch: int,
    n: int,
    size: int,
    end: int,
    g: int,
    blocks: int,
    total: int,
    channel: int,
    tile: int,
    down: int,
    scales: int,
    out: int,
    scratch: int,
) -> None:
    """n rows, `pitch` bytes from one to the next, of blocks of `size` bytes, to features; all arrays by address.

    end: the address behind the last byte of any row; nothing is read from there on. g: NUMBERS numbers. blocks: the
    `total` numbers of a row's blocks in the order in which they are to be decoded: whole rows of the map's, then the
    run's. channel: for each place in the stored order where the channel begins in the destination. tile, down: for each
    line of a mosaic the number of its first tile, or -1, and where the line begins in its channel; all in bytes.
    scales: SCALES. scratch: `scratch_bytes(BX)` bytes.
    """
    strip = scratch + _STRIP
    for sample in range(n):
        row, base = rows + sample * pitch, out + sample * _item(g, SAMPLE)
        # The row of blocks at hand: how many blocks it has, its lines' bytes in the strip, its place in the mosaics.
        width, line_bytes, straight = _item(g, BX), 16 * _item(g, BX), _item(g, STRAIGHT)
        x, y, z = 0, 0, 0
        for start in range(0, total, _GROUP):
            count = min(_GROUP, total - start)
            for i in range(0, count, 2):
                block = row + _item(blocks, start + i) * size
                # An odd block out is read beside itself, and what that gives is not looked at.
                beside = row + _item(blocks, start + min(i + 1, count - 1)) * size
                planes = scratch + _INFO + i * _PLANES
                _read_pair(block, beside, size, end, scratch + 24 * i, planes, scratch + _SPARE)
            for i in range(count):
                info = scratch + 24 * i
                if load64(info + 16):
                    join_planes(scratch + _INFO + _PLANES * i, load64(info + 8), load64(info + 16))
            for i in range(count):
                run = start + i - _item(g, MAP_BLOCKS)
                if run >= 0:
                    width, line_bytes, straight = 1, 16, 0
                if straight:
                    at = base + 4 * y * _item(g, ROW) + 16 * x
                    line0, line1 = at + _item(channel, 4 * z), at + _item(channel, 4 * z + 1)
                    line2, line3 = at + _item(channel, 4 * z + 2), at + _item(channel, 4 * z + 3)
                    to_row = _item(g, ROW)
                else:
                    line0 = strip + 16 * x
                    line1, line2, line3 = line0 + 4 * line_bytes, line0 + 8 * line_bytes, line0 + 12 * line_bytes
                    to_row = line_bytes
                _put(scratch, i, scales, line0, line1, line2, line3, to_row)
                x += 1
                if x < width:
                    continue
                x = 0
                if run >= 0:
                    _empty_run(g, channel, strip, 64 * run, base)
                    continue
                if not straight:
                    _empty_strip(g, channel, tile, down, strip, z, y, base + _item(g, MAP_START))
                if _item(g, ROWS_FIRST):
                    z += 1
                    if z == _item(g, BZ):
                        z = 0
                        y += 1
                else:
                    y += 1
                    if y == _item(g, BY):
                        y = 0
                        z += 1
