"""Emits a block's arithmetic as LLVM vectors of any machine: shuffles, bit matrices, the transform.

After zfp 1.0, src/template: decode.c `inv_lift`, `inv_order`, `uint2int`, encode.c `fwd_lift`,
`fwd_order`, `int2uint`; the order of coefficients is in coefficients.py. All arithmetic on int32 wraps.

Registers are called by what they hold: `v[z][h]` has rows y = 2h and 2h + 1 of plane z, 4 values each.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from fmshards.codec.zfp.coefficients import ORDER
from fmshards.kernels import llvm
from fmshards.kernels.machine import way

NEGABINARY = 0xAAAAAAAA - (1 << 32)

I8, I16, I32, I64, FLOAT = (*(ir.IntType(n) for n in (8, 16, 32, 64)), ir.FloatType())
Vector = Any
_X86 = way()[0] != "portable"


def _from_stream(z: int) -> list[int]:
    """Where in the stream the 16 coefficients of plane z are."""
    return [ORDER.index(16 * z + k) for k in range(16)]


def vector(kind: Any, values: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(kind, len(values)), values)


def same(kind: Any, n: int, value: Any) -> ir.Constant:
    return ir.Constant(ir.VectorType(kind, n), [value] * n)


class Emitter:
    """Emits vector code through an llvmlite IRBuilder."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def load(self, address: Any, offset: int, kind: Any, n: int) -> Vector:
        return llvm.load(self.b, self.b.add(address, ir.Constant(I64, offset)), ir.VectorType(kind, n))

    def store(self, value: Vector, address: Any) -> None:
        llvm.store(self.b, value, address)

    def shuffle(self, first: Vector, second: Vector, places: list[int]) -> Vector:
        return llvm.shuffle(self.b, first, second, places)

    def cast(self, value: Vector, kind: Any, n: int) -> Vector:
        return self.b.bitcast(value, ir.VectorType(kind, n))

    def spread(self, scalar: Any, n: int) -> Vector:
        """n times one number."""
        return llvm.spread(self.b, scalar, n)

    # -- bit planes to coefficients -----------------------------------------------------------------------------------

    def swap_bits(self, x: Vector, shift: int, mask: int) -> Vector:
        """In each of 4 words exchange the bits of `mask` with those `shift` above."""
        by = same(I64, 4, shift)
        t = self.b.and_(self.b.xor(x, self.b.lshr(x, by)), same(I64, 4, mask))
        return self.b.xor(self.b.xor(x, t), self.b.shl(t, by))

    def turn_bits(self, x: Vector) -> Vector:
        """32 bytes as 4 matrices of 8 x 8 bits, each turned over its diagonal (Warren, Hacker's Delight, 7-3)."""
        x = self.cast(x, I64, 4)
        x = self.swap_bits(x, 7, 0x00AA00AA00AA00AA)
        x = self.swap_bits(x, 14, 0x0000CCCC0000CCCC)
        x = self.swap_bits(x, 28, 0x00000000F0F0F0F0)
        return self.cast(x, I8, 32)

    def columns(self, words: list[Vector], lanes: int) -> list[Vector]:
        """Eight planes a lane, two a word vector, as 4 vectors of two columns: 8 bytes each, the lowest plane first.

        A column is a byte's worth of coefficients, in all 8 planes. lanes: 1 or 2 of 128 bits.
        """
        pairs = []
        for word in words:
            lane = [k + 8 * (1 - odd) for k in range(8) for odd in (0, 1)]
            both = self.cast(word, I8, 16 * lanes)
            pairs.append(self.shuffle(both, both, [16 * i + k for i in range(lanes) for k in lane]))
        short, number = 8 * lanes, 4 * lanes
        low, high = (
            [self.cast(pairs[j], I16, short) for j in (3, 1)],
            [self.cast(pairs[j], I16, short) for j in (2, 0)],
        )
        fours = [[self.interleave(a, b, part, short) for part in (0, 1)] for a, b in zip(low, high, strict=True)]
        out = []
        for part in (0, 1):
            a, b = (self.cast(fours[k][part], I32, number) for k in (0, 1))
            out += [self.interleave(a, b, half, number) for half in (0, 1)]
        return out

    def eight_planes(self, planes: Any) -> list[list[Vector]]:
        """Bit planes 0 to 7, 64 bits each, as the 64 numbers of 8 bits that they make: [z][y pair], as int32.

        Plane 0 is the highest of the 8 bits.
        """
        columns = self.columns([self.load(planes, 8 * j, I64, 2) for j in range(0, 8, 2)], 1)
        joined = [self.shuffle(columns[k], columns[k + 1], list(range(8))) for k in (0, 2)]
        turned = [self.turn_bits(x) for x in joined]
        sources = [self.shuffle(x, x, list(range(16 * h, 16 * h + 16))) for x in turned for h in (0, 1)]
        return [self.wide(self.gather(sources, _from_stream(z), 1)) for z in range(4)]

    def sixteen_planes(self, planes: Any, first: int) -> list[list[Vector]]:
        """Bit planes `first` to `first` + 15 as 64 numbers of 16 bits; otherwise as `eight_planes`."""
        words = [self.load(planes, 8 * (first + j), I64, 2) for j in range(0, 16, 2)]
        # Planes 0 to 7 in the lower lanes, 8 to 15 in the upper: high bytes and low bytes.
        columns = self.columns([self.shuffle(words[j], words[4 + j], [0, 1, 2, 3]) for j in range(4)], 2)
        sources = [self.turn_bits(x) for x in columns]
        out = []
        for z in range(4):
            both = self.gather(sources, _from_stream(z), 2)
            # Low byte, high byte: 16 little-endian numbers.
            pairs = [k for i in range(16) for k in (16 + i, i)]
            out.append(self.wide(self.cast(self.shuffle(both, both, pairs), I16, 16)))
        return out

    def interleave(self, a: Vector, b: Vector, half: int, n: int) -> Vector:
        """Items of a and b, n each, by turns, from the lower or upper half of each 128-bit lane."""
        width = 128 // a.type.element.width
        lane = [k for i in range(width // 2) for k in (i + half * width // 2, n + i + half * width // 2)]
        return self.shuffle(a, b, [k + start for start in range(0, n, width) for k in lane])

    def gather(self, sources: list[Vector], wanted: list[int], lanes: int) -> Vector:
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
            lane = [
                i % 16 + n * (i // 16 - first) if i // 16 in (first, first + 1) else k for k, i in enumerate(wanted)
            ]
            places = [k + 16 * j for j in range(lanes) for k in lane]
            parts.append(self.shuffle(sources[first], sources[first + 1], places))
        choice = [k if wanted[k] < 32 else n + k for k in range(16)]
        return self.shuffle(parts[0], parts[1], [k + 16 * j for j in range(lanes) for k in choice])

    def pick(self, source: Vector, places: list[int], lanes: int) -> Vector:
        """In each lane the bytes at `places`, 0 for -1: one instruction, of which LLVM by itself makes dozens."""
        name = {1: "llvm.x86.ssse3.pshuf.b.128", 2: "llvm.x86.avx2.pshuf.b"}[lanes]
        kind = source.type
        function = self.b.module.declare_intrinsic(name, fnty=ir.FunctionType(kind, [kind, kind]))
        return self.b.call(function, [source, vector(I8, places * lanes)])

    def wide(self, numbers: Vector) -> list[Vector]:
        """16 small unsigned numbers as int32, in two vectors."""
        halves = [self.shuffle(numbers, numbers, list(range(8 * h, 8 * h + 8))) for h in (0, 1)]
        return [self.b.zext(half, ir.VectorType(I32, 8)) for half in halves]

    def signed(self, x: Vector) -> Vector:
        """Negabinary to two's complement."""
        mask = same(I32, 8, NEGABINARY)
        return self.b.sub(self.b.xor(x, mask), mask)

    # -- the transform ------------------------------------------------------------------------------------------------

    def inverse_lift(self, x: Vector, y: Vector, z: Vector, w: Vector) -> list[Vector]:
        b, one = self.b, same(I32, 8, 1)
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

    def forward_lift(self, x: Vector, y: Vector, z: Vector, w: Vector) -> list[Vector]:
        b, one = self.b, same(I32, 8, 1)
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

    def turn_planes(self, v: list[list[Vector]]) -> list[list[Vector]]:
        """Rows of [z][y pair] to rows of [y][z pair], or back."""
        out = []
        for y in range(4):
            lane = [4 * (y % 2) + k for k in range(4)]
            places = lane + [8 + k for k in lane]
            out.append([self.shuffle(v[2 * g][y // 2], v[2 * g + 1][y // 2], places) for g in (0, 1)])
        return out

    def turn_rows(self, u: list[Vector]) -> list[Vector]:
        """In each 128-bit lane: four rows of four to four columns."""
        low = [self.interleave(u[0], u[1], h, 8) for h in (0, 1)]
        high = [self.interleave(u[2], u[3], h, 8) for h in (0, 1)]
        out = []
        for h in (0, 1):
            a, b = low[h], high[h]
            out.append(self.shuffle(a, b, [0, 1, 8, 9, 4, 5, 12, 13]))
            out.append(self.shuffle(a, b, [2, 3, 10, 11, 6, 7, 14, 15]))
        return out
