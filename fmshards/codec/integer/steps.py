"""Scales and offsets of whole channels for `int`, fitted on a sample that is looked at in batches and not kept.

Of each channel a histogram is kept: 4096 bins over a range that doubles when a larger value comes, and exact zeros by
themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmshards.codec.check import check_batch
from fmshards.codec.feature import FeatureSpec
from fmshards.codec.integer.runs import LEAST_RANGE
from fmshards.errors import CodecError

if TYPE_CHECKING:
    import torch

_BINS = 4096
_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # parts of the range that fits start from
_ROUNDS = 6
_AT_ONCE = 64  # channels that are fitted together

Steps = tuple[tuple[float, ...], tuple[float, ...]]
"""Scale and offset of each channel, exactly float32."""
Doubles = npt.NDArray[np.float64]


@dataclass
class StepSample:
    """What is known of each channel of features [*, *spec.shape].

    counts: int64 [C, 4096], of values that are not 0, in bins over -reach to reach. zeros: int64 [C]. low, high:
    float64 [C], the least and the largest value. reach: float64 [C], a power of two, 0 before a value that is not 0.
    """

    spec: FeatureSpec
    counts: npt.NDArray[np.int64] = field(init=False)
    zeros: npt.NDArray[np.int64] = field(init=False)
    low: Doubles = field(init=False)
    high: Doubles = field(init=False)
    reach: Doubles = field(init=False)

    def __post_init__(self) -> None:
        c = self.spec.channels
        self.counts, self.zeros = np.zeros((c, _BINS), np.int64), np.zeros(c, np.int64)
        self.low, self.high, self.reach = np.full(c, np.inf), np.full(c, -np.inf), np.zeros(c)

    def add(self, x: torch.Tensor | npt.NDArray[Any]) -> None:
        """Count a batch, floating-point [B, *shape]. Raises CodecError for another shape and for values not finite."""
        check_batch(x, self.spec)
        array = x if isinstance(x, np.ndarray) else x.detach().float().cpu().numpy()
        c = self.spec.channels
        values = np.moveaxis(array, self.spec.channel_axis + 1, 0).reshape(c, -1).astype(np.float64)
        if not values.size:
            return
        least, most = values.min(1), values.max(1)
        if not (np.isfinite(least) & np.isfinite(most)).all():
            channel = int(np.argmin(np.isfinite(least) & np.isfinite(most)))
            raise CodecError(f"cannot fit steps: a value in channel {channel} is not finite")
        self.low, self.high = np.minimum(self.low, least), np.maximum(self.high, most)
        self._widen(np.maximum(-least, most))
        zero = values == 0
        self.zeros += zero.sum(1)
        width = np.where(self.reach > 0, 2 * self.reach / _BINS, 1)[:, None]
        bins = np.clip(np.floor(values / width).astype(np.int64) + _BINS // 2, 0, _BINS - 1)
        bins += np.arange(c)[:, None] * _BINS
        self.counts += np.bincount(bins[~zero], minlength=c * _BINS).reshape(c, _BINS)

    def select(self, channels: tuple[int, ...]) -> StepSample:
        """What is known of these channels."""
        part = StepSample(self.spec.select(len(channels)))
        chosen = list(channels)
        for name in ("counts", "zeros", "low", "high", "reach"):
            setattr(part, name, getattr(self, name)[chosen])
        return part

    def _widen(self, largest: Doubles) -> None:
        fresh = (self.reach == 0) & (largest > 0)
        self.reach[fresh] = 2.0 ** (np.frexp(largest[fresh])[1])
        while (narrow := largest > self.reach).any():
            pairs = self.counts[narrow].reshape(-1, _BINS // 2, 2).sum(2)
            self.counts[narrow] = np.pad(pairs, [(0, 0), (_BINS // 4, _BINS // 4)])
            self.reach[narrow] *= 2


def fit_steps(sample: StepSample, bits: int, filtered: bool = False) -> Steps:
    """Scale and offset of each channel, for codes of `bits`: the least squared error over the sample.

    Values beyond the codes' range are clipped where that is the lesser error. A channel whose least value is 0 has
    offset 0; one without a range has scale 0. All numbers are float32.

    filtered: the codes go through a filter, which makes narrow channels small. Where no value is below 0, all channels
    then have one scale, the largest of theirs: mostly 0.4 to 1.6 dB less error at equal bytes on features after a ReLU.
    On features before one it is worse by up to 0.7 dB, and they keep their own (tools/results/check_codecs.md).

    Raises CodecError for an empty sample.
    """
    if not np.isfinite(sample.low).all():
        raise CodecError("cannot fit steps: the sample is empty")
    top = (1 << bits) - 1
    parts = [_fit(sample, slice(first, first + _AT_ONCE), top) for first in range(0, sample.spec.channels, _AT_ONCE)]
    scale, offset = (np.concatenate(part) for part in zip(*parts, strict=True))
    if filtered and (sample.low >= 0).all():
        scale = np.where(scale > 0, scale.max(), 0)
    return tuple(scale.astype(np.float32).tolist()), tuple(offset.astype(np.float32).tolist())


def _fit(sample: StepSample, which: slice, top: int) -> tuple[Doubles, Doubles]:
    low, high, reach = sample.low[which, None], sample.high[which, None], sample.reach[which, None]
    width = 2 * reach / _BINS
    values = np.clip((np.arange(_BINS) + 0.5 - _BINS // 2) * width, low, high)
    values = np.concatenate([values, np.zeros_like(low)], 1)
    weights = np.concatenate([sample.counts[which], sample.zeros[which, None]], 1).astype(np.float64)
    span, fixed = high - low, low == 0
    none = span < LEAST_RANGE
    best, scale, offset = np.full(low.shape, np.inf), np.zeros_like(low), np.where(none, np.clip(0, low, high), low)
    total = weights.sum(1, keepdims=True)
    y = (weights * values).sum(1, keepdims=True)
    for share in _SHARES:
        step, shift = share * span / top, np.where(fixed, 0.0, low + (1 - share) / 2 * span)
        for _ in range(_ROUNDS):
            safe = np.where(step > 0, step, 1)
            codes = np.clip(np.rint((values - shift) / safe), 0, top)
            error = (weights * (values - shift - step * codes) ** 2).sum(1, keepdims=True)
            better = (error < best) & ~none
            best, scale, offset = (np.where(better, a, b) for a, b in ((error, best), (step, scale), (shift, offset)))
            weighted = weights * codes
            q, qq = weighted.sum(1, keepdims=True), (weighted * codes).sum(1, keepdims=True)
            qy = (weighted * values).sum(1, keepdims=True)
            spread = np.where(fixed, qq, qq - q * q / total)
            slope = np.where(fixed, qy, qy - q * y / total) / np.where(spread > 0, spread, 1)
            moved = (spread > 1e-9) & (slope > 0)
            step = np.where(moved, slope, step)
            shift = np.where(moved & ~fixed, (y - slope * q) / total, shift)
    return scale[:, 0], offset[:, 0]
