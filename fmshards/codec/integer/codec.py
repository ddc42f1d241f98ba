"""`int`: rows of codes of 2 to 8 bits, a scale and an offset for each run of values: of each sample and channel, in the
row, or of each channel, in the config."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmshards.codec import on_cuda
from fmshards.codec.check import check_batch, check_rows, float32_slab, output, slabs
from fmshards.codec.feature import FeatureSpec
from fmshards.codec.integer import engine
from fmshards.codec.plain_members import PlainMembers
from fmshards.codec.threads import over_rows
from fmshards.codec.zfp.layout import channel_of_value
from fmshards.errors import CodecError

if TYPE_CHECKING:
    import torch

LEAST_BITS, MOST_BITS = 2, 8
Steps = tuple[tuple[float, ...], tuple[float, ...]]

_CLOSE_TO_INFINITE = np.float32(2.0**126)


@dataclass(frozen=True)
class IntCodec(PlainMembers):
    """Rows of `bits` a value, 2 to 8. steps: None, or the scale and offset of each channel, exactly float32."""

    spec: FeatureSpec
    bits: int
    steps: Steps | None = None

    name = "int"
    extension = "int"
    order = None

    @cached_property
    def runs(self) -> engine.Runs:
        """How a row holds the feature; what engines are given."""
        if self.steps is None:
            return engine.Runs(self.spec, self.bits, None)
        scale, offset = (np.array(part, np.float32) for part in self.steps)
        return engine.Runs(self.spec, self.bits, (scale, offset))

    @property
    def row_bytes(self) -> int:
        return self.runs.row_bytes

    @property
    def rate(self) -> float:
        """Bits for each value of the feature, scales and offsets in the row counted."""
        return 8 * self.row_bytes / self.spec.values

    @property
    def item_bytes(self) -> int:
        """Bytes that codes fill again and again, of which a filter takes the first, then the second ... together."""
        return self.bits // math.gcd(self.bits, 8)

    def encode(self, x: torch.Tensor | npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Encode x, floating-point [n, *shape], into uint8 [n, row_bytes].

        With steps of channels, values beyond what the codes cover become the nearest that they do. Raises CodecError,
        naming sample and channel, for values that are not finite, or so large that they decode to infinity.
        """
        check_batch(x, self.spec)
        rows = np.empty((len(x), self.row_bytes), np.uint8)

        def part(first: int, last: int) -> None:
            for a, b in slabs(last - first, self.spec.values):
                chosen = slice(first + a, first + b)
                flat = float32_slab(x, chosen.start, chosen.stop, self.spec)
                engine.encode_rows(flat, self.runs, rows[chosen])
                if np.abs(flat).max(initial=0) >= _CLOSE_TO_INFINITE:
                    self._check_finite(rows[chosen], chosen.start)

        over_rows(part, len(x), self.spec.values)
        return rows

    def decode(
        self,
        rows: torch.Tensor | npt.NDArray[np.uint8],
        out: torch.Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Decode rows, uint8 [B, row_bytes] (any strides, from any chunks), into [B, *shape]; as in ZfpCodec.

        float32 of contiguous or channels-last memory is written straight; else slabs of it are converted.
        """
        import torch

        done = on_cuda.try_int(rows, self.spec, self.bits, self.steps, self.row_bytes, out, dtype)
        if done is not None:
            return done
        data = check_rows(rows, self.row_bytes)
        to = output(len(data), self.spec, rows, out, dtype)

        def part(first: int, last: int) -> None:
            if engine.straight(to, self.runs):
                engine.decode_rows(data[first:last], self.runs, to[first:last])
                return
            for a, b in slabs(last - first, self.spec.values):
                chosen = to[first + a : first + b]
                slab = torch.empty_like(chosen, dtype=torch.float32, device="cpu")
                if not engine.straight(slab, self.runs):
                    slab = torch.empty(chosen.shape)
                engine.decode_rows(data[first + a : first + b], self.runs, slab)
                chosen.copy_(slab)

        over_rows(part, len(data), self.spec.values)
        return to if out is None else out

    def config(self) -> dict[str, Any]:
        """All of the codec, as JSON; `codec_from_config` reads it."""
        scale, offset = (None, None) if self.steps is None else map(list, self.steps)
        return {
            "codec": "int",
            "spec": self.spec.to_json(),
            "order": None,
            "bits": self.bits,
            "scale": scale,
            "offset": offset,
        }

    def _check_finite(self, rows: npt.NDArray[np.uint8], first: int) -> None:
        back = self.decode(rows).numpy().reshape(len(rows), -1)
        bad = np.argwhere(~np.isfinite(back))
        if len(bad):
            sample, value = (int(i) for i in bad[0])
            raise CodecError(
                f"cannot encode: in sample {first + sample} of the batch, channel "
                f"{channel_of_value(self.spec, value)}, a value near float32's end (2^126 and above) decodes to "
                "infinity; scale the feature, or store it raw (fp32)"
            )
