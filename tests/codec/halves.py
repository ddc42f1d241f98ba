"""A codec of another package, as CONTRIBUTING.md says to add one: `halves`, multiples of a step in a byte each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fmshards.codec import RowCodec, register


@register
@dataclass(frozen=True)
class HalvesCodec(RowCodec):
    """Values to the nearest multiple of `step`, within 255 of them; its rates are "halves" and "halves-STEP"."""

    step: float

    name = "halves"
    rates = "halves or halves-STEP"
    keys = ("step",)

    @property
    def row_bytes(self):
        return self.spec.values

    def encode_rows(self, x, rows, first):
        rows[:] = np.clip(np.rint(x / self.step), -127, 127).astype(np.int8).view(np.uint8)

    def decode_rows(self, rows, out):
        values = np.ascontiguousarray(rows).view(np.int8).astype(np.float32) * np.float32(self.step)
        out.copy_(torch.from_numpy(values.reshape(out.shape)))

    @classmethod
    def setting(cls, rate):
        name, _, step = str(rate).partition("-")
        return float(step or 0.5) if name == cls.name else None

    @classmethod
    def make(cls, setting, spec, filter, **found):
        return cls(spec, setting, filter=filter)

    @classmethod
    def read(cls, config, spec, filter):
        return cls(spec, config["step"], filter=filter)

    def own_config(self):
        return {"step": self.step}
