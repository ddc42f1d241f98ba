"""A block of `zfp` decoded as FORMAT.md describes it, bit by bit: for the tests, to hold the text against zfpy."""

from __future__ import annotations

import numpy as np

from fmshards.codec.zfp.coefficients import ORDER


def decode_block(data: bytes) -> np.ndarray:
    """float32 [4, 4, 4] of one block's bytes."""
    size = 8 * len(data)
    bits = [data[i // 8] >> i % 8 & 1 for i in range(size)]
    if not bits[0]:
        return np.zeros((4, 4, 4), np.float32)
    exponent = sum(bits[1 + i] << i for i in range(8))
    at, n, coefficients = 9, 0, [0] * 64
    for plane in range(31, -1, -1):
        for i in range(min(n, size - at)):
            coefficients[i] |= bits[at] << plane
            at += 1
        while n < 64 and at < size:
            at += 1
            if not bits[at - 1]:
                break
            while n < 63 and at < size:
                at += 1
                if bits[at - 1]:
                    break
                n += 1
            coefficients[n] |= 1 << plane
            n += 1
    block = np.zeros(64, np.int32)
    for i, u in enumerate(coefficients):
        block[ORDER[i]] = np.uint32(((u ^ 0xAAAAAAAA) - 0xAAAAAAAA) % 2**32).astype(np.int32)
    block = block.reshape(4, 4, 4)
    for axis in (0, 1, 2):
        block = np.stack(_lifted(*np.moveaxis(block, axis, 0)), axis)
    scale = np.ldexp(np.float32(1), exponent - 157)
    with np.errstate(over="ignore"):
        return block.astype(np.float32) * scale


def _lifted(x, y, z, w):
    with np.errstate(over="ignore"):
        y = y + (w >> 1)
        w = w - (y >> 1)
        y = y + w
        w = (w << 1) - y
        z = z + x
        x = (x << 1) - z
        y = y + z
        z = (z << 1) - y
        w = w + x
        x = (x << 1) - w
    return x, y, z, w
