"""`dct`: rows of exactly a stated size: blocks of 4 x 4, transformed where that pays, and their levels said by prefix
codes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fmshards.codec.base import Bytes, Floats, RowCodec
from fmshards.codec.check import refused
from fmshards.codec.dct import engine, on_cuda
from fmshards.codec.dct.blocks import Blocks
from fmshards.codec.dct.fit import DctSample, fit_tables
from fmshards.codec.dct.tables import Arrays, Tables, arrays, usual
from fmshards.codec.feature import FeatureSpec, is_int
from fmshards.errors import FormatError

if TYPE_CHECKING:
    import torch

LEAST_RATE, MOST_RATE = Fraction(1, 10), Fraction(4)
TOO_LARGE = np.float32(2.0**64)

_RATE = re.compile(r"dct([0-9]{1,2}(?:\.[0-9]{1,6})?)")


@dataclass(frozen=True)
class DctCodec(RowCodec):
    """Rows of `row_bytes` bytes. tables: what levels are said with and what they mean, fitted to a sample.

    What does not fit into a row is rounded more coarsely, all of a sample alike; values of 2^64 and more are refused.
    A row whose events need less is filled with zero bytes.
    """

    bytes_: int
    tables: Tables

    name = "dct"
    rates = "dct0.1 to dct4"
    ladder = ("dct0.1", "dct0.25", "dct0.5", "dct0.75", "dct1", "dct1.5", "dct2", "dct3", "dct4")
    keys = ("row_bytes", "transformed", "codes", "shifts", "gains", "means", "offsets", "nonnegative")
    later = ("transformed",)

    @cached_property
    def blocks(self) -> Blocks:
        return Blocks(self.spec)

    @cached_property
    def arrays(self) -> Arrays:
        """The tables as engines take them."""
        return arrays(self.tables, self.blocks)

    @property
    def row_bytes(self) -> int:
        return self.bytes_

    def encode_rows(self, x: Floats, rows: Bytes, first: int) -> None:
        if np.abs(x).max(initial=0) >= TOO_LARGE:
            sample, value = (int(i) for i in np.argwhere(np.abs(x) >= TOO_LARGE)[0])
            why = "is 2^64 or more, too large for dct; scale the feature, or store it raw (fp32)"
            raise refused(self.spec, first + sample, value, why, float(x[sample, value]))
        engine.encode_rows(x, self.blocks, self.arrays, rows)

    def decode_rows(self, rows: Bytes, out: torch.Tensor) -> None:
        engine.decode_rows(rows, self.blocks, self.arrays, out)

    def writes(self, out: torch.Tensor) -> bool:
        return engine.straight(out)

    def decoder_on(self, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], None] | None:
        if not on_cuda.available(device):
            return None
        return lambda rows, out: on_cuda.decode(rows, self.blocks, self.arrays, out)

    @classmethod
    def setting(cls, rate: str | float) -> Fraction | None:
        """Bits a value."""
        found = _RATE.fullmatch(rate) if isinstance(rate, str) else None
        bits = None if found is None else Fraction(found[1])
        return bits if bits is not None and LEAST_RATE <= bits <= MOST_RATE else None

    @classmethod
    def make(cls, setting: Fraction, spec: FeatureSpec, filter: str | None, **found: Any) -> DctCodec:
        """tables: those of a fit; without, some that fit nothing in particular."""
        return cls(spec, cls.row_bytes_at(setting, spec), found.get("tables") or usual(Blocks(spec)), filter=filter)

    @classmethod
    def row_bytes_at(cls, setting: Fraction, spec: FeatureSpec) -> int:
        """The rate's, rounded up; never less than what begins a row."""
        return max(math.ceil(setting * spec.values / 8), Blocks(spec).head)

    @classmethod
    def read(cls, config: Mapping[str, Any], spec: FeatureSpec, filter: str | None) -> DctCodec:
        size, least, most = config["row_bytes"], Blocks(spec).head, cls.row_bytes_at(MOST_RATE, spec)
        if not is_int(size) or not least <= size <= most:
            raise FormatError(f"codec dct: expected row_bytes of {least} to {most}, found {str(size)[:40]}")
        return cls(spec, size, Tables.from_json(config, Blocks(spec)), filter=filter)

    def own_config(self) -> dict[str, Any]:
        return {"row_bytes": self.bytes_, **self.tables.to_json()}

    @classmethod
    def samples_wanted(cls, setting: Fraction, order: str) -> int | None:
        return None

    @classmethod
    def sample_for(cls, setting: Fraction, spec: FeatureSpec, order: str, samples: int) -> DctSample:
        return DctSample(spec, samples)

    @classmethod
    def fit(
        cls, setting: Fraction, spec: FeatureSpec, sample: Any, channels: Sequence[int] | None, filter: str | None
    ) -> DctCodec:
        if sample is None:
            return cls.make(setting, spec, filter)
        x = sample.features(channels)
        return cls.make(setting, spec, filter, tables=fit_tables(x, spec, cls.row_bytes_at(setting, spec)))
