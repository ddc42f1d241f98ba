"""The kernel under members.py. Imported only where numba works."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from fmshards.kernels import jit
from fmshards.kernels.llvm import pointer

_ITEMS = 2048  # items at a time: what they become stays in the cache while their bytes are put in


@jit.kernel("void(i8, i8, i8, u1[::1])")
def join(planes: Any, size: Any, count: Any, out: Any) -> None:
    """`count` items of `size` bytes into out: the planes of their first, second ... bytes lie at address `planes`.

    Where items are whole words, words are put together and stored: several times as fast as byte by byte.
    """
    source = carray(pointer(planes), (size, count), np.uint8)
    halves, words = size >> 1, size >> 3
    out2, out8 = out[: len(out) & ~1].view(np.uint16), out[: len(out) & ~7].view(np.uint64)
    for start in range(0, count, _ITEMS):
        stop = min(start + _ITEMS, count)
        if size & 7 == 0:
            for k in range(words):
                for i in range(start, stop):
                    low, high = np.uint32(0), np.uint32(0)
                    for j in range(4):
                        low |= np.uint32(source[8 * k + j, i]) << np.uint32(8 * j)
                        high |= np.uint32(source[8 * k + 4 + j, i]) << np.uint32(8 * j)
                    out8[i * words + k] = np.uint64(low) | (np.uint64(high) << np.uint64(32))
        elif size == 2:
            for i in range(start, stop):
                out2[i] = np.uint16(source[0, i]) | np.uint16(np.uint16(source[1, i]) << np.uint16(8))
        elif size & 1 == 0:
            for k in range(halves):
                for i in range(start, stop):
                    out2[i * halves + k] = np.uint16(source[2 * k, i]) | np.uint16(
                        np.uint16(source[2 * k + 1, i]) << np.uint16(8)
                    )
        elif size == 3:
            for i in range(start, stop):
                out[3 * i] = source[0, i]
                out[3 * i + 1] = source[1, i]
                out[3 * i + 2] = source[2, i]
        else:
            for k in range(size):
                for i in range(start, stop):
                    out[i * size + k] = source[k, i]
