"""The kernel under filter.py. Imported only where numba works."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from fmshards import jit
from fmshards.codec.int_vectors import pointer

_ITEMS = 2048  # items at a time: what they become stays in the cache while their bytes are put in


@jit.kernel("void(i8, i8, i8, u1[::1])")
def join(planes: Any, size: Any, count: Any, out: Any) -> None:
    """`count` items of `size` bytes into out: the planes of their first, second ... bytes lie at address `planes`."""
    source = carray(pointer(planes), (size * count,), np.uint8)
    for start in range(0, count, _ITEMS):
        stop = min(start + _ITEMS, count)
        for k in range(size):
            for i in range(start, stop):
                out[i * size + k] = source[k * count + i]
