"""A codec from a rate as people write it, or from its stored config."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from fmshards.codec.feature import FeatureSpec, is_int
from fmshards.codec.layout import BLOCK, Order
from fmshards.codec.raw import ITEM_BYTES, RawCodec
from fmshards.codec.zfp import LEAST_BITS, MOST_BITS, ZfpCodec
from fmshards.errors import FormatError, InputError

if TYPE_CHECKING:
    import torch


class Codec(Protocol):
    """Fixed-size rows: what every codec does. See ZfpCodec for shapes, dtypes and errors."""

    @property
    def name(self) -> str: ...
    @property
    def extension(self) -> str: ...
    @property
    def spec(self) -> FeatureSpec: ...
    @property
    def order(self) -> Order: ...
    @property
    def row_bytes(self) -> int: ...
    @property
    def rate(self) -> float: ...
    def encode(self, x: torch.Tensor | npt.NDArray[Any]) -> npt.NDArray[np.uint8]: ...
    def decode(
        self,
        rows: torch.Tensor | npt.NDArray[np.uint8],
        out: torch.Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor: ...
    def member(self, rows: npt.NDArray[np.uint8]) -> bytes: ...
    def rows(self, member: bytes, n: int) -> npt.NDArray[np.uint8]: ...
    def config(self) -> dict[str, Any]: ...


def codec_for(rate: str | float, spec: FeatureSpec, order: Sequence[int] | None = None) -> Codec:
    """The codec of a rate: bits a value for zfp (4, "2.5"), or "fp32", "fp16", "bf16" for raw.

    zfp takes rates of 0.25 to 32, rounded to whole bytes a block (steps of 1/8 bit). `order`: a permutation of the
    channels for zfp; raw keeps values as they are. Raises InputError.
    """
    if isinstance(rate, str) and rate in ITEM_BYTES:
        return RawCodec(spec, rate)
    try:
        bits = math.nan if isinstance(rate, bool) else float(rate)
    except (TypeError, ValueError):
        bits = math.nan
    least, most = LEAST_BITS / BLOCK, MOST_BITS / BLOCK
    if not least <= bits <= most:
        raise InputError(f"rate {rate!r}: expected {least} to {most:g} bits a value, or {', '.join(ITEM_BYTES)}")
    stored = None if order is None else tuple(int(c) for c in order)
    if stored is not None and sorted(stored) != list(range(spec.channels)):
        raise InputError(f"order: expected a permutation of {spec.channels} channels, found {str(stored)[:80]}")
    return ZfpCodec(spec, 8 * round(bits * BLOCK / 8), _no_identity(stored))


def codec_from_config(config: object) -> Codec:
    """The codec that gave this `config()`. Raises FormatError on anything else; allocates nothing for it."""
    if not isinstance(config, dict) or config.get("codec") not in ("zfp", "raw"):
        raise FormatError(f"codec: expected zfp or raw, found {str(config)[:100]}; a newer fmshards may know it")
    own = "block_bits" if config["codec"] == "zfp" else "dtype"
    if set(config) != {"codec", "spec", "order", own}:
        raise FormatError(f"codec {config['codec']}: expected spec, order and {own}, found {str(list(config))[:200]}")
    spec = FeatureSpec.from_json(config["spec"])
    order, value = config["order"], config[own]
    if own == "dtype":
        if not isinstance(value, str) or value not in ITEM_BYTES or order is not None:
            raise FormatError(f"codec raw: expected a dtype of {', '.join(ITEM_BYTES)} and no order")
        return RawCodec(spec, value)
    if not is_int(value) or not LEAST_BITS <= value <= MOST_BITS or value % 8:
        raise FormatError(
            f"codec zfp: expected block_bits of {LEAST_BITS} to {MOST_BITS}, a multiple of 8, found {str(value)[:40]}"
        )
    return ZfpCodec(spec, value, _read_order(order, spec.channels))


def _read_order(order: object, channels: int) -> Order:
    if order is None:
        return None
    numbers = tuple(c for c in order if is_int(c)) if isinstance(order, list) and len(order) == channels else ()
    if sorted(numbers) != list(range(channels)):
        raise FormatError(f"codec: expected an order of {channels} channels, found {str(order)[:80]}")
    return _no_identity(numbers)


def _no_identity(order: Order) -> Order:
    # One way to say "as they are", so that equal codecs compare equal and take the fast path.
    return None if order == tuple(range(len(order or ()))) else order
