"""Lines of float32 copied to where they belong, as float32, float16 or bfloat16: 8, 4 or 1 values at a time."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fmshards.codec.zfp.cpu.emitter import FLOAT, I16, I32, Emitter, Vector, same
from fmshards.kernels.machine import half_precision


def _as_half(e: Emitter, values: Vector) -> Vector:
    n = values.type.count
    return e.cast(e.b.fptrunc(values, ir.VectorType(ir.HalfType(), n)), I16, n)


def _as_bfloat16(e: Emitter, values: Vector) -> Vector:
    """The upper half, rounded to nearest, ties to even. No value is a NaN here."""
    n = values.type.count
    b, bits = e.b, e.cast(values, I32, n)
    upper = same(I32, n, 16)
    odd = b.and_(b.lshr(bits, upper), same(I32, n, 1))
    rounded = b.add(b.add(bits, odd), same(I32, n, 0x7FFF))
    return b.trunc(b.lshr(rounded, upper), ir.VectorType(I16, n))


def _copier(n: int, convert: Any) -> Any:
    """An intrinsic (source, destination): n float32 from an address to an address, converted."""

    def copy(typing: Any, source: Any, destination: Any) -> Any:
        def build(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
            e = Emitter(builder)
            values = e.load(arguments[0], 0, FLOAT, n)
            e.store(values if convert is None else convert(e, values), arguments[1])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), build

    return intrinsic(copy)


copy_8, copy_4, copy_1 = (_copier(n, None) for n in (8, 4, 1))
bfloat16_8, bfloat16_4, bfloat16_1 = (_copier(n, _as_bfloat16) for n in (8, 4, 1))
# Where there is no instruction for it the engine is not asked for float16; the names must compile all the same.
_half = _as_half if half_precision() else _as_bfloat16
half_8, half_4, half_1 = (_copier(n, _half) for n in (8, 4, 1))
