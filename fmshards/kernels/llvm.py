"""LLVM vectors through an llvmlite builder: what the emitting modules of all rooms share. Only where numba works.

Addresses are plain integers: whoever calls answers for the memory behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fmshards.kernels import jit

I32 = ir.IntType(32)


def _pointer(typing: Any, address: Any) -> Any:
    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), make


pointer: Callable[[int], Any] = intrinsic(_pointer)
"""An address as a pointer, for numba's `carray`."""


@jit.inner
def address(array: Any) -> Any:
    """Where an array's values begin, int64."""
    return np.int64(array.ctypes.data)


def load(builder: Any, address: Any, kind: Any) -> Any:
    """A value of a kind, a scalar or a vector, at any address."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def store(builder: Any, value: Any, address: Any) -> None:
    """A value, a scalar or a vector, to any address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def shuffle(builder: Any, first: Any, second: Any, places: Sequence[int]) -> Any:
    """The items at `places` of two vectors laid end to end."""
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, len(places)), list(places)))


def spread(builder: Any, scalar: Any, n: int) -> Any:
    """n times one number."""
    one = builder.insert_element(ir.Constant(ir.VectorType(scalar.type, n), ir.Undefined), scalar, ir.Constant(I32, 0))
    return shuffle(builder, one, one, [0] * n)
