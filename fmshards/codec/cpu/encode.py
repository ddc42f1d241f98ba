"""Features to rows: block by block.

After zfp 1.0, src/template/encode.c and encodef.c: the values of a block are scaled by its largest magnitude to
integers, transformed, and their bit planes written from the highest, by the rules that planes.py reads, until the
block's bits are full.
"""

from __future__ import annotations

import numpy as np

from fmshards.codec.cpu.bits import count_trailing_zeros, load8, load32, load64, shr, store8, store64
from fmshards.codec.cpu.vectors import largest_magnitude, plane_bits, split_bytes, transform_block
from fmshards.jit import inner, kernel

# A float32 scale for each exponent: 2^(157 - e), which is infinite for e under 30: rows of such blocks are refused by
# the codec, so any finite number does.
SCALES = np.ldexp(np.float32(1), 157 - np.arange(256).clip(30)).astype(np.float32)

_VALUES, _COEFFICIENTS, _BYTES, _STREAM = 0, 256, 512, 768  # offsets in the scratch memory
SCRATCH = 768 + 256 + 40  # a block's bits at most, and those of the last plane that go beyond
_HEADER = 9


@inner
def _append(stream: int, at: int, bits: int) -> None:
    """Up to 57 bits into a stream that is zeros from bit `at` on."""
    where = stream + (at >> 3)
    store64(where, load64(where) | bits << (at & 7))


@inner
def _write_plane(stream: int, at: int, x: int, n: int) -> tuple[int, int]:
    """One bit plane x, n coefficients being known not to be zero: the bit behind it, and the new n."""
    if n == 64:
        known = x
    else:
        known = x & ((1 << n) - 1)
    _append(stream, at, known & 0xFFFFFFFF)
    _append(stream, at + 32, shr(known, 32))
    at += n
    if n == 64:
        return at, n
    x = shr(x, n)
    while x:
        zeros = count_trailing_zeros(x)
        _append(stream, at, 1)
        at += 1 + zeros
        n += zeros + 1
        if n == 64:  # the last coefficient's 1 is implied, and so is the end
            return at, n
        _append(stream, at, 1)
        at += 1
        x = shr(shr(x, zeros), 1)
    return at + 1, n


@inner
def _write_block(
    scales: int, scratch: int, line0: int, line1: int, line2: int, line3: int, pitch: int, size: int, out: int
) -> None:
    """64 values at 4 x 4 lines to `size` bytes at `out`."""
    stream, bits = scratch + _STREAM, 8 * size
    for offset in range(0, size + 24, 8):
        store64(stream + offset, 0)
    largest = largest_magnitude(line0, line1, line2, line3, pitch)
    if largest:
        exponent = shr(largest, 23) + 1
        store64(stream, 1 | exponent << 1)
        coefficients, parts = scratch + _COEFFICIENTS, scratch + _BYTES
        transform_block(scales + 4 * exponent, line0, line1, line2, line3, pitch, coefficients)
        at, n, plane = _HEADER, 0, 32
        while plane and at < bits:
            if not plane & 15:
                split_bytes(coefficients, plane - 16, parts)
            plane -= 1
            x = plane_bits(parts + 64 * (1 - (plane >> 3 & 1)), plane & 7)
            at, n = _write_plane(stream, at, x, n)
    for offset in range(0, size & ~7, 8):
        store64(out + offset, load64(stream + offset))
    for offset in range(size & ~7, size):
        store8(out + offset, load8(stream + offset))


@kernel("void(i8, i8, i8, i8, i8[::1], i4[::1], f4[::1], i8, i8)")
def encode_rows(
    x: int, values: int, n: int, size: int, plain: np.ndarray, index: np.ndarray, scales: np.ndarray, out: int, scratch: int
) -> None:
    """n features of `values` float32, one after another from the address x, to rows of blocks of `size` bytes.

    plain: (z, y, x), the blocks of features that can be read as they lie, or zeros. index: otherwise, for each place of
    the blocks, the value there, counted in the feature, -1 for 0; of length 0 where `plain` says it. scales: SCALES.
    scratch: address of SCRATCH bytes.
    """
    table = scales.ctypes.data
    bz, by, bx = plain
    local = scratch + _VALUES
    for sample in range(n):
        base = x + 4 * values * sample
        if index.size:
            for block in range(index.size // 64):
                for k in range(0, 64, 2):
                    low, high = index[64 * block + k], index[64 * block + k + 1]
                    a = load32(base + 4 * low) if low >= 0 else 0
                    b = load32(base + 4 * high) if high >= 0 else 0
                    store64(local + 4 * k, a | b << 32)
                _write_block(table, scratch, local, local + 64, local + 128, local + 192, 16, size, out)
                out += size
            continue
        for block in range(bz * by * bx):
            line = block // bx
            z = line // by
            plane = 64 * by * bx
            at = base + 4 * z * plane + 64 * (line - z * by) * bx + 16 * (block - line * bx)
            _write_block(table, scratch, at, at + plane, at + 2 * plane, at + 3 * plane, 16 * bx, size, out)
            out += size
