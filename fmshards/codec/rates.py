"""A codec from a rate as people write it, or from its stored config."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from fmshards.codec.feature import FeatureSpec, is_int
from fmshards.codec.filter import FILTERS, FilteredCodec
from fmshards.codec.integer.codec import LEAST_BITS as LEAST_INT
from fmshards.codec.integer.codec import MOST_BITS as MOST_INT
from fmshards.codec.integer.codec import IntCodec, Steps
from fmshards.codec.raw import ITEM_BYTES, RawCodec
from fmshards.codec.zfp.codec import LEAST_BITS, MOST_BITS, ZfpCodec
from fmshards.codec.zfp.layout import BLOCK, Order
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
    @property
    def item_bytes(self) -> int: ...
    def encode(self, x: torch.Tensor | npt.NDArray[Any]) -> npt.NDArray[np.uint8]: ...
    def decode(
        self,
        rows: torch.Tensor | npt.NDArray[np.uint8],
        out: torch.Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor: ...
    def member(self, rows: npt.NDArray[np.uint8]) -> bytes: ...
    def member_bytes(self, n: int) -> tuple[int, int]: ...
    def rows(self, member: bytes, n: int) -> npt.NDArray[np.uint8]: ...
    def config(self) -> dict[str, Any]: ...


_INT = re.compile(r"int([0-9]+)(-channel)?")


def codec_for(
    rate: str | float,
    spec: FeatureSpec,
    order: Sequence[int] | None = None,
    steps: Steps | None = None,
    filter: str | None = None,
) -> Codec:
    """The codec of a rate: bits a value for zfp (4, "2.5"), "int2" to "int8", or "fp32", "fp16", "bf16" for raw.

    zfp takes rates of 0.25 to 32, rounded to whole bytes a block (steps of 1/8 bit). `order`: a permutation of the
    channels for zfp; the others keep values as they are. "int4" stores a scale and an offset for each sample and
    channel; "int4-channel" has one of each channel, `steps` (see steps.py). `filter`: "zstd" or None. Raises
    InputError.
    """
    codec = _codec_for(rate, spec, order, steps)
    if filter is None:
        return codec
    if filter not in FILTERS:
        raise InputError(f"filter {filter!r}: expected {', '.join(FILTERS)}, or none")
    return FilteredCodec(codec)


def channel_bits(rate: str | float) -> int | None:
    """b where the rate is "int<b>-channel", which `codec_for` needs steps for; else None."""
    found = _INT.fullmatch(rate) if isinstance(rate, str) else None
    if found is None or found[2] is None or not LEAST_INT <= int(found[1]) <= MOST_INT:
        return None
    return int(found[1])


def codec_name(rate: str | float) -> str:
    """The codec that a rate asks for: "zfp", "int" or "raw". Raises InputError for what is no rate."""
    if isinstance(rate, str) and rate in ITEM_BYTES:
        return RawCodec.name
    found = _INT.fullmatch(rate) if isinstance(rate, str) else None
    if found and LEAST_INT <= int(found[1]) <= MOST_INT:
        return IntCodec.name
    try:
        bits = math.nan if isinstance(rate, bool) else float(rate)
    except (TypeError, ValueError):
        bits = math.nan
    least, most = LEAST_BITS / BLOCK, MOST_BITS / BLOCK
    if least <= bits <= most:
        return ZfpCodec.name
    ints = f"int{LEAST_INT} to int{MOST_INT}, int{LEAST_INT}-channel to int{MOST_INT}-channel"
    raise InputError(f"rate {rate!r}: expected {least} to {most:g} bits a value, {ints}, or {', '.join(ITEM_BYTES)}")


def _codec_for(rate: str | float, spec: FeatureSpec, order: Sequence[int] | None, steps: Steps | None) -> Codec:
    name = codec_name(rate)
    if name == RawCodec.name:
        return RawCodec(spec, str(rate))
    if name == IntCodec.name:
        found = _INT.fullmatch(str(rate))
        assert found is not None  # codec_name has looked
        if (found[2] is None) != (steps is None):
            raise InputError(f"rate {rate!r}: a scale and an offset for each channel are needed where it says -channel")
        return IntCodec(spec, int(found[1]), steps)
    stored = None if order is None else tuple(int(c) for c in order)
    if stored is not None and sorted(stored) != list(range(spec.channels)):
        raise InputError(f"order: expected a permutation of {spec.channels} channels, found {str(stored)[:80]}")
    return ZfpCodec(spec, 8 * round(float(rate) * BLOCK / 8), _no_identity(stored))


_OWN = {"zfp": ("block_bits",), "int": ("bits", "scale", "offset"), "raw": ("dtype",)}


def codec_from_config(config: object) -> Codec:
    """The codec that gave this `config()`. Raises FormatError on anything else; allocates nothing for it."""
    name = config.get("codec") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(name, str) or name not in _OWN:
        raise FormatError(f"codec: expected {', '.join(_OWN)}, found {str(config)[:100]}; a newer fmshards may know it")
    own = {key: value for key, value in config.items() if key != "filter"}
    if set(own) != {"codec", "spec", "order", *_OWN[name]}:
        keys = ", ".join(_OWN[name])
        raise FormatError(f"codec {name}: expected spec, order, {keys}, found {str(list(config))[:200]}")
    if "filter" not in config:
        return _read(name, own)
    if not isinstance(config["filter"], str) or config["filter"] not in FILTERS:
        raise FormatError(
            f"codec {name}: expected a filter of {', '.join(FILTERS)}, found {str(config['filter'])[:40]}; a newer "
            "fmshards may know it"
        )
    return FilteredCodec(_read(name, own))


def _read(name: str, config: dict[str, Any]) -> Codec:
    spec, order = FeatureSpec.from_json(config["spec"]), config["order"]
    if name == "zfp":
        bits = config["block_bits"]
        if not is_int(bits) or not LEAST_BITS <= bits <= MOST_BITS or bits % 8:
            raise FormatError(
                f"codec zfp: expected block_bits of {LEAST_BITS} to {MOST_BITS}, a multiple of 8, found "
                f"{str(bits)[:40]}"
            )
        return ZfpCodec(spec, bits, _read_order(order, spec.channels))
    if order is not None:
        raise FormatError(f"codec {name}: expected no order, found {str(order)[:80]}")
    if name == "int":
        bits = config["bits"]
        if not is_int(bits) or not LEAST_INT <= bits <= MOST_INT:
            raise FormatError(f"codec int: expected bits of {LEAST_INT} to {MOST_INT}, found {str(bits)[:40]}")
        if config["scale"] is None and config["offset"] is None:
            return IntCodec(spec, bits)
        scale, offset = (_read_floats(key, config[key], spec.channels) for key in ("scale", "offset"))
        if min(scale) < 0:
            raise FormatError(f"codec int: expected scales of 0 or more, found {min(scale)}")
        return IntCodec(spec, bits, (scale, offset))
    dtype = config["dtype"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise FormatError(f"codec raw: expected a dtype of {', '.join(ITEM_BYTES)}, found {str(dtype)[:40]}")
    return RawCodec(spec, dtype)


def _read_floats(key: str, values: object, channels: int) -> tuple[float, ...]:
    numbers = values if isinstance(values, list) and len(values) == channels else []
    with np.errstate(over="ignore"):
        exact = [type(v) is float and math.isfinite(v) and float(np.float32(v)) == v for v in numbers]
    if not numbers or not all(exact):
        raise FormatError(f"codec int: expected {channels} float32 numbers as {key}, found {str(values)[:80]}")
    return tuple(numbers)


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
