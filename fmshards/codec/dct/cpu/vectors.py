"""LLVM vectors for `dct`'s encoder: a block of 16 as two vectors of 8. Imported only where numba works.

Addresses are plain integers: whoever calls answers for the memory behind them. Multiplication and addition are never
fused, so that values and rows have the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fmshards.codec.dct.blocks import SCAN
from fmshards.kernels.llvm import load, shuffle, spread, store

_F, _I, _W = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_F4, _F8, _I8 = ir.VectorType(_F, 4), ir.VectorType(_F, 8), ir.VectorType(_I, 8)


@intrinsic
def forward(
    typing: Any, source: Any, stride: Any, down: Any, across: Any, offset: Any, factor: Any, target: Any
) -> Any:
    """4 rows of 4 floats, `stride` bytes apart, less `offset`, times `factor`, to 16 coefficients in scan order at
    `target`."""

    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        source, stride, down, across, offset, factor, target = args
        rows = []
        for _ in range(4):
            row = builder.fsub(load(builder, source, _F4), spread(builder, offset, 4))
            row = builder.fmul(row, spread(builder, factor, 4))
            rows.append(shuffle(builder, row, row, [0, 1, 2, 3] * 2))
            source = builder.add(source, stride)
        first, second = _transformed(builder, rows, down, across)
        store(builder, shuffle(builder, first, second, SCAN[:8]), target)
        store(builder, shuffle(builder, first, second, SCAN[8:]), builder.add(target, _W(32)))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4, types.float32, types.float32, types.int64), make


@intrinsic
def quantise(typing: Any, source: Any, inverse: Any, deadzone: Any, largest: Any, target: Any) -> Any:
    """16 floats to int32 magnitudes in steps at `target`; the bits of those that are not 0."""

    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        source, inverse, deadzone, largest, target = args
        scale, more, most = (spread(builder, each, 8) for each in (inverse, deadzone, largest))
        zeros = ir.Constant(_F8, [0.0] * 8)
        found = ir.Constant(_W, 0)
        for i in (0, 1):
            value = load(builder, builder.add(source, _W(32 * i)), _F8)
            size = builder.select(builder.fcmp_ordered("<", value, zeros), builder.fsub(zeros, value), value)
            size = builder.fadd(builder.fmul(size, scale), more)
            size = builder.select(builder.fcmp_ordered("<", size, most), size, most)
            whole = builder.fptosi(size, _I8)
            store(builder, whole, builder.add(target, _W(32 * i)))
            some = builder.icmp_signed("!=", whole, ir.Constant(_I8, [0] * 8))
            bits = builder.zext(builder.bitcast(some, ir.IntType(8)), _W)
            found = builder.or_(found, builder.shl(bits, _W(8 * i)))
        return found

    return types.int64(types.int64, types.float32, types.float32, types.float32, types.int64), make


@intrinsic
def negative(typing: Any, source: Any) -> Any:
    """The bits of 16 floats that are below 0."""

    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        found = ir.Constant(_W, 0)
        for i in (0, 1):
            value = load(builder, builder.add(args[0], _W(32 * i)), _F8)
            some = builder.fcmp_ordered("<", value, ir.Constant(_F8, [0.0] * 8))
            found = builder.or_(found, builder.shl(builder.zext(builder.bitcast(some, ir.IntType(8)), _W), _W(8 * i)))
        return found

    return types.int64(types.int64), make


@intrinsic
def largest(typing: Any, source: Any) -> Any:
    """The largest magnitude of 16 floats."""

    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        zeros = ir.Constant(_F8, [0.0] * 8)
        both = []
        for i in (0, 1):
            value = load(builder, builder.add(args[0], _W(32 * i)), _F8)
            both.append(builder.select(builder.fcmp_ordered("<", value, zeros), builder.fsub(zeros, value), value))
        most = _larger(builder, *both)
        for apart in (4, 2, 1):
            most = _larger(builder, most, shuffle(builder, most, most, [(i + apart) % 8 for i in range(8)]))
        return builder.extract_element(most, ir.Constant(_I, 0))

    return types.float32(types.int64), make


def _larger(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _transformed(builder: ir.IRBuilder, rows: Sequence[ir.Value], down: ir.Value, across: ir.Value) -> list[ir.Value]:
    """down * rows * across, [4, 4] each: rows 0 and 1, and rows 2 and 3. Sums of four, from the left.

    rows: each twice. down: at the address float32 [2, 4, 8], of rows 2 i and 2 i + 1 the four factors, each 4 times.
    across: float32 [4, 8], of each factor's column the row, twice.
    """
    columns = [load(builder, builder.add(across, _W(32 * k)), _F8) for k in range(4)]
    found = []
    for i in (0, 1):
        factors = [load(builder, builder.add(down, _W(128 * i + 32 * k)), _F8) for k in range(4)]
        once = _sum(builder, factors, rows)
        spreads = [shuffle(builder, once, once, [k] * 4 + [k + 4] * 4) for k in range(4)]
        found.append(_sum(builder, spreads, columns))
    return found


def _sum(builder: ir.IRBuilder, a: Sequence[ir.Value], b: Sequence[ir.Value]) -> ir.Value:
    total = builder.fmul(a[0], b[0])
    for k in range(1, 4):
        total = builder.fadd(total, builder.fmul(a[k], b[k]))
    return total
