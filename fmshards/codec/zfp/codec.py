"""`zfp`: rows of ZFP fixed-rate blocks (Lindstrom, "Fixed-rate compressed floating-point arrays", 2014).

A member is zfpy's own stream of the chunk's blocks: the row matrix, then zero bytes up to a multiple of 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from fmshards.codec import on_cuda
from fmshards.codec.check import as_array, check_batch, check_rows, float32_slab, output, slabs
from fmshards.codec.feature import FeatureSpec
from fmshards.codec.threads import over_rows
from fmshards.codec.zfp.engine import engine
from fmshards.codec.zfp.layout import Layout, Order, channel_of_block, layout_of
from fmshards.errors import CodecError, CorruptError

if TYPE_CHECKING:
    import torch

LEAST_BITS, MOST_BITS = 16, 2048
_WORD = 8
# A block starts with a flag and 8 bits of exponent e, its largest magnitude being under 2^(e - 127). zfp scales by
# 2^(157 - e), which is infinite in float32 for e < 30 (largest magnitude under 2^-98, 3.2e-30): garbage, in place of
# which a block of zeros is stored. With e >= 254 what is decoded may be beyond float32's range.
_LEAST_EXPONENT = 30
_CLOSE_TO_INFINITE = 254


@dataclass(frozen=True)
class ZfpCodec:
    """Rows of `block_bits` bits for each block of 4 x 4 x 4 values; see layout.py for which values make a block."""

    spec: FeatureSpec
    block_bits: int
    order: Order = None

    name = "zfp"
    extension = "zfp"

    @property
    def layout(self) -> Layout:
        return layout_of(self.spec, self.order)

    @property
    def row_bytes(self) -> int:
        return self.layout.blocks * self.block_bits // 8

    @property
    def rate(self) -> float:
        """Bits for each value of the feature, padding counted."""
        return 8 * self.row_bytes / self.spec.values

    @property
    def item_bytes(self) -> int:
        """Bytes of a block, of which a filter takes the first, then the second ... together."""
        return self.block_bits // 8

    def encode(self, x: torch.Tensor | npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Encode x, floating-point [n, *shape], into uint8 [n, row_bytes].

        A block whose largest magnitude is under 2^-98 (3.2e-30) becomes zeros. Raises CodecError, naming sample and
        channel, for values that are not finite, or so close to float32's end that they decode to infinity.
        """
        check_batch(x, self.spec)
        layout = self.layout
        rows = np.empty((len(x), self.row_bytes), np.uint8)

        def part(first: int, last: int) -> None:
            for a, b in slabs(last - first, self.spec.values):
                chosen = slice(first + a, first + b)
                flat = float32_slab(x, chosen.start, chosen.stop, self.spec)
                engine().encode_rows(flat, layout, self.block_bits, rows[chosen])
                self._mend_exponents(rows[chosen], chosen.start)

        over_rows(part, len(x), self.spec.values)
        return rows

    def decode(
        self,
        rows: torch.Tensor | npt.NDArray[np.uint8],
        out: torch.Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Decode rows, uint8 [B, row_bytes] (any strides, from any chunks), into [B, *shape].

        out: a floating-point tensor of that shape, any strides and device, filled and returned; else a new one of
        `dtype` (float32) on the device of `rows`. Values beyond float16 become infinite there, as in torch. Any bytes
        decode to something: checksums are checked before. Raises CodecError where the shapes do not fit.
        """
        import torch

        done = on_cuda.try_zfp(rows, self.layout, self.block_bits, out, dtype)
        if done is not None:
            return done
        data = check_rows(rows, self.row_bytes)
        to = output(len(data), self.spec, rows, out, dtype)
        how, layout, array, kind = engine(), self.layout, as_array(to), str(to.dtype)

        def part(first: int, last: int) -> None:
            if array is not None and how.writes(array, kind):
                how.decode_rows(data[first:last], layout, self.block_bits, array[first:last], kind)
                return
            for a, b in slabs(last - first, self.spec.values):
                slab = torch.empty((b - a, *self.spec.shape))
                chosen = slice(first + a, first + b)
                how.decode_rows(data[chosen], layout, self.block_bits, slab.numpy(), "torch.float32")
                to[chosen].copy_(slab)

        over_rows(part, len(data), self.spec.values)
        return to if out is None else out

    def member(self, rows: npt.NDArray[np.uint8]) -> bytes:
        """The stored member of a chunk: zfpy's bytes."""
        data = check_rows(rows, self.row_bytes)
        return data.tobytes() + bytes(-data.size % _WORD)

    def member_bytes(self, n: int) -> tuple[int, int]:
        """The fewest and the most bytes that a member of n rows can have."""
        used = n * self.row_bytes
        return used + -used % _WORD, used + -used % _WORD

    def rows(self, member: bytes, n: int) -> npt.NDArray[np.uint8]:
        """uint8 [n, row_bytes], a read-only view of a member. Raises CorruptError on a wrong length."""
        used, (expected, _) = n * self.row_bytes, self.member_bytes(n)
        if n < 0 or len(member) != expected:
            raise CorruptError(f"expected a zfp member of {expected} bytes for {n} samples, found {len(member)}")
        return np.frombuffer(member, np.uint8, used).reshape(n, self.row_bytes)

    def config(self) -> dict[str, Any]:
        """All of the codec, as JSON; `codec_from_config` reads it."""
        order = None if self.order is None else list(self.order)
        return {"codec": "zfp", "spec": self.spec.to_json(), "order": order, "block_bits": self.block_bits}

    def _mend_exponents(self, rows: npt.NDArray[np.uint8], first: int) -> None:
        """Blocks too small for ZFP's arithmetic become zeros, in place; those too large are refused."""
        blocks = rows.reshape(len(rows), -1, self.block_bits // 8)
        head = blocks[..., 0] | (blocks[..., 1].astype(np.uint16) << 8)
        exponent = (head >> 1) & 0xFF
        nonzero = (head & 1).astype(bool)
        tiny = nonzero & (exponent < _LEAST_EXPONENT)
        if tiny.any():
            blocks[tiny] = 0
        near = nonzero & (exponent >= _CLOSE_TO_INFINITE)
        for sample in np.flatnonzero(near.any(axis=1)):
            back = self.decode(rows[sample : sample + 1]).numpy()
            if not np.isfinite(back).all():
                self._refuse(
                    near[sample : sample + 1],
                    first + int(sample),
                    "a value near float32's end (2^126 and above) decodes to infinity",
                )

    def _refuse(self, bad: npt.NDArray[np.bool_], first: int, why: str) -> NoReturn:
        sample, block = (int(i) for i in np.argwhere(bad)[0])
        raise CodecError(
            f"cannot encode: in sample {first + sample} of the batch, at channel "
            f"{channel_of_block(self.layout, block)}, {why}; scale the feature, or store it raw (fp32)"
        )
