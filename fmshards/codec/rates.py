"""From a rate as people write it, or from a stored config, to a codec. The one table of codecs.

What a rate or a config means stands in each codec's own room: a new codec is one more name in `_CODECS`, or, from
outside this package, a call of `register`.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

from fmshards.codec.base import Codec, RowCodec, Sample
from fmshards.codec.dct.codec import DctCodec
from fmshards.codec.feature import FeatureSpec
from fmshards.codec.integer.codec import IntCodec
from fmshards.codec.integer.steps import Steps
from fmshards.codec.members import FILTERS
from fmshards.codec.raw import RawCodec
from fmshards.codec.zfp.codec import ZfpCodec
from fmshards.errors import FormatError, InputError

Rate = str | float

_CODECS: dict[str, type[RowCodec]] = {codec.name: codec for codec in (ZfpCodec, IntCodec, DctCodec, RawCodec)}


def register(codec: type[RowCodec]) -> type[RowCodec]:
    """Add a codec of another package, for this process; a class decorator. Raises InputError for a name that is taken.

    Readers need it registered too, in every worker: put the call where the class is, and import that.
    """
    known = _CODECS.get(codec.name, codec)
    if (known.__module__, known.__qualname__) != (codec.__module__, codec.__qualname__):
        raise InputError(f"codec {codec.name!r} is there already, from {known.__module__}; choose another name")
    if not codec.name.isalnum() or not codec.name.isascii():
        raise InputError(f"codec {codec.name!r}: expected a name of letters and digits, as it ends members' names")
    _CODECS[codec.name] = codec
    return codec


def codec_for(
    rate: Rate,
    spec: FeatureSpec,
    order: Sequence[int] | None = None,
    steps: Steps | None = None,
    filter: str | None = None,
) -> Codec:
    """The codec of a rate: bits a value for zfp (4, "2.5"), "int2" to "int8", or "fp32", "fp16", "bf16" for raw.

    zfp takes rates of 0.25 to 32, rounded to whole bytes a block (steps of 1/8 bit). `order`: a permutation of the
    channels for zfp; the others keep values as they are. "int4" stores a scale and an offset for each sample and
    channel; "int4-channel" has one of each channel, `steps` (see integer/steps.py). `filter`: "zstd" or None. Raises
    InputError.
    """
    codec, setting = _find(rate)
    return codec.make(setting, spec, _check_filter(filter), order=order, steps=steps)


def codec_name(rate: Rate) -> str:
    """The name of the codec that a rate means. Raises InputError, saying which rates there are."""
    return _find(rate)[0].name


def ladders() -> dict[str, tuple[str, ...]]:
    """By codec's name the rates that are worth trying, the fewest bytes first; codecs that name none are left out."""
    return {name: codec.ladder for name, codec in _CODECS.items() if codec.ladder}


def row_bytes_at(rate: Rate, spec: FeatureSpec) -> int:
    """Bytes of a row at a rate, whose codec need not be fitted yet. Raises InputError."""
    codec, setting = _find(rate)
    return codec.row_bytes_at(setting, spec)


def samples_wanted(rate: Rate, order: str) -> int | None:
    """How many calibration samples the codec of a rate is fitted to, at most; None: as many as there are.

    order: "auto", or "none" where channels are to be stored as they are.
    """
    codec, setting = _find(rate)
    return codec.samples_wanted(setting, order)


def sample_for(rate: Rate, spec: FeatureSpec, order: str, samples: int) -> Sample | None:
    """What features are added to before the codec of a rate is fitted; None where it needs nothing.

    order: as in `samples_wanted`. samples: how many features will be added.
    """
    codec, setting = _find(rate)
    return codec.sample_for(setting, spec, order, samples)


def fit(
    rate: Rate,
    spec: FeatureSpec,
    sample: Sample | None,
    channels: Sequence[int] | None = None,
    filter: str | None = None,
) -> Codec:
    """The codec of a rate, fitted to what `sample_for` gave, once features were added.

    spec: the feature that it is for. channels: which of the sample's channels these are; None: all. Raises InputError.
    """
    codec, setting = _find(rate)
    return codec.fit(setting, spec, sample, channels, _check_filter(filter))


def codec_from_config(config: object) -> Codec:
    """The codec that gave this `config()`. Raises FormatError on anything else; allocates nothing for it."""
    name = config.get("codec") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(name, str) or name not in _CODECS:
        known = ", ".join(_CODECS)
        raise FormatError(f"codec: expected {known}, found {str(config)[:100]}; a newer fmshards may know it")
    codec = _CODECS[name]
    wanted = {"codec", "spec", "order", *codec.keys}
    if not wanted - set(codec.later) <= set(config) <= wanted | {"filter"}:
        keys = ", ".join(["spec", "order", *codec.keys])
        raise FormatError(f"codec {name}: expected {keys}, found {str(list(config))[:200]}")
    filter = config.get("filter")
    if "filter" in config and (not isinstance(filter, str) or filter not in FILTERS):
        raise FormatError(
            f"codec {name}: expected a filter of {', '.join(FILTERS)}, found {str(filter)[:40]}; a newer fmshards may "
            "know it"
        )
    spec = FeatureSpec.from_json(config["spec"])
    if config["order"] is not None and not codec.takes_order:
        raise FormatError(f"codec {name}: expected no order, found {str(config['order'])[:80]}")
    return codec.read(config, spec, filter)


def _find(rate: Rate) -> tuple[type[RowCodec], Any]:
    """The codec that a rate means, and what it says to that codec."""
    if isinstance(rate, (str, Real)) and not isinstance(rate, bool):
        for codec in _CODECS.values():
            setting = codec.setting(rate if isinstance(rate, str) else float(rate))
            if setting is not None:
                return codec, setting
    *others, last = (codec.rates for codec in _CODECS.values())
    raise InputError(f"rate {rate!r}: expected {', '.join(others)}, or {last}")


def _check_filter(filter: str | None) -> str | None:
    if filter is not None and filter not in FILTERS:
        raise InputError(f"filter {filter!r}: expected {', '.join(FILTERS)}, or none")
    return filter
