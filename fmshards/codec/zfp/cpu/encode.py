"""Features to rows: block by block.

After zfp 1.0, src/template/encode.c and encodef.c: the values of a block are scaled by its largest magnitude to
integers, transformed, and their bit planes written from the highest, by the rules that planes.py reads, until the
block's bits are full.
"""

from __future__ import annotations

import numpy as np

from fmshards.codec.zfp.cpu.vectors import largest_magnitude, plane_bits, split_bytes, transform_block
from fmshards.kernels.bits import (
    count_leading_zeros,
    count_trailing_zeros,
    deposit_bits,
    extract_bits,
    load8,
    load32,
    load64,
    popcount,
    shr,
    store8,
    store64,
)
from fmshards.kernels.jit import inner, kernel
from fmshards.kernels.machine import way

# A float32 scale for each exponent: 2^(157 - e), which is infinite for e under 30: the codec stores zeros in place of
# such blocks, so any finite number does.
SCALES = np.ldexp(np.float32(1), 157 - np.arange(256).clip(30)).astype(np.float32)

_VALUES, _COEFFICIENTS, _BYTES, _STREAM = 0, 256, 512, 768  # offsets in the scratch memory
SCRATCH = 768 + 256 + 40  # a block's bits at most, and those of the last plane that go beyond
_EVEN, _ODD = 0x5555555555555555, 0xAAAAAAAAAAAAAAAA - (1 << 64)


@inner
def _append(stream: int, at: int, open_: int, bits: int, count: int) -> tuple[int, int]:
    """Up to 56 bits to bit `at` of a stream, of whose last byte `open_` is what is written so far; both anew.

    Whole words go over what comes next, so that nothing just written is read again.
    """
    where = at >> 3
    word = open_ | bits << (at & 7)
    store64(stream + where, word)
    at += count
    return at, shr(word, 8 * ((at >> 3) - where))


@inner
def _append_tests_any(stream: int, at: int, open_: int, x: int, length: int) -> tuple[int, int]:
    """Group tests for coefficients x up to its last 1, `length` of them: before each run of zeros a 1, then the run."""
    while length:
        zeros = count_trailing_zeros(x)
        length -= zeros + 1
        at, open_ = _append(stream, at, open_, 1, 1)
        if zeros > 32:
            at, open_ = _append(stream, at, open_, 0, 32)
            zeros -= 32
            x = shr(x, 32)
        at, open_ = _append(stream, at, open_, 1 << zeros, zeros + 1)
        x = shr(shr(x, zeros), 1)
    return at, open_


@inner
def _append_tests_bmi2(stream: int, at: int, open_: int, x: int, length: int) -> tuple[int, int]:
    """As `_append_tests_any`: coefficients in the odd places, tests in the even, then those places left out (PEXT)
    where no test is: it comes before the first coefficient and after each 1."""
    starts = x << 1 | 1
    while length > 0:
        some = min(length, 28)
        within = (1 << some) - 1
        tests = deposit_bits(starts & within, _EVEN)
        kept = tests | deposit_bits(within, _ODD)
        at, open_ = _append(
            stream, at, open_, extract_bits(tests | deposit_bits(x & within, _ODD), kept), popcount(kept)
        )
        x, starts = shr(x, some), shr(starts, some)
        length -= some
    return at, open_


_append_tests = _append_tests_bmi2 if way()[0] == "bmi2" else _append_tests_any


@inner
def _write_plane(stream: int, at: int, open_: int, x: int, n: int) -> tuple[int, int, int]:
    """One bit plane x, n coefficients being known not to be zero. The place behind it, as `_append`, and the new n."""
    known = x if n == 64 else x & ((1 << n) - 1)
    if n > 32:
        at, open_ = _append(stream, at, open_, known & 0xFFFFFFFF, 32)
        at, open_ = _append(stream, at, open_, shr(known, 32), n - 32)
    else:
        at, open_ = _append(stream, at, open_, known, n)
    if n == 64:
        return at, open_, n
    x = shr(x, n)
    length = 64 - count_leading_zeros(x)
    n += length
    at, open_ = _append_tests(stream, at, open_, x, length)
    if n == 64:
        # The last coefficient's 1 is implied, and so is the end: take the 1 back.
        at -= 1
        open_ = load8(stream + (at >> 3)) & ((1 << (at & 7)) - 1)
    else:
        at, open_ = _append(stream, at, open_, 0, 1)
    return at, open_, n


@inner
def _write_block(
    scales: int, scratch: int, line0: int, line1: int, line2: int, line3: int, pitch: int, size: int, out: int
) -> None:
    """64 values at 4 x 4 lines to `size` bytes at `out`."""
    stream, bits = scratch + _STREAM, 8 * size
    for offset in range(0, size + 8, 8):
        store64(stream + offset, 0)
    largest = largest_magnitude(line0, line1, line2, line3, pitch)
    if largest:
        exponent = shr(largest, 23) + 1
        at, open_ = _append(stream, 0, 0, 1 | exponent << 1, 9)
        coefficients, parts = scratch + _COEFFICIENTS, scratch + _BYTES
        transform_block(scales + 4 * exponent, line0, line1, line2, line3, pitch, coefficients)
        n, plane = 0, 32
        while plane and at < bits:
            if not plane & 15:
                split_bytes(coefficients, plane - 16, parts)
            plane -= 1
            x = plane_bits(parts + 64 * (1 - (plane >> 3 & 1)), plane & 7)
            at, open_, n = _write_plane(stream, at, open_, x, n)
        # What is behind the last bit written, and the block's end, are zeros.
        for offset in range((at >> 3) + 8, size, 8):
            store64(stream + offset, 0)
    for offset in range(0, size & ~7, 8):
        store64(out + offset, load64(stream + offset))
    for offset in range(size & ~7, size):
        store8(out + offset, load8(stream + offset))


@kernel("void(i8, i8, i8, i8, i8[::1], i4[::1], f4[::1], i8, i8)", way()[0])
def encode_rows(
    x: int,
    values: int,
    n: int,
    size: int,
    plain: np.ndarray,
    index: np.ndarray,
    scales: np.ndarray,
    out: int,
    scratch: int,
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
