"""Eight float32 at a time: what the kernels of cpu_kernel.py need and plain numba loops do not give.

numba's loops over eight values stay scalar, as its arrays may overlap for all that LLVM knows. These functions emit
LLVM's own vectors, which become AVX, SSE or NEON as the machine has them; results are the same everywhere (each
product and each sum is rounded, none are fused). All take flat float32 arrays and places in them, and check nothing.
Only to be imported where `jit.missing()` is None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fmshards.kernels.llvm import shuffle, spread

LANES = 8
_FLOATS = ir.VectorType(ir.FloatType(), LANES)


def _function(typing: Callable[..., Any]) -> Any:
    return intrinsic(typing)


@_function
def copy8(typing: Any, to: Any, at: Any, source: Any, start: Any) -> Any:
    """to[at : at + 8] = source[start : start + 8]."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, at, source, start = _places(context, builder, signature, args)
        _store(builder, _load(builder, source, start), to, at)
        return context.get_dummy_value()

    return types.void(to, at, source, start), emit


@_function
def reverse8(typing: Any, to: Any, at: Any, source: Any, start: Any) -> Any:
    """to[at : at + 8] = source[start : start + 8] in reverse."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, at, source, start = _places(context, builder, signature, args)
        values = _load(builder, source, start)
        _store(builder, shuffle(builder, values, values, range(LANES - 1, -1, -1)), to, at)
        return context.get_dummy_value()

    return types.void(to, at, source, start), emit


@_function
def mix8(typing: Any, to: Any, at: Any, source: Any, a: Any, b: Any, wa: Any, wb: Any) -> Any:
    """to[at : at + 8] = wa * source[a : a + 8] + wb * source[b : b + 8]."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, at, source, a, b, wa, wb = _places(context, builder, signature, args)
        _store(builder, _mixed(builder, source, a, b, wa, wb), to, at)
        return context.get_dummy_value()

    return types.void(to, at, source, a, b, wa, wb), emit


@_function
def mix_fill8(
    typing: Any, to: Any, at: Any, source: Any, a: Any, b: Any, wa: Any, wb: Any, fill: Any, f: Any, wf: Any
) -> Any:
    """to[at : at + 8] = (wa * source[a : a + 8] + wb * source[b : b + 8]) + wf * fill[f : f + 8]."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, at, source, a, b, wa, wb, fill, f, wf = _places(context, builder, signature, args)
        outside = builder.fmul(spread(builder, wf, LANES), _load(builder, fill, f))
        _store(builder, builder.fadd(_mixed(builder, source, a, b, wa, wb), outside), to, at)
        return context.get_dummy_value()

    return types.void(to, at, source, a, b, wa, wb, fill, f, wf), emit


@_function
def transpose8(typing: Any, to: Any, to_rows: Any, at: Any, source: Any, rows: Any, start: Any) -> Any:
    """to[to_rows[j] + at + i] = source[rows[i] + start + j] for i, j in 0..7; to_rows, rows int64[8]."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, to_rows, at, source, rows, start = _places(context, builder, signature, args)
        lines = [_load(builder, source, builder.add(_row(builder, rows, i), start)) for i in range(LANES)]
        # Pairs of lines, then pairs of pairs, within the halves of a register; then the halves: 24 shuffles.
        for step, low, high in (
            (1, (0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)),
            (2, (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)),
        ):
            firsts = [i for i in range(LANES) if not i & step]
            lines = [shuffle(builder, lines[i], lines[i + step], mask) for i in firsts for mask in (low, high)]
        halves = ((0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15))
        done = [shuffle(builder, lines[j % 4], lines[j % 4 + 4], halves[j // 4]) for j in range(LANES)]
        for j, line in enumerate(done):
            _store(builder, line, to, builder.add(_row(builder, to_rows, j), at))
        return context.get_dummy_value()

    return types.void(to, to_rows, at, source, rows, start), emit


def _places(context: Any, builder: Any, signature: Any, args: Any) -> list[Any]:
    """Arrays as pointers to their first value, whole numbers as int64, the rest as it is."""
    made = []
    for kind, value in zip(signature.args, args, strict=True):
        if isinstance(kind, types.Array):
            made.append(context.make_array(kind)(context, builder, value).data)
        elif isinstance(kind, types.Integer):
            made.append(context.cast(builder, value, kind, types.int64))
        else:
            made.append(context.cast(builder, value, kind, types.float32))
    return made


def _load(builder: Any, pointer: Any, at: Any) -> Any:
    place = builder.bitcast(builder.gep(pointer, [at]), _FLOATS.as_pointer())
    return builder.load(place, align=4)


def _store(builder: Any, values: Any, pointer: Any, at: Any) -> None:
    place = builder.bitcast(builder.gep(pointer, [at]), _FLOATS.as_pointer())
    builder.store(values, place, align=4)


def _row(builder: Any, rows: Any, i: int) -> Any:
    return builder.load(builder.gep(rows, [ir.Constant(ir.IntType(64), i)]))


def _mixed(builder: Any, source: Any, a: Any, b: Any, wa: Any, wb: Any) -> Any:
    first = builder.fmul(spread(builder, wa, LANES), _load(builder, source, a))
    return builder.fadd(first, builder.fmul(spread(builder, wb, LANES), _load(builder, source, b)))
