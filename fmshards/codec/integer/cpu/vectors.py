"""LLVM vectors for `int` rows: what numba's own loops do not become. Imported only where numba works.

Addresses are plain integers: whoever calls answers for the memory behind them. Multiplication and addition are never
fused, so that decoded values have the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fmshards.kernels.llvm import load, shuffle, spread, store

LANES = 8
_F, _I, _W = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FS, _IS, _WS = (ir.VectorType(one, LANES) for one in (_F, _I, _W))
_ROUND = 2.0**23  # added to a float32 of 0 to 255 and taken away again: rounded to nearest, ties to even


@intrinsic
def unpack(typing: Any, source: Any, bits: Any, scale: Any, offset: Any, target: Any) -> Any:
    """The 8 values that begin at the byte `source`, scale * q + offset, to 8 floats at `target`.

    Values 0 to 3 lie in the word at `source`, 4 to 7 in the one at `source + bits // 2`: so up to bits // 2 + 4 bytes
    are read.
    """

    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        source, bits, scale, offset, target = args
        codes = _codes(builder, source, bits, *_shifts(builder, bits))
        values = builder.fadd(builder.fmul(codes, spread(builder, scale, LANES)), spread(builder, offset, LANES))
        store(builder, values, target)
        return context.get_dummy_value()

    signature = types.void(types.int64, types.int64, types.float32, types.float32, types.int64)
    return signature, make


@intrinsic
def unpack_turned(
    typing: Any, source: Any, run_bytes: Any, bits: Any, scales: Any, offsets: Any, target: Any, stride: Any
) -> Any:
    """As `unpack`, of 8 runs that lie `run_bytes` apart, turned: 8 places, `stride` bytes apart, of 8 runs each.

    scales, offsets: addresses of float32 [8], of the runs.
    """

    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        source, run_bytes, bits, scales, offsets, target, stride = args
        how = _shifts(builder, bits)
        scale, offset = load(builder, scales, _FS), load(builder, offsets, _FS)
        rows = []
        for _ in range(LANES):
            rows.append(_codes(builder, source, bits, *how))
            source = builder.add(source, run_bytes)
        for row in _turn(builder, rows):
            store(builder, builder.fadd(builder.fmul(row, scale), offset), target)
            target = builder.add(target, stride)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), make


@intrinsic
def extremes(typing: Any, tile: Any, places: Any, target: Any) -> Any:
    """Of a tile, float32 [places, 8], the smallest and the largest value of each lane: float32 [2, 8] at `target`."""

    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        tile, places, target = args
        least, most = load(builder, tile, _FS), load(builder, tile, _FS)
        kept = _Kept(builder, [least, most])
        with _places(builder, tile, places) as value:
            least, most = kept.load()
            kept.store(
                [
                    builder.select(builder.fcmp_ordered("<", value, least), value, least),
                    builder.select(builder.fcmp_ordered(">", value, most), value, most),
                ]
            )
        _store_all(builder, kept.load(), target)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), make


@intrinsic
def to_unit(typing: Any, tile: Any, places: Any, how: Any, target: Any) -> Any:
    """y = (x / 2 - how[0]) * how[1] for a tile of x, in place; the sum of each lane's y: float32 [8] at `target`.

    how: float32 [2, 8]. Halves, for the range of float32 values need not be one.
    """

    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        tile, places, how, target = args
        start, factor = _load_all(builder, how, 2)
        kept = _Kept(builder, [_constant(_F, [0.0] * LANES)])
        with _places(builder, tile, places, put=True) as (value, put):
            halves = builder.fmul(value, _constant(_F, [0.5] * LANES))
            unit = builder.fmul(builder.fsub(halves, start), factor)
            put(unit)
            kept.store([builder.fadd(kept.load()[0], unit)])
        _store_all(builder, kept.load(), target)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), make


@intrinsic
def measure(typing: Any, tile: Any, places: Any, how: Any, top: Any, target: Any) -> Any:
    """What codes of a step do to a tile of y: how, float32 [3, 8], is offset, 1 / scale and scale of each lane.

    With q = clip(round((y - offset) / scale), 0, top), sums over the places, float32 [4, 8] at `target`: of the
    squared error, of q, of q * q, and of q * y.
    """

    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        tile, places, how, top, target = args
        offset, inverse, scale = _load_all(builder, how, 3)
        top = spread(builder, top, LANES)
        kept = _Kept(builder, [_constant(_F, [0.0] * LANES)] * 4)
        with _places(builder, tile, places) as value:
            code = _code(builder, value, offset, inverse, top)
            error = builder.fsub(value, builder.fadd(builder.fmul(code, scale), offset))
            added = (
                builder.fmul(error, error),
                code,
                builder.fmul(code, code),
                builder.fmul(code, value),
            )
            kept.store([builder.fadd(old, new) for old, new in zip(kept.load(), added, strict=True)])
        _store_all(builder, kept.load(), target)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.float32, types.int64), make


@intrinsic
def pack(typing: Any, tile: Any, how: Any, top: Any, bits: Any, target: Any) -> Any:
    """The codes of 8 places of a tile as `measure` has them, 8 to a word: uint64 [8], a lane each, at `target`."""

    def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        tile, how, top, bits, target = args
        offset, inverse = _load_all(builder, how, 2)
        top = spread(builder, top, LANES)
        words = ir.Constant(_WS, [0] * LANES)
        for i, value in enumerate(_load_all(builder, tile, LANES)):
            code = builder.fptoui(_code(builder, value, offset, inverse, top), _IS)
            shift = spread(builder, builder.mul(bits, _W(i)), LANES)
            words = builder.or_(words, builder.shl(builder.zext(code, _WS), shift))
        store(builder, words, target)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, types.int64, types.int64), make


def _shifts(builder: ir.IRBuilder, bits: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Where in its word each of 8 codes begins, and their mask."""
    width = builder.trunc(bits, _I)
    half = spread(builder, builder.shl(builder.and_(width, _I(1)), _I(2)), LANES)
    shifts = builder.mul(_constant(_I, [0, 1, 2, 3] * 2), spread(builder, width, LANES))
    shifts = builder.add(shifts, builder.mul(_constant(_I, [0] * 4 + [1] * 4), half))
    return shifts, spread(builder, builder.sub(builder.shl(_I(1), width), _I(1)), LANES)


def _codes(builder: ir.IRBuilder, source: ir.Value, bits: ir.Value, shifts: ir.Value, mask: ir.Value) -> ir.Value:
    """8 codes from byte `source` on, as floats."""
    low = load(builder, source, _I)
    high = load(builder, builder.add(source, builder.lshr(bits, _W(1))), _I)
    pair = builder.insert_element(ir.Constant(_IS, ir.Undefined), low, _I(0))
    pair = builder.insert_element(pair, high, _I(1))
    words = shuffle(builder, pair, pair, [0, 0, 0, 0, 1, 1, 1, 1])
    return builder.sitofp(builder.and_(builder.lshr(words, shifts), mask), _FS)


def _turn(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """An 8 x 8 matrix transposed: neighbours 1, 2 and 4 apart change their off-diagonal parts."""
    for apart in (1, 2, 4):
        upper = [i if not i & apart else LANES + i - apart for i in range(LANES)]
        lower = [i + apart if not i & apart else LANES + i for i in range(LANES)]
        turned = list(rows)
        for i in range(LANES):
            if not i & apart:
                a, b = rows[i], rows[i + apart]
                turned[i] = shuffle(builder, a, b, upper)
                turned[i + apart] = shuffle(builder, a, b, lower)
        rows = turned
    return rows


def _code(builder: ir.IRBuilder, value: ir.Value, offset: ir.Value, inverse: ir.Value, top: ir.Value) -> ir.Value:
    zero, whole = _constant(_F, [0.0] * LANES), _constant(_F, [_ROUND] * LANES)
    scaled = builder.fmul(builder.fsub(value, offset), inverse)
    scaled = builder.select(builder.fcmp_ordered(">", scaled, zero), scaled, zero)  # what is no number becomes 0
    scaled = builder.select(builder.fcmp_ordered("<", scaled, top), scaled, top)
    return builder.fsub(builder.fadd(scaled, whole), whole)


class _Kept:
    """Vectors that a loop carries; LLVM keeps them in registers."""

    def __init__(self, builder: ir.IRBuilder, values: Sequence[ir.Value]) -> None:
        self._builder = builder
        self._slots = [cgutils.alloca_once(builder, value.type) for value in values]
        self.store(values)

    def load(self) -> list[ir.Value]:
        return [self._builder.load(slot) for slot in self._slots]

    def store(self, values: Sequence[ir.Value]) -> None:
        for value, slot in zip(values, self._slots, strict=True):
            self._builder.store(value, slot)


class _places:
    """A loop over a tile's places: `with` gives the 8 values of one, and what puts others there if asked for."""

    def __init__(self, builder: ir.IRBuilder, tile: ir.Value, places: ir.Value, put: bool = False) -> None:
        self._builder, self._tile, self._put = builder, tile, put
        self._loop = cgutils.for_range(builder, places, intp=_W)

    def __enter__(self) -> Any:
        at = self._builder.add(self._tile, self._builder.mul(self._loop.__enter__().index, _W(4 * LANES)))
        value = load(self._builder, at, _FS)
        return (value, lambda new: store(self._builder, new, at)) if self._put else value

    def __exit__(self, *error: Any) -> None:
        self._loop.__exit__(*error)


def _load_all(builder: ir.IRBuilder, address: ir.Value, count: int) -> list[ir.Value]:
    return [load(builder, builder.add(address, _W(4 * LANES * i)), _FS) for i in range(count)]


def _store_all(builder: ir.IRBuilder, values: Sequence[ir.Value], address: ir.Value) -> None:
    for i, value in enumerate(values):
        store(builder, value, builder.add(address, _W(4 * LANES * i)))


def _constant(kind: ir.Type, values: Sequence[float]) -> ir.Constant:
    cast = np.float32 if kind is _F else int
    return ir.Constant(ir.VectorType(kind, LANES), [cast(v) for v in values])
