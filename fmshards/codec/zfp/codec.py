"""`zfp`: rows of ZFP fixed-rate blocks (Lindstrom, "Fixed-rate compressed floating-point arrays", 2014).

A member is zfpy's own stream of the chunk's blocks: the row matrix, then zero bytes up to a multiple of 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmshards.codec.base import Bytes, Floats, RowCodec
from fmshards.codec.feature import FeatureSpec, is_int
from fmshards.codec.zfp import on_cuda
from fmshards.codec.zfp.engine import engine
from fmshards.codec.zfp.layout import BLOCK, Layout, Order, first_channel, layout_of
from fmshards.errors import CodecError, FormatError, InputError

if TYPE_CHECKING:
    import torch

    from fmshards.codec.zfp.channel_order import ChannelSample

LEAST_BITS, MOST_BITS = 16, 2048
_SAMPLES = 64  # that a channel order is chosen by where nothing else asks for more
# A block starts with a flag and 8 bits of exponent e, its largest magnitude being under 2^(e - 127). zfp scales by
# 2^(157 - e), which is infinite in float32 for e < 30 (largest magnitude under 2^-98, 3.2e-30): garbage, in place of
# which a block of zeros is stored. With e >= 254 what is decoded may be beyond float32's range.
_LEAST_EXPONENT = 30
_CLOSE_TO_INFINITE = 254


@dataclass(frozen=True)
class ZfpCodec(RowCodec):
    """Rows of `block_bits` bits for each block of 4 x 4 x 4 values; see layout.py for which values make a block.

    A block whose largest magnitude is under 2^-98 (3.2e-30) becomes zeros. Refuses values so close to float32's end
    that they decode to infinity. Padding counts in the rate.
    """

    block_bits: int
    order: Order = None

    name = "zfp"
    rates = f"{LEAST_BITS / BLOCK} to {MOST_BITS / BLOCK:g} bits a value"
    ladder = ("0.5", "1", "1.5", "2", "3", "4", "6", "8")
    keys = ("block_bits",)
    takes_order = True
    multiple = 8

    @property
    def layout(self) -> Layout:
        return layout_of(self.spec, self.order)

    @property
    def row_bytes(self) -> int:
        return self.layout.blocks * self.block_bits // 8

    @property
    def item_bytes(self) -> int:
        """Bytes of a block."""
        return self.block_bits // 8

    def encode_rows(self, x: Floats, rows: Bytes, first: int) -> None:
        engine().encode_rows(x, self.layout, self.block_bits, rows)
        blocks = rows.reshape(len(rows), -1, self.block_bits // 8)
        head = blocks[..., 0] | (blocks[..., 1].astype(np.uint16) << 8)
        exponent = (head >> 1) & 0xFF
        nonzero = (head & 1).astype(bool)
        tiny = nonzero & (exponent < _LEAST_EXPONENT)
        if tiny.any():
            blocks[tiny] = 0
        near = nonzero & (exponent >= _CLOSE_TO_INFINITE)
        if near.any():
            self._refuse_infinite(near, rows, first)

    def decode_rows(self, rows: Bytes, out: torch.Tensor) -> None:
        array = _as_array(out)
        assert array is not None  # `writes` has looked
        engine().decode_rows(rows, self.layout, self.block_bits, array, str(out.dtype))

    def writes(self, out: torch.Tensor) -> bool:
        array = _as_array(out)
        return array is not None and engine().writes(array, str(out.dtype))

    def decoder_on(self, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], None] | None:
        if not on_cuda.available(device):
            return None
        return lambda rows, out: on_cuda.decode(rows, self.layout, self.block_bits, out)

    @classmethod
    def setting(cls, rate: str | float) -> int | None:
        """Bits a block."""
        try:
            bits = float(rate)
        except (ValueError, OverflowError):
            return None
        return 8 * round(bits * BLOCK / 8) if LEAST_BITS / BLOCK <= bits <= MOST_BITS / BLOCK else None

    @classmethod
    def make(cls, setting: int, spec: FeatureSpec, filter: str | None, **found: Any) -> ZfpCodec:
        order = found.get("order")
        stored = None if order is None else tuple(int(c) for c in order)
        if stored is not None and sorted(stored) != list(range(spec.channels)):
            raise InputError(f"order: expected a permutation of {spec.channels} channels, found {str(stored)[:80]}")
        return cls(spec, setting, _no_identity(stored), filter=filter)

    @classmethod
    def read(cls, config: Mapping[str, Any], spec: FeatureSpec, filter: str | None) -> ZfpCodec:
        bits, order = config["block_bits"], config["order"]
        if not is_int(bits) or not LEAST_BITS <= bits <= MOST_BITS or bits % 8:
            raise FormatError(
                f"codec zfp: expected block_bits of {LEAST_BITS} to {MOST_BITS}, a multiple of 8, found "
                f"{str(bits)[:40]}"
            )
        if order is None:
            return cls(spec, bits, filter=filter)
        channels = spec.channels
        numbers = tuple(c for c in order if is_int(c)) if isinstance(order, list) and len(order) == channels else ()
        if sorted(numbers) != list(range(channels)):
            raise FormatError(f"codec: expected an order of {channels} channels, found {str(order)[:80]}")
        return cls(spec, bits, _no_identity(numbers), filter=filter)

    def own_config(self) -> dict[str, Any]:
        return {"block_bits": self.block_bits, "order": None if self.order is None else list(self.order)}

    @classmethod
    def samples_wanted(cls, setting: int, order: str) -> int | None:
        return _SAMPLES if order == "auto" else 0

    @classmethod
    def sample_for(cls, setting: int, spec: FeatureSpec, order: str, samples: int) -> ChannelSample | None:
        if order != "auto":
            return None
        from fmshards.codec.zfp.channel_order import ChannelSample

        return ChannelSample(spec, samples)

    @classmethod
    def fit(
        cls, setting: int, spec: FeatureSpec, sample: Any, channels: Sequence[int] | None, filter: str | None
    ) -> ZfpCodec:
        def codec_of(spec: FeatureSpec, order: Order) -> ZfpCodec:
            return cls.make(setting, spec, None, order=order)

        order = None if sample is None else sample.order(codec_of, channels)
        return cls.make(setting, spec, filter, order=order)

    def _refuse_infinite(self, near: npt.NDArray[np.bool_], rows: Bytes, first: int) -> None:
        for sample in np.flatnonzero(near.any(axis=1)):
            back = self.decode(rows[sample : sample + 1]).numpy()
            if not np.isfinite(back).all():
                channel = first_channel(self.layout, int(np.flatnonzero(near[sample])[0]))
                raise CodecError(
                    f"cannot encode: in sample {first + int(sample)} of the batch, at channel {channel}, a value near "
                    "float32's end (2^126 and above) decodes to infinity; scale the feature, or store it raw (fp32)"
                )


def _as_array(out: torch.Tensor) -> npt.NDArray[Any] | None:
    """The memory of a tensor on the CPU, with its strides; bfloat16, which numpy lacks, as int16. None elsewhere."""
    import torch

    if out.device.type != "cpu":
        return None
    array: npt.NDArray[Any] = (out.view(torch.int16) if out.dtype == torch.bfloat16 else out).numpy()
    return array


def _no_identity(order: Order) -> Order:
    # One way to say "as they are", so that equal codecs compare equal and take the fast path.
    return None if order == tuple(range(len(order or ()))) else order
