"""`raw`: rows of plain little-endian values, fp32, fp16 or bf16, in the sample's own order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fmshards.codec.base import Bytes, Floats, RowCodec
from fmshards.codec.check import refused, vanished
from fmshards.codec.feature import FeatureSpec
from fmshards.codec.threads import slabs
from fmshards.errors import FormatError

if TYPE_CHECKING:
    import torch

ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
# The largest magnitude that rounds to zero, and the least that rounds to infinity, of ties to even.
_RANGE = {
    "fp32": (0.0, np.inf),
    "fp16": (2.0**-25, 65520.0),
    "bf16": (2.0**-134, 2.0**128 - 2.0**119),
}


@dataclass(frozen=True)
class RawCodec(RowCodec):
    """Rows of the values themselves as `dtype`: "fp32", "fp16" or "bf16" (rounded to nearest, ties to even).

    Refuses values beyond the range of `dtype`, and a sample that is not all zeros but would be stored as zeros.
    """

    dtype: str

    name = "raw"
    rates = ", ".join(ITEM_BYTES)
    ladder = ("fp16",)
    keys = ("dtype",)

    @property
    def row_bytes(self) -> int:
        return self.spec.values * ITEM_BYTES[self.dtype]

    @property
    def item_bytes(self) -> int:
        """Bytes of a value."""
        return ITEM_BYTES[self.dtype]

    def encode_rows(self, x: Floats, rows: Bytes, first: int) -> None:
        import torch

        self._check_range(x, first)
        values = torch.from_numpy(x if x.flags.writeable else x.copy())
        torch.from_numpy(rows).view(self._torch_dtype()).copy_(values)

    def decode_rows(self, rows: Bytes, out: torch.Tensor) -> None:
        import torch

        for first, last in slabs(len(rows), self.spec.values):
            # A copy: rows may be read-only, strided, or start at an odd address.
            values = torch.from_numpy(np.array(rows[first:last], order="C")).view(self._torch_dtype())
            out[first:last].copy_(values.view(last - first, *self.spec.shape))

    def writes(self, out: torch.Tensor) -> bool:
        return True

    @classmethod
    def setting(cls, rate: str | float) -> str | None:
        return rate if isinstance(rate, str) and rate in ITEM_BYTES else None

    @classmethod
    def make(cls, setting: str, spec: FeatureSpec, filter: str | None, **found: Any) -> RawCodec:
        return cls(spec, setting, filter=filter)

    @classmethod
    def read(cls, config: Mapping[str, Any], spec: FeatureSpec, filter: str | None) -> RawCodec:
        dtype = config["dtype"]
        if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
            raise FormatError(f"codec raw: expected a dtype of {', '.join(ITEM_BYTES)}, found {str(dtype)[:40]}")
        return cls(spec, dtype, filter=filter)

    def own_config(self) -> dict[str, Any]:
        return {"dtype": self.dtype}

    def _torch_dtype(self) -> torch.dtype:
        import torch

        return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[self.dtype]

    def _check_range(self, x: Floats, first: int) -> None:
        vanishes, infinite = _RANGE[self.dtype]
        peak = np.maximum(x.max(1), -x.min(1))
        if peak.max(initial=0) >= infinite:
            sample, value = (int(i) for i in np.argwhere(np.abs(x) >= infinite)[0])
            why = f"is too large for {self.dtype}; store fp32 or bf16"
            raise refused(self.spec, first + sample, value, why, x[sample, value])
        lost = np.flatnonzero((peak > 0) & (peak <= vanishes))
        if len(lost):
            sample = int(lost[0])
            raise vanished(self.spec, first + sample, x[sample], f"{self.dtype}; store fp32, or scale the feature")
