"""What `dct`'s decoder has beyond numba: floats at addresses, and LLVM vectors that bring blocks back.

Imported only where numba works.

Addresses are plain integers: whoever calls answers for the memory behind them. Multiplication and addition are never
fused, so that values have the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fmshards.codec.dct.blocks import transforms
from fmshards.kernels.llvm import load, shuffle, spread, store

HEIGHTS = (4, 3, 2)
WIDTHS = ((4, 4), (4, 3), (3, 3), (4,), (3,), (2,))
"""Of blocks that are brought back at once."""

_B, _F, _W = ir.IntType(1), ir.FloatType(), ir.IntType(64)
_F2, _F4 = ir.VectorType(_F, 2), ir.VectorType(_F, 4)


@intrinsic
def get(typing: Any, address: Any) -> Any:
    """The float at an address."""

    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return load(builder, args[0], _F)

    return types.float32(types.int64), make


@intrinsic
def put(typing: Any, address: Any, value: Any) -> Any:
    """A float to an address."""

    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        store(builder, args[1], args[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), make


@intrinsic
def likely(typing: Any, value: Any) -> Any:
    """Whether a number is not 0, as it will be nearly always: what follows else stands apart."""

    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        kind = ir.FunctionType(_B, [_B, _B])
        expect = builder.module.declare_intrinsic("llvm.expect", [_B], kind)
        return builder.call(expect, [builder.icmp_unsigned("!=", args[0], _W(0)), _B(1)])

    return types.boolean(types.int64), make


AS_THEY_ARE = len(HEIGHTS) * len(WIDTHS)
"""Added to a way: blocks that were not transformed."""


def way(height: int, widths: Sequence[int]) -> int:
    """The number of a choice of HEIGHTS and WIDTHS, of blocks that were transformed."""
    return HEIGHTS.index(height) * len(WIDTHS) + WIDTHS.index(tuple(widths))


@intrinsic
def inverse(
    typing: Any, which: Any, source: Any, mean: Any, gain: Any, offset: Any, low: Any, target: Any, stride: Any
) -> Any:
    """Coefficients of one or two blocks, float32 [4, 4] each, by columns, to rows of values, `stride` bytes apart.

    which: see `way`. mean: instead of the first coefficient where it is 0, of blocks that were not transformed instead
    of every one. Values are multiplied by `gain`, `offset` is added, and what is then under `low` becomes 0. The
    coefficients are made 0.
    """

    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        after = builder.append_basic_block("after")
        chosen = builder.switch(args[0], after)
        for as_they_are in (0, AS_THEY_ARE):
            for height, widths in product(HEIGHTS, WIDTHS):
                block = builder.append_basic_block()
                chosen.add_case(args[0].type(as_they_are + way(height, widths)), block)
                builder.position_at_end(block)
                _brought_back(builder, height, widths, not as_they_are, *args[1:])
                builder.branch(after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    kinds = (types.int64, types.int64, *[types.float32] * 4)
    return types.void(*kinds, types.int64, types.int64), make


def _brought_back(
    builder: ir.IRBuilder,
    height: int,
    widths: Sequence[int],
    transformed: bool,
    source: ir.Value,
    mean: ir.Value,
    gain: ir.Value,
    offset: ir.Value,
    low: ir.Value,
    target: ir.Value,
    stride: ir.Value,
) -> None:
    lanes = 4 * len(widths)
    columns = [_columns(builder, builder.add(source, _W(64 * i)), mean, transformed) for i in range(len(widths))]
    if not transformed:
        down = _turned(builder, _joined(builder, columns))[:height]
    else:
        if len(set(widths)) == 1:
            across = _back(builder, _joined(builder, columns), widths[0])
        else:
            backs = [_back(builder, each, width) for each, width in zip(columns, widths, strict=True)]
            across = _joined(builder, backs)
        down = _back(builder, _turned(builder, across), height)
    gain, offset, low = (spread(builder, each, lanes) for each in (gain, offset, low))
    for row in down:
        values = builder.fadd(builder.fmul(row, gain), offset)
        zeros = ir.Constant(values.type, [0.0] * lanes)
        _put(builder, builder.select(builder.fcmp_ordered("<", values, low), zeros, values), widths, target)
        target = builder.add(target, stride)


def _columns(builder: ir.IRBuilder, source: ir.Value, mean: ir.Value, transformed: bool) -> list[ir.Value]:
    """The four columns of a block's coefficients, which become 0."""
    zeros = ir.Constant(_F4, [0.0] * 4)
    columns = [load(builder, builder.add(source, _W(16 * i)), _F4) for i in range(4)]
    mean = spread(builder, mean, 4)
    for i in range(1 if transformed else 4):
        none = builder.fcmp_ordered("==", columns[i], zeros)
        if transformed:
            none = builder.and_(none, ir.Constant(ir.VectorType(_B, 4), [1, 0, 0, 0]))
        columns[i] = builder.select(none, mean, columns[i])
    for i in range(4):
        store(builder, zeros, builder.add(source, _W(16 * i)))
    return columns


def _joined(builder: ir.IRBuilder, blocks: Sequence[Sequence[ir.Value]]) -> list[ir.Value]:
    """Vectors of one or two blocks, those of two end to end; where one has fewer, something stands in its place."""
    if len(blocks) == 1:
        return list(blocks[0])
    most = max(len(block) for block in blocks)
    filled = [[*block, *[block[-1]] * (most - len(block))] for block in blocks]
    return [shuffle(builder, a, b, range(8)) for a, b in zip(*filled, strict=True)]


def _back(builder: ir.IRBuilder, x: Sequence[ir.Value], size: int) -> list[ir.Value]:
    """`size` vectors of the four: (0 and 2) + (1 and 3), each times its factor. A cell and the one that mirrors it have
    the same even part, and opposite odd ones."""
    matrix = transforms()[size]
    found: list[ir.Value] = [None] * size

    def times(k: int, i: int) -> ir.Value | None:
        factor = float(matrix[k, i])
        return builder.fmul(x[k], ir.Constant(x[k].type, [factor] * x[k].type.count)) if factor else None

    for i in range((size + 1) // 2):
        even, odd = (_added(builder, times(k, i), times(k + 2, i)) for k in (0, 1))
        found[i] = _added(builder, even, odd)
        if i != size - 1 - i:
            found[size - 1 - i] = builder.fsub(even, odd)
    return found


def _added(builder: ir.IRBuilder, a: ir.Value | None, b: ir.Value | None) -> ir.Value | None:
    return builder.fadd(a, b) if a is not None and b is not None else a if b is None else b


def _turned(builder: ir.IRBuilder, x: Sequence[ir.Value]) -> list[ir.Value]:
    """Rows of the columns of each four lanes. What lacks columns has anything in their places."""
    x = [*x, *[x[-1]] * (4 - len(x))]
    n = x[0].type.count

    def both(a: ir.Value, b: ir.Value, places: Sequence[int]) -> ir.Value:
        return shuffle(builder, a, b, [half + (p if p < 4 else n - 4 + p) for half in range(0, n, 4) for p in places])

    low = [both(a, b, [0, 4, 1, 5]) for a, b in (x[:2], x[2:])]
    high = [both(a, b, [2, 6, 3, 7]) for a, b in (x[:2], x[2:])]
    return [both(a, b, places) for a, b in (low, high) for places in ([0, 1, 4, 5], [2, 3, 6, 7])]


def _put(builder: ir.IRBuilder, values: ir.Value, widths: Sequence[int], target: ir.Value) -> None:
    """A row's first lanes of each block, side by side, and nothing beyond."""
    lanes = [4 * i + k for i, width in enumerate(widths) for k in range(width)]
    first = 0
    for size in (8, 4, 2, 1):
        if len(lanes) - first >= size:
            part = shuffle(builder, values, values, lanes[first : first + size])
            store(builder, part, builder.add(target, _W(4 * first)))
            first += size
