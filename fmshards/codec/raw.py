"""`raw`: rows of plain little-endian values, fp32, fp16 or bf16, in the sample's own order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmshards.codec.check import check_batch, check_rows, float32_slab, output, slabs, vanished
from fmshards.codec.feature import FeatureSpec
from fmshards.codec.plain_members import PlainMembers
from fmshards.codec.zfp.layout import channel_of_value
from fmshards.errors import CodecError

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
class RawCodec(PlainMembers):
    """Rows of the values themselves as `dtype`: "fp32", "fp16" or "bf16" (rounded to nearest, ties to even)."""

    spec: FeatureSpec
    dtype: str

    name = "raw"
    extension = "raw"
    order = None

    @property
    def row_bytes(self) -> int:
        return self.spec.values * ITEM_BYTES[self.dtype]

    @property
    def rate(self) -> float:
        """Bits for each value of the feature."""
        return 8.0 * ITEM_BYTES[self.dtype]

    @property
    def item_bytes(self) -> int:
        """Bytes of a value, of which a filter takes the first, then the second ... together."""
        return ITEM_BYTES[self.dtype]

    def encode(self, x: torch.Tensor | npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Encode x, floating-point [n, *shape], into uint8 [n, row_bytes].

        Raises CodecError, naming sample and channel, for values that are not finite or beyond the range of `dtype`, and
        for a sample whose values are not all zero but would all be stored as zeros.
        """
        import torch

        check_batch(x, self.spec)
        stored = torch.empty((len(x), self.spec.values), dtype=self._torch_dtype())
        for first, last in slabs(len(x), self.spec.values):
            flat = float32_slab(x, first, last, self.spec)
            part = stored[first:last]
            part.copy_(torch.from_numpy(flat if flat.flags.writeable else flat.copy()))
            self._check_range(flat, first)
        return stored.view(torch.uint8).numpy()

    def decode(
        self,
        rows: torch.Tensor | npt.NDArray[np.uint8],
        out: torch.Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Decode rows, uint8 [B, row_bytes] (any strides), into [B, *shape]; `out` and `dtype` as in ZfpCodec."""
        import torch

        data = check_rows(rows, self.row_bytes)
        to = output(len(data), self.spec, rows, out, dtype)
        for first, last in slabs(len(data), self.spec.values):
            # A copy: rows may be read-only, strided, or start at an odd address.
            values = torch.from_numpy(np.array(data[first:last], order="C")).view(self._torch_dtype())
            to[first:last].copy_(values.view(last - first, *self.spec.shape))
        return to if out is None else out

    def config(self) -> dict[str, Any]:
        """All of the codec, as JSON; `codec_from_config` reads it."""
        return {"codec": "raw", "spec": self.spec.to_json(), "order": None, "dtype": self.dtype}

    def _torch_dtype(self) -> torch.dtype:
        import torch

        return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[self.dtype]

    def _check_range(self, flat: npt.NDArray[np.float32], first: int) -> None:
        vanishes, infinite = _RANGE[self.dtype]
        peak = np.maximum(flat.max(1), -flat.min(1))
        if peak.max(initial=0) >= infinite:
            sample, value = (int(i) for i in np.argwhere(np.abs(flat) >= infinite)[0])
            raise CodecError(
                f"cannot encode: {flat[sample, value]} in sample {first + sample} of the batch, channel "
                f"{channel_of_value(self.spec, value)}, is too large for {self.dtype}; store fp32 or bf16"
            )
        lost = np.flatnonzero((peak > 0) & (peak <= vanishes))
        if len(lost):
            sample = int(lost[0])
            raise vanished(flat[sample], first + sample, self.spec, self.dtype)
