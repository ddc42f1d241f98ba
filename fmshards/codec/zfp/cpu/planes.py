"""The bit stream of one block, to bit planes.

After zfp 1.0, src/template/decode.c `decode_many_ints`: plane by plane from the highest. First n bits as they are, for
the coefficients known not to be zero; then group tests: a 1 says that more of the plane's coefficients are 1, the zeros
up to the next of these follow, and its 1, which is left out for the last coefficient; a 0 ends the plane. If the bits
run out inside a run of zeros, a 1 is set at the place reached.

Reads at most 24 bytes behind a block's end; nothing read there changes what is decoded.
"""

from __future__ import annotations

from fmshards.kernels.bits import (
    count_trailing_zeros,
    deposit_bits,
    extract_bits,
    less_unsigned,
    load64,
    popcount,
    prefix_xor,
    shr,
    store64,
)
from fmshards.kernels.jit import inner
from fmshards.kernels.machine import way

PLANES = 32
_HEADER = 9  # bits: a flag, and 8 of exponent
_SURE = 57  # bits that a load at any bit gives


@inner
def _window(data: int, at: int) -> int:
    """At least 57 bits of the stream from bit `at`; above them zeros."""
    return shr(load64(data + (at >> 3)), at & 7)


@inner
def _word(data: int, at: int) -> int:
    """64 bits of the stream from bit `at`."""
    where = data + (at >> 3)
    return shr(load64(where), at & 7) | ((load64(where + 8) << 1) << (63 - (at & 7)))


@inner
def _mask(count: int) -> int:
    """`count` ones, 0 to 63."""
    return (1 << count) - 1


@inner
def leading_zero_planes(data: int, end: int) -> int:
    """How many whole planes of a block are zero before the first that is not; PLANES or more: all of them."""
    zeros = count_trailing_zeros(_window(data, _HEADER))
    return zeros if zeros < PLANES and _HEADER + zeros < end else PLANES


@inner
def _group_tests(data: int, at: int, end: int, n: int) -> tuple[int, int, int]:
    """Group tests from bit `at`, one after another: the plane's bits that they set, the new n, the bit behind them."""
    bits = 0
    while n < 64 and at < end:
        at += 1
        if not _window(data, at - 1) & 1:
            break
        run = min(63 - n, end - at)
        while run > 0:
            zeros = min(count_trailing_zeros(_window(data, at) | (1 << (_SURE - 1))), run)
            n += zeros
            at += zeros
            run -= zeros
            if run and zeros < _SURE - 1:
                at += 1
                break
        bits |= 1 << n
        n += 1
    return bits, n, at


@inner
def _rest_of_planes_any(data: int, end: int, first: int, out: int, at: int, n: int, count: int) -> int:
    """The planes of the block at `data` from bit `at` on; how many the block has.

    end: the block's bits. first: the planes left out at the top. out: address of 32 words for the planes, the highest
    first. n: the coefficients known not to be zero. count: the planes that are there. Any CPU: one token after another.
    """
    while count < PLANES - first and at < end:
        known = min(n, end - at)
        bits = _word(data, at)
        if known < 64:
            bits &= _mask(known)
        at += known
        more, n, at = _group_tests(data, at, end, n)
        store64(out + 8 * count, bits | more)
        count += 1
    return count


@inner
def _resolve(v: int, n: int) -> tuple[int, int, int, int]:
    """All group tests of a plane, which begin v, at once and without a branch.

    The plane's bits that they set; the new n; how many bits they took before the 0 that ends them, or before where the
    last coefficient's 1 would be; whether it was the latter: 1 or 0.

    Among the ones of v every other is a test that succeeded, the others are coefficients: the running parity tells
    both apart, and a 0 at even parity is the end. With the tests taken out (PEXT) the coefficients are left.
    """
    parity = prefix_xor(v)
    coefficient = ~(v & parity)
    stop = ~(v | parity)
    before_stop = (stop & -stop) - 1
    before_last = deposit_bits(1 << (63 - n), coefficient) - 1
    last = less_unsigned(before_last, before_stop)
    before = before_stop & before_last
    bits = extract_bits(v & before, coefficient) << n | last << 63
    return bits, n + popcount(coefficient & before) + last, popcount(before), last


@inner
def _resolve_inner(v: int, n: int) -> tuple[int, int, int]:
    """As `_resolve`, in fewer steps, for planes in which the last coefficient stays 0: where the new n is under 64."""
    parity = prefix_xor(v)
    coefficient = ~(v & parity)
    stop = ~(v | parity)
    before = (stop & -stop) - 1
    return extract_bits(v & before, coefficient) << n, n + popcount(coefficient & before), popcount(before)


@inner
def _rest_of_planes_bmi2(data: int, end: int, first: int, out: int, at: int, n: int, count: int) -> int:
    """As `_rest_of_planes_any`, for CPUs with BMI2 and PCLMULQDQ: a plane at a time."""
    most = PLANES - first
    while n < 64 and at < end and count < most:
        bits, new, length, last = _resolve(_window(data, at + n), n)
        behind = at + n + length + 1 - last
        if behind > end or length >= _SURE:
            known = min(n, end - at)
            left = end - at - known
            if left < _SURE - 1:
                # The last plane. A run of zeros that is not over ends with a 1, as if it came behind the block's end.
                v = _window(data, at + known) & _mask(left)
                bits, new, _, _ = _resolve(v | (popcount(v) & 1) << left, n)
                store64(out + 8 * count, _word(data, at) & _mask(known) | bits)
                return count + 1
            bits, new, behind = _group_tests(data, at + n, end, n)
        store64(out + 8 * count, _word(data, at) & _mask(n) | bits)
        n, at = new, behind
        count += 1
    while count < most and at < end:
        bits = _word(data, at)
        if end - at < 64:
            bits &= _mask(end - at)
        store64(out + 8 * count, bits)
        at += 64
        count += 1
    return count


_BMI2 = way()[0] == "bmi2"
_rest_of_planes = _rest_of_planes_bmi2 if _BMI2 else _rest_of_planes_any


@inner
def read_planes(data0: int, data1: int, end: int, first0: int, first1: int, out0: int, out1: int) -> tuple[int, int]:
    """Bit planes of two blocks of `end` bits, from planes `first0` and `first1` on; how many each has.

    out0, out1: addresses of 32 words; the planes are put there, the highest first. Side by side, for each plane waits
    for the one before it, but not for the other block's.
    """
    at0, at1, n0, n1, count = _HEADER + first0, _HEADER + first1, 0, 0, 0
    if _BMI2:
        most = PLANES - max(first0, first1)
        while max(n0, n1) < _SURE and count < most:
            bits0, new0, length0 = _resolve_inner(_window(data0, at0 + n0), n0)
            bits1, new1, length1 = _resolve_inner(_window(data1, at1 + n1), n1)
            behind0, behind1 = at0 + n0 + length0 + 1, at1 + n1 + length1 + 1
            if max(behind0, behind1) > end or max(length0, length1) >= _SURE or max(new0, new1) >= 64:
                break
            store64(out0 + 8 * count, _window(data0, at0) & _mask(n0) | bits0)
            store64(out1 + 8 * count, _window(data1, at1) & _mask(n1) | bits1)
            n0, at0, n1, at1 = new0, behind0, new1, behind1
            count += 1
    data, first, out, at, n, done = data0, first0, out0, at0, n0, 0
    for _ in range(2):  # one call for both blocks, which is compiled once
        found = _rest_of_planes(data, end, first, out, at, n, count)
        if out == out0:
            done = found
        data, first, out, at, n = data1, first1, out1, at1, n1
    return done, found
