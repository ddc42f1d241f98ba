"""The kernel under crc.py. Imported only where numba works and the CPU has PCLMULQDQ."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fmshards.kernels import jit
from fmshards.kernels.llvm import load, store

_I8, _I64 = ir.IntType(8), ir.IntType(64)
_PAIR = ir.VectorType(_I64, 2)
_LANES = 4  # of 16 bytes each: multiplications overlap
_CONSTANTS = (0x154442BD4, 0x1C6E41596)
"""x to the power 512 + 32 and 512 - 32 modulo the CRC's polynomial, bits reversed: k1 and k2 of the paper."""


@intrinsic
def _fold(typing: Any, data: Any, blocks: Any, state: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data, blocks, state = arguments
        kind = ir.FunctionType(_PAIR, [_PAIR, _PAIR, _I8])
        multiply = builder.module.declare_intrinsic("llvm.x86.pclmulqdq", fnty=kind)
        constants = ir.Constant(_PAIR, list(_CONSTANTS))
        low, high = ir.Constant(_I8, 0x00), ir.Constant(_I8, 0x11)

        def at(start: Any, lane: int) -> Any:
            return builder.add(start, ir.Constant(_I64, 16 * lane))

        lanes = [cgutils.alloca_once_value(builder, load(builder, at(state, i), _PAIR)) for i in range(_LANES)]
        with cgutils.for_range(builder, blocks) as loop:
            block = builder.add(data, builder.mul(loop.index, ir.Constant(_I64, 16 * _LANES)))
            for i, lane in enumerate(lanes):
                value = builder.load(lane)
                parts = [builder.call(multiply, [value, constants, which]) for which in (low, high)]
                builder.store(builder.xor(builder.xor(*parts), load(builder, at(block, i), _PAIR)), lane)
        for i, lane in enumerate(lanes):
            store(builder, builder.load(lane), at(state, i))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), build


@jit.kernel("void(i8, i8, i8)")
def fold(data: Any, blocks: Any, state: Any) -> None:
    """Fold `blocks` blocks of 64 bytes at address `data` into the 64 bytes at address `state`."""
    _fold(data, blocks, state)
