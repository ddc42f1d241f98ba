"""A block of 4 x 4 x 4 values between bit planes and memory, as LLVM vectors of any machine.

After zfp 1.0, src/template (revcodec.c left aside): decode.c `inv_lift`, `inv_order`, `uint2int`, encode.c `fwd_lift`,
`fwd_order`, `int2uint`; the order of coefficients is codec3.c `perm_3`. All arithmetic on int32 wraps.

Registers are called by what they hold: `v[z][h]` has rows y = 2h and 2h + 1 of plane z, 4 values each.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fmshards.codec.cpu.features import half_precision, way

# The place x + 4 y + 16 z of the i-th coefficient: by x + y + z, then by the sum of squares (zfp, `perm_3`).
ORDER = (
    *(0, 1, 4, 16, 20, 17, 5, 2, 8, 32, 21, 6, 18, 24, 9, 33, 36, 3, 12, 48, 22, 25, 37, 40, 34, 10, 7, 19, 28, 13, 49),
    *(52, 41, 38, 26, 23, 29, 53, 11, 35, 44, 14, 50, 56, 42, 27, 39, 45, 30, 54, 57, 60, 51, 15, 43, 46, 58, 61, 55),
    *(31, 62, 59, 47, 63),
)
_NEGABINARY = 0xAAAAAAAA - (1 << 32)

_I1, _I8, _I16, _I32, _I64, _FLOAT = (*(ir.IntType(n) for n in (1, 8, 16, 32, 64)), ir.FloatType())
_Vector = Any
_X86 = way()[0] != "portable"


def _from_stream(z: int) -> list[int]:
    """Where in the stream the 16 coefficients of plane z are."""
    return [ORDER.index(16 * z + k) for k in range(16)]


def _vector(kind: Any, values: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(kind, len(values)), values)


def _all(kind: Any, n: int, value: Any) -> ir.Constant:
    return ir.Constant(ir.VectorType(kind, n), [value] * n)


class _Emitter:
    """Emits vector code through an llvmlite IRBuilder."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def load(self, address: Any, offset: int, kind: Any, n: int) -> _Vector:
        pointer = self.b.inttoptr(self.b.add(address, ir.Constant(_I64, offset)), ir.VectorType(kind, n).as_pointer())
        return self.b.load(pointer, align=1)

    def store(self, value: _Vector, address: Any) -> None:
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()), align=1)

    def shuffle(self, first: _Vector, second: _Vector, places: list[int]) -> _Vector:
        return self.b.shuffle_vector(first, second, _vector(_I32, places))

    def cast(self, value: _Vector, kind: Any, n: int) -> _Vector:
        return self.b.bitcast(value, ir.VectorType(kind, n))

    def spread(self, scalar: Any, n: int) -> _Vector:
        """n times one number."""
        kind = ir.VectorType(scalar.type, n)
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_I32, 0))
        return self.shuffle(one, one, [0] * n)

    # -- bit planes to coefficients -----------------------------------------------------------------------------------

    def swap_bits(self, x: _Vector, shift: int, mask: int) -> _Vector:
        """In each of 4 words exchange the bits of `mask` with those `shift` above."""
        by = _all(_I64, 4, shift)
        t = self.b.and_(self.b.xor(x, self.b.lshr(x, by)), _all(_I64, 4, mask))
        return self.b.xor(self.b.xor(x, t), self.b.shl(t, by))

    def turn_bits(self, x: _Vector) -> _Vector:
        """32 bytes as 4 matrices of 8 x 8 bits, each turned over its diagonal (Warren, Hacker's Delight, 7-3)."""
        x = self.cast(x, _I64, 4)
        x = self.swap_bits(x, 7, 0x00AA00AA00AA00AA)
        x = self.swap_bits(x, 14, 0x0000CCCC0000CCCC)
        x = self.swap_bits(x, 28, 0x00000000F0F0F0F0)
        return self.cast(x, _I8, 32)

    def columns(self, words: list[_Vector], lanes: int) -> list[_Vector]:
        """Eight planes a lane, two a word vector, as 4 vectors of two columns: 8 bytes each, the lowest plane first.

        A column is a byte's worth of coefficients, in all 8 planes. lanes: 1 or 2 of 128 bits.
        """
        pairs = []
        for word in words:
            lane = [k + 8 * (1 - odd) for k in range(8) for odd in (0, 1)]
            both = self.cast(word, _I8, 16 * lanes)
            pairs.append(self.shuffle(both, both, [16 * i + k for i in range(lanes) for k in lane]))
        short, number = 8 * lanes, 4 * lanes
        low, high = [self.cast(pairs[j], _I16, short) for j in (3, 1)], [self.cast(pairs[j], _I16, short) for j in (2, 0)]
        fours = [[self.interleave(a, b, part, short) for part in (0, 1)] for a, b in zip(low, high, strict=True)]
        out = []
        for part in (0, 1):
            a, b = (self.cast(fours[k][part], _I32, number) for k in (0, 1))
            out += [self.interleave(a, b, half, number) for half in (0, 1)]
        return out

    def eight_planes(self, planes: Any) -> list[list[_Vector]]:
        """Bit planes 0 to 7, 64 bits each, as the 64 numbers of 8 bits that they make: [z][y pair], as int32.

        Plane 0 is the highest of the 8 bits.
        """
        columns = self.columns([self.load(planes, 8 * j, _I64, 2) for j in range(0, 8, 2)], 1)
        joined = [self.shuffle(columns[k], columns[k + 1], list(range(8))) for k in (0, 2)]
        turned = [self.turn_bits(x) for x in joined]
        sources = [self.shuffle(x, x, list(range(16 * h, 16 * h + 16))) for x in turned for h in (0, 1)]
        return [self.wide(self.gather(sources, _from_stream(z), 1)) for z in range(4)]

    def sixteen_planes(self, planes: Any, first: int) -> list[list[_Vector]]:
        """Bit planes `first` to `first` + 15 as 64 numbers of 16 bits; otherwise as `eight_planes`."""
        words = [self.load(planes, 8 * (first + j), _I64, 2) for j in range(0, 16, 2)]
        # Planes 0 to 7 in the lower lanes, 8 to 15 in the upper: high bytes and low bytes.
        columns = self.columns([self.shuffle(words[j], words[4 + j], [0, 1, 2, 3]) for j in range(4)], 2)
        sources = [self.turn_bits(x) for x in columns]
        out = []
        for z in range(4):
            both = self.gather(sources, _from_stream(z), 2)
            # Low byte, high byte: 16 little-endian numbers.
            pairs = [k for i in range(16) for k in (16 + i, i)]
            out.append(self.wide(self.cast(self.shuffle(both, both, pairs), _I16, 16)))
        return out

    def interleave(self, a: _Vector, b: _Vector, half: int, n: int) -> _Vector:
        """Items of a and b, n each, by turns, from the lower or upper half of each 128-bit lane."""
        width = 128 // a.type.element.width
        lane = [k for i in range(width // 2) for k in (i + half * width // 2, n + i + half * width // 2)]
        return self.shuffle(a, b, [k + start for start in range(0, n, width) for k in lane])

    def gather(self, sources: list[_Vector], wanted: list[int], lanes: int) -> _Vector:
        """In each lane the 16 `wanted` of the 64 bytes that lie, 16 a vector, in the same lane of the sources."""
        if _X86:
            parts = [
                self.pick(source, [i % 16 if i // 16 == k else -1 for i in wanted], lanes)
                for k, source in enumerate(sources)
            ]
            return self.b.or_(self.b.or_(parts[0], parts[1]), self.b.or_(parts[2], parts[3]))
        n = 16 * lanes
        parts = []
        for first in (0, 2):
            # A place that the other two sources fill is left where it is.
            lane = [i % 16 + n * (i // 16 - first) if i // 16 in (first, first + 1) else k for k, i in enumerate(wanted)]
            places = [k + 16 * j for j in range(lanes) for k in lane]
            parts.append(self.shuffle(sources[first], sources[first + 1], places))
        choice = [k if wanted[k] < 32 else n + k for k in range(16)]
        return self.shuffle(parts[0], parts[1], [k + 16 * j for j in range(lanes) for k in choice])

    def pick(self, source: _Vector, places: list[int], lanes: int) -> _Vector:
        """In each lane the bytes at `places`, 0 for -1. One instruction, where LLVM would make dozens of the shuffle."""
        name = {1: "llvm.x86.ssse3.pshuf.b.128", 2: "llvm.x86.avx2.pshuf.b"}[lanes]
        kind = source.type
        function = self.b.module.declare_intrinsic(name, fnty=ir.FunctionType(kind, [kind, kind]))
        return self.b.call(function, [source, _vector(_I8, places * lanes)])

    def wide(self, numbers: _Vector) -> list[_Vector]:
        """16 small unsigned numbers as int32, in two vectors."""
        halves = [self.shuffle(numbers, numbers, list(range(8 * h, 8 * h + 8))) for h in (0, 1)]
        return [self.b.zext(half, ir.VectorType(_I32, 8)) for half in halves]

    def signed(self, x: _Vector) -> _Vector:
        """Negabinary to two's complement."""
        mask = _all(_I32, 8, _NEGABINARY)
        return self.b.sub(self.b.xor(x, mask), mask)

    # -- the transform ------------------------------------------------------------------------------------------------

    def inverse_lift(self, x: _Vector, y: _Vector, z: _Vector, w: _Vector) -> list[_Vector]:
        b, one = self.b, _all(_I32, 8, 1)
        y = b.add(y, b.ashr(w, one))
        w = b.sub(w, b.ashr(y, one))
        y = b.add(y, w)
        w = b.sub(b.shl(w, one), y)
        z = b.add(z, x)
        x = b.sub(b.shl(x, one), z)
        y = b.add(y, z)
        z = b.sub(b.shl(z, one), y)
        w = b.add(w, x)
        x = b.sub(b.shl(x, one), w)
        return [x, y, z, w]

    def forward_lift(self, x: _Vector, y: _Vector, z: _Vector, w: _Vector) -> list[_Vector]:
        b, one = self.b, _all(_I32, 8, 1)
        x = b.ashr(b.add(x, w), one)
        w = b.sub(w, x)
        z = b.ashr(b.add(z, y), one)
        y = b.sub(y, z)
        x = b.ashr(b.add(x, z), one)
        z = b.sub(z, x)
        w = b.ashr(b.add(w, y), one)
        y = b.sub(y, w)
        w = b.add(w, b.ashr(y, one))
        y = b.sub(y, b.ashr(w, one))
        return [x, y, z, w]

    def turn_planes(self, v: list[list[_Vector]]) -> list[list[_Vector]]:
        """Rows of [z][y pair] to rows of [y][z pair], or back."""
        out = []
        for y in range(4):
            lane = [4 * (y % 2) + k for k in range(4)]
            places = lane + [8 + k for k in lane]
            out.append([self.shuffle(v[2 * g][y // 2], v[2 * g + 1][y // 2], places) for g in (0, 1)])
        return out

    def turn_rows(self, u: list[_Vector]) -> list[_Vector]:
        """In each 128-bit lane: four rows of four to four columns."""
        low = [self.interleave(u[0], u[1], h, 8) for h in (0, 1)]
        high = [self.interleave(u[2], u[3], h, 8) for h in (0, 1)]
        out = []
        for h in (0, 1):
            a, b = low[h], high[h]
            out.append(self.shuffle(a, b, [0, 1, 8, 9, 4, 5, 12, 13]))
            out.append(self.shuffle(a, b, [2, 3, 10, 11, 6, 7, 14, 15]))
        return out


def _finish(builder: Any, v: list[list[_Vector]], scale: Any, lines: list[Any], pitch: Any) -> None:
    """Coefficients [z][y pair] to values in memory; see `put_block`."""
    e = _Emitter(builder)
    v = [[e.signed(half) for half in plane] for plane in v]
    for h in (0, 1):
        lifted = e.inverse_lift(*(v[z][h] for z in range(4)))
        for z in range(4):
            v[z][h] = lifted[z]
    u = e.turn_planes(v)
    factor = e.spread(scale, 8)
    for g in (0, 1):
        columns = e.turn_rows(e.inverse_lift(*(u[y][g] for y in range(4))))
        rows = e.turn_rows(e.inverse_lift(*columns))
        for y in range(4):
            values = builder.fmul(builder.sitofp(rows[y], ir.VectorType(_FLOAT, 8)), factor)
            down = builder.mul(pitch, ir.Constant(_I64, y))
            for part in (0, 1):
                line = e.shuffle(values, values, [4 * part + k for k in range(4)])
                e.store(line, builder.add(lines[2 * g + part], down))


@intrinsic
def put_block(typing, planes, first, count, scale, line0, line1, line2, line3, pitch):  # type: ignore[no-untyped-def]
    """Bit planes to 64 float32 values in memory.

    planes: address of 32 words, the highest plane first, zeros after the last. first: how many planes above are left
    out. count: how many there are. scale: address of the float32 that integers are multiplied by. line0 to line3:
    address of the first row of each plane z; pitch: bytes from a row to the next.
    """
    signature = types.void(*[types.int64] * 9)

    def build(context, builder, sig, arguments):  # type: ignore[no-untyped-def]
        planes, first, count, scale, *lines, pitch = arguments
        e = _Emitter(builder)
        scale = builder.load(builder.inttoptr(scale, _FLOAT.as_pointer()))

        def shifted(v: list[list[_Vector]], by: Any, shift: Any) -> list[list[_Vector]]:
            amount = e.spread(builder.trunc(by, _I32), 8)
            return [[shift(half, amount) for half in plane] for plane in v]

        def fits(most: int) -> Any:
            planes_fit = builder.icmp_signed("<=", count, ir.Constant(_I64, most))
            return builder.and_(planes_fit, builder.icmp_signed("<=", first, ir.Constant(_I64, 32 - most)))

        with builder.if_else(fits(8)) as (few, more):
            with few:
                v = e.eight_planes(planes)
                v = shifted(v, builder.sub(ir.Constant(_I64, 24), first), builder.shl)
                _finish(builder, v, scale, lines, pitch)
            with more, builder.if_else(fits(16)) as (some, many):
                with some:
                    v = e.sixteen_planes(planes, 0)
                    v = shifted(v, builder.sub(ir.Constant(_I64, 16), first), builder.shl)
                    _finish(builder, v, scale, lines, pitch)
                with many:
                    high, low = e.sixteen_planes(planes, 0), e.sixteen_planes(planes, 16)
                    sixteen = _all(_I32, 8, 16)
                    v = [
                        [builder.or_(builder.shl(h, sixteen), part) for h, part in zip(*pair, strict=True)]
                        for pair in zip(high, low, strict=True)
                    ]
                    _finish(builder, shifted(v, first, builder.lshr), scale, lines, pitch)
        return context.get_dummy_value()

    return signature, build


@intrinsic
def largest_magnitude(typing, line0, line1, line2, line3, pitch):  # type: ignore[no-untyped-def]
    """The bits, without the sign, of the largest of 64 float32 magnitudes; lines and pitch as in `put_block`."""

    def build(context, builder, sig, arguments):  # type: ignore[no-untyped-def]
        e = _Emitter(builder)
        *lines, pitch = arguments
        magnitude = _all(_I32, 4, 0x7FFFFFFF)
        found = _all(_I32, 4, 0)
        for line in lines:
            for y in range(4):
                row = e.load(builder.add(line, builder.mul(pitch, ir.Constant(_I64, y))), 0, _I32, 4)
                row = builder.and_(row, magnitude)
                found = builder.select(builder.icmp_unsigned(">", row, found), row, found)
        for step in (2, 1):
            other = e.shuffle(found, found, [(k + step) % 4 for k in range(4)])
            found = builder.select(builder.icmp_unsigned(">", other, found), other, found)
        return builder.zext(builder.extract_element(found, ir.Constant(_I32, 0)), _I64)

    return types.int64(*[types.int64] * 5), build


@intrinsic
def transform_block(typing, scale, line0, line1, line2, line3, pitch, out):  # type: ignore[no-untyped-def]
    """64 float32 to 64 coefficients in negabinary, uint32 at the address `out`, in order of z, y and x.

    scale: address of the float32 that values are multiplied by; lines and pitch as in `put_block`.
    """

    def build(context, builder, sig, arguments):  # type: ignore[no-untyped-def]
        e = _Emitter(builder)
        scale, *lines, pitch, out = arguments
        factor = e.spread(builder.load(builder.inttoptr(scale, _FLOAT.as_pointer())), 8)
        u: list[list[_Vector]] = [[], [], [], []]
        for g in (0, 1):
            rows = []
            for y in range(4):
                down = builder.mul(pitch, ir.Constant(_I64, y))
                pair = [e.load(builder.add(lines[2 * g + part], down), 0, _FLOAT, 4) for part in (0, 1)]
                values = builder.fmul(e.shuffle(*pair, list(range(8))), factor)
                rows.append(builder.fptosi(values, ir.VectorType(_I32, 8)))
            columns = e.forward_lift(*e.turn_rows(rows))
            for y, row in enumerate(e.forward_lift(*e.turn_rows(columns))):
                u[y].append(row)
        v = e.turn_planes(u)
        mask = _all(_I32, 8, _NEGABINARY)
        for h in (0, 1):
            for z, half in enumerate(e.forward_lift(*(v[z][h] for z in range(4)))):
                place = builder.add(out, ir.Constant(_I64, 64 * z + 32 * h))
                e.store(builder.xor(builder.add(half, mask), mask), place)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), build


@intrinsic
def split_bytes(typing, coefficients, lowest, out):  # type: ignore[no-untyped-def]
    """The bytes from bit `lowest` + 8 on, then those from bit `lowest` on, of 64 coefficients: 2 x 64 bytes at `out`.

    coefficients: as `transform_block` leaves them. In the order of the stream.
    """

    def build(context, builder, sig, arguments):  # type: ignore[no-untyped-def]
        e = _Emitter(builder)
        coefficients, lowest, out = arguments
        by = e.spread(builder.trunc(lowest, _I32), 8)
        eight = _all(_I32, 8, 8)
        sources = []
        for z in range(4):
            halves = [builder.lshr(e.load(coefficients, 64 * z + 32 * h, _I32, 8), by) for h in (0, 1)]
            high = [builder.trunc(builder.lshr(half, eight), ir.VectorType(_I8, 8)) for half in halves]
            low = [builder.trunc(half, ir.VectorType(_I8, 8)) for half in halves]
            both = [e.shuffle(*part, list(range(16))) for part in (high, low)]
            sources.append(e.shuffle(*both, list(range(32))))
        for quarter in range(4):
            places = ORDER[16 * quarter : 16 * quarter + 16]
            found = e.gather(sources, list(places), 2)
            for lane in (0, 1):
                part = e.shuffle(found, found, list(range(16 * lane, 16 * lane + 16)))
                e.store(part, builder.add(out, ir.Constant(_I64, 64 * lane + 16 * quarter)))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), build


@intrinsic
def plane_bits(typing, data, bit):  # type: ignore[no-untyped-def]
    """Bit `bit` (0 to 7) of each of 64 bytes at the address `data`, as 64 bits."""

    def build(context, builder, sig, arguments):  # type: ignore[no-untyped-def]
        e = _Emitter(builder)
        data, bit = arguments
        # To the top of each byte: what comes over from the byte below stays under it.
        up = e.spread(builder.trunc(builder.sub(ir.Constant(_I64, 7), bit), _I16), 16)
        halves = []
        for h in (0, 1):
            bytes_ = e.cast(builder.shl(e.load(data, 32 * h, _I16, 16), up), _I8, 32)
            signs = builder.icmp_signed("<", bytes_, _all(_I8, 32, 0))
            halves.append(builder.zext(builder.bitcast(signs, _I32), _I64))
        return builder.or_(halves[0], builder.shl(halves[1], ir.Constant(_I64, 32)))

    return types.int64(types.int64, types.int64), build


def _as_half(e: _Emitter, values: _Vector) -> _Vector:
    n = values.type.count
    return e.cast(e.b.fptrunc(values, ir.VectorType(ir.HalfType(), n)), _I16, n)


def _as_bfloat16(e: _Emitter, values: _Vector) -> _Vector:
    """The upper half, rounded to nearest, ties to even. No value is a NaN here."""
    n = values.type.count
    b, bits = e.b, e.cast(values, _I32, n)
    upper = _all(_I32, n, 16)
    odd = b.and_(b.lshr(bits, upper), _all(_I32, n, 1))
    rounded = b.add(b.add(bits, odd), _all(_I32, n, 0x7FFF))
    return b.trunc(b.lshr(rounded, upper), ir.VectorType(_I16, n))


def _copier(n: int, convert: Any) -> Any:
    """An intrinsic (source, destination): n float32 from an address to an address, converted."""

    def copy(typing, source, destination):  # type: ignore[no-untyped-def]
        def build(context, builder, sig, arguments):  # type: ignore[no-untyped-def]
            e = _Emitter(builder)
            values = e.load(arguments[0], 0, _FLOAT, n)
            e.store(values if convert is None else convert(e, values), arguments[1])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), build

    return intrinsic(copy)


copy_8, copy_4, copy_1 = (_copier(n, None) for n in (8, 4, 1))
bfloat16_8, bfloat16_4, bfloat16_1 = (_copier(n, _as_bfloat16) for n in (8, 4, 1))
# Where there is no instruction for it the engine is not asked for float16; the names must compile all the same.
_half = _as_half if half_precision() else _as_bfloat16
half_8, half_4, half_1 = (_copier(n, _half) for n in (8, 4, 1))
