"""One lane a ZFP block: from its bits to planes, and from planes to bytes of coefficients.

After zfp 1.0, src/template/decode.c `decode_few_ints`. A plane is the bits of the n coefficients known to have one
already, then groups: a 0 ends the plane, a 1 is followed by a run of zeros and a one, at the next coefficient that has
a bit in this plane. If the bits run out inside such a run the one is where the run stands; that of the last
coefficient is not written.

There is no instruction in Triton that finds the lowest set bit, but compilers know a population count by its shape.
All positions are bits from the block's start; what lies beyond its end reads as zeros and is never touched.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def word(data, index, live, WORDS: tl.constexpr, WORD: tl.constexpr):
    """uint32: the index-th 4 bytes of each lane's block of WORDS words of WORD (1, 2 or 4) bytes at `data`."""
    if WORD == 4:
        value = tl.load(data + index, mask=live & (index < WORDS), other=0)
    else:
        value = tl.zeros_like(index).to(tl.uint32)
        for part in tl.static_range(4 // WORD):
            at = index * (4 // WORD) + part
            value |= tl.load(data + at, mask=live & (at < WORDS), other=0).to(tl.uint32) << (8 * WORD * part)
    return value


@triton.jit
def window(data, position, live, WORDS: tl.constexpr, WORD: tl.constexpr):
    """Two uint32: the 64 bits from `position` on, low ones first."""
    index = position >> 5
    shift = (position & 31).to(tl.uint32)
    a = word(data, index, live, WORDS, WORD)
    b = word(data, index + 1, live, WORDS, WORD)
    c = word(data, index + 2, live, WORDS, WORD)
    # A shift by 32 is undefined: hence one by 1, then one by 31 at most.
    return (a >> shift) | ((b << 1) << (31 - shift)), (b >> shift) | ((c << 1) << (31 - shift))


@triton.jit
def lowest(count):
    """uint32: a mask of the lowest `count` bits; none below 0, all from 32 on."""
    inside = tl.minimum(tl.maximum(count, 0), 31).to(tl.uint32)
    return tl.where(count > 31, 0xFFFFFFFF, (1 << inside) - 1).to(tl.uint32)


@triton.jit
def trailing_zeros(x):
    """int32: how many zeros lie below the lowest one of a uint32; 32 for 0."""
    y = (x - 1) & (x ^ 0xFFFFFFFF)
    y = y - ((y >> 1) & 0x55555555)
    y = (y & 0x33333333) + ((y >> 2) & 0x33333333)
    y = (y + (y >> 4)) & 0x0F0F0F0F
    return ((y * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def plane(data, position, n, live, BITS: tl.constexpr, WORDS: tl.constexpr, WORD: tl.constexpr):
    """The next plane of every lane that has bits left: (low, high, position, n).

    low, high: uint32, the plane's bits of coefficients 0 to 31 and 32 to 63. n: how many coefficients, in order, may
    have had a one so far.
    """
    low = tl.zeros_like(n).to(tl.uint32)
    high = low
    if tl.min(position, 0) < BITS:
        low, high = window(data, position, live, WORDS, WORD)
        known = tl.minimum(n, BITS - position)
        low &= lowest(known)
        high &= lowest(known - 32)
        position += known
        reading = ((position < BITS) & (n < 64)).to(tl.int32)
        while tl.max(reading, 0) > 0:
            a, b = window(data, position, live, WORDS, WORD)
            left = tl.zeros_like(n) + 64
            # Two groups a window, where its bits are enough for the second.
            for _ in tl.static_range(2):
                is_group = (a & 1) == 1
                # How many bits may follow the first, and how many of them are zeros.
                limit = tl.minimum(BITS - 1 - position, 63 - n)
                a1 = (a >> 1) | (b << 31)
                b1 = b >> 1
                low_zeros = trailing_zeros(a1)
                zeros = tl.where(a1 == 0, 32 + trailing_zeros(b1), low_zeros)
                sure = (limit < left) | ((a1 | b1) != 0)
                at = n + tl.minimum(zeros, limit)
                used = tl.where(is_group, tl.minimum(zeros + 1, limit), 0)
                step = (reading == 1) & sure
                one = tl.where(step & is_group, 1, 0).to(tl.uint32) << (at & 31).to(tl.uint32)
                low |= tl.where(at < 32, one, 0).to(tl.uint32)
                high |= tl.where(at < 32, 0, one).to(tl.uint32)
                n = tl.where(step & is_group, at + 1, n)
                position += tl.where(step, 1 + used, 0)
                reading = tl.where(step & ((position >= BITS) | (n >= 64) | (is_group == 0)), 0, reading)
                left -= 1 + used
                # The window moves on by 1 + used bits.
                shift = (used & 31).to(tl.uint32)
                far = used > 31
                a = tl.where(far, b1 >> shift, (a1 >> shift) | ((b1 << 1) << (31 - shift)))
                b = tl.where(far, 0, b1 >> shift).to(tl.uint32)
    return low, high, position, n


@triton.jit
def _swap(p, q, SHIFT: tl.constexpr, MASK: tl.constexpr):
    change = ((p >> SHIFT) ^ q) & MASK
    return p ^ (change << SHIFT), q ^ change


@triton.jit
def transpose(p0, p1, p2, p3, p4, p5, p6, p7):
    """Eight uint32, p0 the highest plane: byte b of the j-th result has the bits of coefficient 8 b + j."""
    p7, p3 = _swap(p7, p3, 4, 0x0F0F0F0F)
    p6, p2 = _swap(p6, p2, 4, 0x0F0F0F0F)
    p5, p1 = _swap(p5, p1, 4, 0x0F0F0F0F)
    p4, p0 = _swap(p4, p0, 4, 0x0F0F0F0F)
    p7, p5 = _swap(p7, p5, 2, 0x33333333)
    p6, p4 = _swap(p6, p4, 2, 0x33333333)
    p3, p1 = _swap(p3, p1, 2, 0x33333333)
    p2, p0 = _swap(p2, p0, 2, 0x33333333)
    p7, p6 = _swap(p7, p6, 1, 0x55555555)
    p5, p4 = _swap(p5, p4, 1, 0x55555555)
    p3, p2 = _swap(p3, p2, 1, 0x55555555)
    p1, p0 = _swap(p1, p0, 1, 0x55555555)
    return p7, p6, p5, p4, p3, p2, p1, p0


@triton.jit
def inverse_lift(x, y, z, w):
    """zfp's inverse transform of four int32 (decode.c, `inv_lift`); everything wraps."""
    y += w >> 1
    w -= y >> 1
    y += w
    w = (w << 1) - y
    z += x
    x = (x << 1) - z
    y += z
    z = (z << 1) - y
    w += x
    x = (x << 1) - w
    return x, y, z, w


@triton.jit
def scale_of(exponent):
    """float32 2^(exponent - 157) for the 8 bits of a block's exponent: denormal below 31, zero below 8."""
    small = 1 << tl.minimum(tl.maximum(exponent - 8, 0), 22)
    bits = tl.where(exponent > 30, (exponent - 30) << 23, tl.where(exponent > 7, small, 0))
    return bits.to(tl.float32, bitcast=True)
