"""Single machine instructions on 64-bit integers and addresses, for use in kernels.

Everything is int64: numba turns int64 with uint64 into float64, and int64 wraps as well. `shr` is the logical shift.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_I8, _I64 = ir.IntType(8), ir.IntType(64)
_PAIR = ir.VectorType(_I64, 2)

Build = Callable[..., Any]


def _instruction(arguments: int, build: Build) -> Callable[..., int]:
    """An intrinsic of 1 or 2 int64 arguments; `build(builder, *arguments)` emits it."""

    def signature(*_: Any) -> Any:
        kind = types.int64(*[types.int64] * arguments)
        return kind, lambda context, builder, sig, args: build(builder, *args)

    shapes: dict[int, Any] = {1: lambda typing, a: signature(), 2: lambda typing, a, b: signature()}
    emitted: Callable[..., int] = intrinsic(shapes[arguments])
    return emitted


def _call(name: str, kinds: list[Any]) -> Build:
    """A call of an LLVM intrinsic int64 (int64, ...)."""

    def build(builder: Any, *values: Any) -> Any:
        function = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(_I64, kinds))
        return builder.call(function, values)

    return build


def _count_zeros(name: str) -> Build:
    def build(builder: Any, value: Any) -> Any:
        kinds = [_I64, ir.IntType(1)]
        function = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(_I64, kinds))
        return builder.call(function, [value, ir.Constant(ir.IntType(1), 0)])

    return build


def _prefix_xor(builder: Any, value: Any) -> Any:
    # Multiplying by all ones without carries gives in bit i the exclusive or of the bits 0 to i.
    kind = ir.FunctionType(_PAIR, [_PAIR, _PAIR, _I8])
    multiply = builder.module.declare_intrinsic("llvm.x86.pclmulqdq", fnty=kind)
    zero = ir.Constant(ir.IntType(32), 0)
    pair = builder.insert_element(ir.Constant(_PAIR, [0, 0]), value, zero)
    product = builder.call(multiply, [pair, ir.Constant(_PAIR, [-1, -1]), ir.Constant(_I8, 0)])
    return builder.extract_element(product, zero)


def _load(builder: Any, address: Any) -> Any:
    return builder.load(builder.inttoptr(address, _I64.as_pointer()), align=1)


def _store(builder: Any, address: Any, value: Any) -> Any:
    builder.store(value, builder.inttoptr(address, _I64.as_pointer()), align=1)
    return ir.Constant(_I64, 0)


def _load_part(kind: Any) -> Build:
    def build(builder: Any, address: Any) -> Any:
        return builder.zext(builder.load(builder.inttoptr(address, kind.as_pointer()), align=1), _I64)

    return build


def _store_byte(builder: Any, address: Any, value: Any) -> Any:
    builder.store(builder.trunc(value, _I8), builder.inttoptr(address, _I8.as_pointer()))
    return ir.Constant(_I64, 0)


load64 = _instruction(1, _load)
"""The 8 bytes at an address, little-endian."""
store64 = _instruction(2, _store)
"""Put 8 bytes at an address."""
load8 = _instruction(1, _load_part(_I8))
load32 = _instruction(1, _load_part(ir.IntType(32)))
store8 = _instruction(2, _store_byte)
shr = _instruction(2, lambda builder, value, count: builder.lshr(value, count))
"""Shift right, zeros in from the left; by 0 to 63."""
count_trailing_zeros = _instruction(1, _count_zeros("llvm.cttz.i64"))
count_leading_zeros = _instruction(1, _count_zeros("llvm.ctlz.i64"))
"""0 to 64."""
popcount = _instruction(1, _call("llvm.ctpop.i64", [_I64]))
prefix_xor = _instruction(1, _prefix_xor)
"""Bit i becomes the exclusive or of bits 0 to i (x86 with PCLMULQDQ)."""
extract_bits = _instruction(2, _call("llvm.x86.bmi.pext.64", [_I64, _I64]))
"""PEXT: the bits of the first argument where the second is set, side by side (x86 with BMI2)."""
deposit_bits = _instruction(2, _call("llvm.x86.bmi.pdep.64", [_I64, _I64]))
"""PDEP: the low bits of the first argument, spread to where the second is set (x86 with BMI2)."""
less_unsigned = _instruction(2, lambda builder, a, b: builder.zext(builder.icmp_unsigned("<", a, b), _I64))
"""1 where a < b as unsigned numbers, else 0."""
