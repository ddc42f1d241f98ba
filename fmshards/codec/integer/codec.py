"""`int`: rows of codes of 2 to 8 bits, a scale and an offset for each run of values: of each sample and channel, in the
row, or of each channel, in the config."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fmshards.codec.base import Bytes, Floats, RowCodec
from fmshards.codec.check import refused
from fmshards.codec.feature import FeatureSpec, is_int
from fmshards.codec.integer import engine, on_cuda
from fmshards.codec.integer.runs import Runs
from fmshards.codec.integer.steps import Steps, StepSample, fit_steps
from fmshards.errors import FormatError, InputError

if TYPE_CHECKING:
    import torch

LEAST_BITS, MOST_BITS = 2, 8

_RATE = re.compile(r"int([0-9]+)(-channel)?")
_CLOSE_TO_INFINITE = np.float32(2.0**126)


@dataclass(frozen=True)
class IntCodec(RowCodec):
    """Rows of `bits` a value, 2 to 8. steps: None, or the scale and offset of each channel, exactly float32.

    With steps of channels, values beyond what the codes cover become the nearest that they do. Refuses values so large
    that they decode to infinity. Scales and offsets in the row count in the rate.
    """

    bits: int
    steps: Steps | None = None

    name = "int"
    rates = f"int{LEAST_BITS} to int{MOST_BITS}, int{LEAST_BITS}-channel to int{MOST_BITS}-channel"
    ladder = tuple(f"int{bits}" for bits in range(LEAST_BITS, MOST_BITS + 1))
    keys = ("bits", "scale", "offset")

    @cached_property
    def runs(self) -> Runs:
        """How a row holds the feature; what engines are given."""
        if self.steps is None:
            return Runs(self.spec, self.bits, None)
        scale, offset = (np.array(part, np.float32) for part in self.steps)
        return Runs(self.spec, self.bits, (scale, offset))

    @property
    def row_bytes(self) -> int:
        return self.runs.row_bytes

    @property
    def item_bytes(self) -> int:
        """Bytes that codes fill again and again."""
        return self.bits // math.gcd(self.bits, 8)

    def encode_rows(self, x: Floats, rows: Bytes, first: int) -> None:
        engine.encode_rows(x, self.runs, rows)
        if np.abs(x).max(initial=0) < _CLOSE_TO_INFINITE:
            return
        back = self.decode(rows).numpy().reshape(len(rows), -1)
        bad = np.argwhere(~np.isfinite(back))
        if len(bad):
            sample, value = (int(i) for i in bad[0])
            why = "a value near float32's end (2^126 and above) decodes to infinity; scale it, or store it raw (fp32)"
            raise refused(self.spec, first + sample, value, why)

    def decode_rows(self, rows: Bytes, out: torch.Tensor) -> None:
        engine.decode_rows(rows, self.runs, out)

    def writes(self, out: torch.Tensor) -> bool:
        return engine.straight(out, self.runs)

    def decoder_on(self, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], None] | None:
        if not on_cuda.available(device):
            return None
        return lambda rows, out: on_cuda.decode(rows, self.spec, self.bits, self.steps, out)

    @classmethod
    def setting(cls, rate: str | float) -> tuple[int, bool] | None:
        """Bits a value, and whether steps are of whole channels."""
        found = _RATE.fullmatch(rate) if isinstance(rate, str) else None
        if found is None or not LEAST_BITS <= int(found[1]) <= MOST_BITS:
            return None
        return int(found[1]), found[2] is not None

    @classmethod
    def make(cls, setting: tuple[int, bool], spec: FeatureSpec, filter: str | None, **found: Any) -> IntCodec:
        bits, of_channels = setting
        steps = found.get("steps")
        if of_channels != (steps is not None):
            raise InputError(
                f"rate int{bits}: a scale and an offset for each channel are needed where it says -channel"
            )
        return cls(spec, bits, steps, filter=filter)

    @classmethod
    def row_bytes_at(cls, setting: tuple[int, bool], spec: FeatureSpec) -> int:
        bits, of_channels = setting
        any_steps = ((1.0,) * spec.channels, (0.0,) * spec.channels)  # a row is as long with these as with others
        return cls(spec, bits, any_steps if of_channels else None).row_bytes

    @classmethod
    def read(cls, config: Mapping[str, Any], spec: FeatureSpec, filter: str | None) -> IntCodec:
        bits = config["bits"]
        if not is_int(bits) or not LEAST_BITS <= bits <= MOST_BITS:
            raise FormatError(f"codec int: expected bits of {LEAST_BITS} to {MOST_BITS}, found {str(bits)[:40]}")
        if config["scale"] is None and config["offset"] is None:
            return cls(spec, bits, filter=filter)
        scale, offset = (_floats(key, config[key], spec.channels) for key in ("scale", "offset"))
        if min(scale) < 0:
            raise FormatError(f"codec int: expected scales of 0 or more, found {min(scale)}")
        return cls(spec, bits, (scale, offset), filter=filter)

    def own_config(self) -> dict[str, Any]:
        scale, offset = (None, None) if self.steps is None else map(list, self.steps)
        return {"bits": self.bits, "scale": scale, "offset": offset}

    @classmethod
    def samples_wanted(cls, setting: tuple[int, bool], order: str) -> int | None:
        return None if setting[1] else 0

    @classmethod
    def sample_for(cls, setting: tuple[int, bool], spec: FeatureSpec, order: str, samples: int) -> StepSample | None:
        return StepSample(spec) if setting[1] else None

    @classmethod
    def fit(
        cls, setting: Any, spec: FeatureSpec, sample: Any, channels: Sequence[int] | None, filter: str | None
    ) -> IntCodec:
        if sample is None:
            return cls.make(setting, spec, filter)
        known = sample if channels is None else sample.select(tuple(channels))
        return cls.make(setting, spec, filter, steps=fit_steps(known, setting[0], filter is not None))


def _floats(key: str, values: object, channels: int) -> tuple[float, ...]:
    numbers = values if isinstance(values, list) and len(values) == channels else []
    with np.errstate(over="ignore"):
        exact = [type(v) is float and math.isfinite(v) and float(np.float32(v)) == v for v in numbers]
    if not numbers or not all(exact):
        raise FormatError(f"codec int: expected {channels} float32 numbers as {key}, found {str(values)[:80]}")
    return tuple(numbers)
