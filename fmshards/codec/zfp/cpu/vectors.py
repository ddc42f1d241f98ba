"""A block of 4 x 4 x 4 values between bit planes and memory, as single operations for kernels.

A block lies in memory as four planes z, each of four lines of 4 float32: `line0` to `line3` are the addresses of the
planes' first lines, `pitch` the bytes from a line to the next.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fmshards.codec.zfp.coefficients import ORDER
from fmshards.codec.zfp.cpu.emitter import FLOAT, I8, I16, I32, I64, NEGABINARY, Emitter, Vector, same


@intrinsic
def join_planes(typing: Any, planes: Any, first: Any, count: Any) -> Any:
    """Bit planes to the 64 coefficients that they make, int32 in order of z, y and x, in the same memory.

    planes: address of 32 words, the highest plane first, zeros after the last. first: how many planes above are left
    out. count: how many there are.
    """

    def build(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        planes, first, count = arguments
        e = Emitter(builder)

        def put(v: list[list[Vector]], by: Any, shift: Any) -> None:
            amount = e.spread(builder.trunc(by, I32), 8)
            for z in range(4):
                for h in (0, 1):
                    place = builder.add(planes, ir.Constant(I64, 64 * z + 32 * h))
                    e.store(e.signed(shift(v[z][h], amount)), place)

        def fits(most: int) -> Any:
            planes_fit = builder.icmp_signed("<=", count, ir.Constant(I64, most))
            return builder.and_(planes_fit, builder.icmp_signed("<=", first, ir.Constant(I64, 32 - most)))

        with builder.if_else(fits(8)) as (few, more):
            with few:
                put(e.eight_planes(planes), builder.sub(ir.Constant(I64, 24), first), builder.shl)
            with more, builder.if_else(fits(16)) as (some, many):
                with some:
                    put(e.sixteen_planes(planes, 0), builder.sub(ir.Constant(I64, 16), first), builder.shl)
                with many:
                    high, low = e.sixteen_planes(planes, 0), e.sixteen_planes(planes, 16)
                    sixteen = same(I32, 8, 16)
                    v = [
                        [builder.or_(builder.shl(h, sixteen), part) for h, part in zip(*pair, strict=True)]
                        for pair in zip(high, low, strict=True)
                    ]
                    put(v, first, builder.lshr)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), build


@intrinsic
def put_block(
    typing: Any, coefficients: Any, scale: Any, line0: Any, line1: Any, line2: Any, line3: Any, pitch: Any
) -> Any:
    """64 coefficients, as `join_planes` leaves them, to 64 float32 values in memory.

    scale: address of the float32 that integers are multiplied by.
    """

    def build(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        coefficients, scale, *lines, pitch = arguments
        e = Emitter(builder)
        v = [[e.load(coefficients, 64 * z + 32 * h, I32, 8) for h in (0, 1)] for z in range(4)]
        for h in (0, 1):
            lifted = e.inverse_lift(*(v[z][h] for z in range(4)))
            for z in range(4):
                v[z][h] = lifted[z]
        u = e.turn_planes(v)
        factor = e.spread(builder.load(builder.inttoptr(scale, FLOAT.as_pointer())), 8)
        for g in (0, 1):
            columns = e.turn_rows(e.inverse_lift(*(u[y][g] for y in range(4))))
            rows = e.turn_rows(e.inverse_lift(*columns))
            for y in range(4):
                values = builder.fmul(builder.sitofp(rows[y], ir.VectorType(FLOAT, 8)), factor)
                down = builder.mul(pitch, ir.Constant(I64, y))
                for part in (0, 1):
                    line = e.shuffle(values, values, [4 * part + k for k in range(4)])
                    e.store(line, builder.add(lines[2 * g + part], down))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), build


@intrinsic
def largest_magnitude(typing: Any, line0: Any, line1: Any, line2: Any, line3: Any, pitch: Any) -> Any:
    """The bits, without the sign, of the largest of 64 float32 magnitudes; lines and pitch as in `put_block`."""

    def build(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        e = Emitter(builder)
        *lines, pitch = arguments
        magnitude = same(I32, 4, 0x7FFFFFFF)
        found = same(I32, 4, 0)
        for line in lines:
            for y in range(4):
                row = e.load(builder.add(line, builder.mul(pitch, ir.Constant(I64, y))), 0, I32, 4)
                row = builder.and_(row, magnitude)
                found = builder.select(builder.icmp_unsigned(">", row, found), row, found)
        for step in (2, 1):
            other = e.shuffle(found, found, [(k + step) % 4 for k in range(4)])
            found = builder.select(builder.icmp_unsigned(">", other, found), other, found)
        return builder.zext(builder.extract_element(found, ir.Constant(I32, 0)), I64)

    return types.int64(*[types.int64] * 5), build


@intrinsic
def transform_block(
    typing: Any, scale: Any, line0: Any, line1: Any, line2: Any, line3: Any, pitch: Any, out: Any
) -> Any:
    """64 float32 to 64 coefficients in negabinary, uint32 at the address `out`, in order of z, y and x.

    scale: address of the float32 that values are multiplied by; lines and pitch as in `put_block`.
    """

    def build(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        e = Emitter(builder)
        scale, *lines, pitch, out = arguments
        factor = e.spread(builder.load(builder.inttoptr(scale, FLOAT.as_pointer())), 8)
        u: list[list[Vector]] = [[], [], [], []]
        for g in (0, 1):
            rows = []
            for y in range(4):
                down = builder.mul(pitch, ir.Constant(I64, y))
                pair = [e.load(builder.add(lines[2 * g + part], down), 0, FLOAT, 4) for part in (0, 1)]
                values = builder.fmul(e.shuffle(pair[0], pair[1], list(range(8))), factor)
                rows.append(builder.fptosi(values, ir.VectorType(I32, 8)))
            columns = e.forward_lift(*e.turn_rows(rows))
            for y, row in enumerate(e.forward_lift(*e.turn_rows(columns))):
                u[y].append(row)
        v = e.turn_planes(u)
        mask = same(I32, 8, NEGABINARY)
        for h in (0, 1):
            for z, half in enumerate(e.forward_lift(*(v[z][h] for z in range(4)))):
                place = builder.add(out, ir.Constant(I64, 64 * z + 32 * h))
                e.store(builder.xor(builder.add(half, mask), mask), place)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), build


@intrinsic
def split_bytes(typing: Any, coefficients: Any, lowest: Any, out: Any) -> Any:
    """The bytes from bit `lowest` + 8 on, then those from bit `lowest` on, of 64 coefficients: 2 x 64 bytes at `out`.

    coefficients: as `transform_block` leaves them. In the order of the stream.
    """

    def build(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        e = Emitter(builder)
        coefficients, lowest, out = arguments
        by = e.spread(builder.trunc(lowest, I32), 8)
        eight = same(I32, 8, 8)
        sources = []
        for z in range(4):
            halves = [builder.lshr(e.load(coefficients, 64 * z + 32 * h, I32, 8), by) for h in (0, 1)]
            high = [builder.trunc(builder.lshr(half, eight), ir.VectorType(I8, 8)) for half in halves]
            low = [builder.trunc(half, ir.VectorType(I8, 8)) for half in halves]
            both = [e.shuffle(part[0], part[1], list(range(16))) for part in (high, low)]
            sources.append(e.shuffle(both[0], both[1], list(range(32))))
        for quarter in range(4):
            places = ORDER[16 * quarter : 16 * quarter + 16]
            found = e.gather(sources, list(places), 2)
            for lane in (0, 1):
                part = e.shuffle(found, found, list(range(16 * lane, 16 * lane + 16)))
                e.store(part, builder.add(out, ir.Constant(I64, 64 * lane + 16 * quarter)))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), build


@intrinsic
def plane_bits(typing: Any, data: Any, bit: Any) -> Any:
    """Bit `bit` (0 to 7) of each of 64 bytes at the address `data`, as 64 bits."""

    def build(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        e = Emitter(builder)
        data, bit = arguments
        # To the top of each byte: what comes over from the byte below stays under it.
        up = e.spread(builder.trunc(builder.sub(ir.Constant(I64, 7), bit), I16), 16)
        halves = []
        for h in (0, 1):
            bytes_ = e.cast(builder.shl(e.load(data, 32 * h, I16, 16), up), I8, 32)
            signs = builder.icmp_signed("<", bytes_, same(I8, 32, 0))
            halves.append(builder.zext(builder.bitcast(signs, I32), I64))
        return builder.or_(halves[0], builder.shl(halves[1], ir.Constant(I64, 32)))

    return types.int64(types.int64, types.int64), build
