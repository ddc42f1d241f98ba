"""The order in which `zfp` stores channels: like beside like, where its blocks can use it.

A block of ZFP spans four channels, and pays for what they do not share. So channels are put in groups of four that are
alike, in the places of the layout that become one block's: for tiles these are not neighbours in the stored order.
Alike is 2 <a, b> / (<a, a> + <b, b>), one less the energy of the difference over that of both: 1 where two channels are
equal, and small where one is much the larger. It is not centred, as blocks hold the mean too. A group begins with
the channel of most energy that is left, and takes the most alike to its last one, three times; then it is turned so
that neighbours are most alike. Cosine, centred correlation, one chain through all channels and groups begun by the
best pair gained less on a published ResNet-20 or on a random ResNet-50; what this gains is in
tools/results/check_order.md.

Comparisons are of numbers rounded to four digits, and ties go to the lower channel: so sums that differ in their last
bits, as with another number of threads, give the same order unless one lies on the edge of a rounding. The plan binds
whichever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, permutations

import numpy as np
import numpy.typing as npt
import torch

from fmshards.codec.base import Codec
from fmshards.codec.feature import FeatureSpec
from fmshards.codec.zfp.layout import Order, layout_of
from fmshards.errors import CodecError

LEAST_GAIN_DB = 0.1
"""An order that gains less is not stored."""
_JUDGED = 32  # samples that an order is judged by, at most
_JUDGED_BYTES = 64 << 20  # and their features
_PART_VALUES = 4 << 20  # of features turned at once
_DIGITS = 4


class ChannelSample:
    """What one layer's order is chosen by: sums over the calibration sample, and a few features to judge it by.

    spec: the layer's feature. samples: how many there will be. A part of them, at most 32 or 64 MB, evenly spread, is
    kept and judges the order; the others make it.
    """

    def __init__(self, spec: FeatureSpec, samples: int) -> None:
        self.spec = spec
        judged = max(1, min(samples // 4, _JUDGED, _JUDGED_BYTES // (4 * spec.values)))
        self._seen = 0
        self._judged = {(2 * i + 1) * samples // (2 * judged) for i in range(judged)}
        self._kept: list[torch.Tensor] = []
        self._moments = np.zeros((spec.channels, spec.channels))

    def add(self, x: torch.Tensor) -> None:
        """Count the next samples' features, float32 [B, *shape]."""
        numbers = range(self._seen, self._seen + len(x))
        self._seen += len(x)
        judged = torch.tensor([number in self._judged for number in numbers], dtype=torch.bool, device=x.device)
        self._kept.append(x[judged].cpu())
        others = x[~judged]
        for part in torch.split(others, max(1, _PART_VALUES // self.spec.values)):
            rows = _channel_rows(part, self.spec)
            # float32 products, added in float64: far more digits than are compared.
            self._moments += (rows @ rows.T).double().cpu().numpy()

    def order(self, codec_of: Callable[[FeatureSpec, Order], Codec], channels: Sequence[int] | None = None) -> Order:
        """The order for a codec, None where it gains less than 0.1 dB on the samples that judge.

        codec_of: the codec of a feature and an order, at the layer's rate. channels: of these alone, in this order, as
        a view stores them.
        """
        spec, moments, kept = self.spec, self._moments, torch.cat(self._kept)
        if channels is not None:
            spec = spec.select(len(channels))
            moments = moments[np.ix_(channels, channels)]
            kept = kept.index_select(self.spec.channel_axis + 1, torch.tensor(channels))
        if not np.isfinite(moments).all():
            return None  # which sample is at fault is found, and said, when it is encoded
        order = greedy_order(spec, moments)
        try:
            plain, ordered = (_squared_error(codec_of(spec, each), kept) for each in (None, order))
        except CodecError:
            return None
        return order if plain > ordered * 10 ** (LEAST_GAIN_DB / 10) else None


def greedy_order(spec: FeatureSpec, moments: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """The order by second moments float64[C, C]: place i of the layout holds channel order[i]."""
    energy = np.diag(moments)
    both = energy[:, None] + energy
    alike = np.where(both > 0, 2 * moments / np.where(both > 0, both, 1), 1.0).round(_DIGITS)
    size = np.round(np.log2(np.maximum(energy, 1e-300)), _DIGITS)
    largest_first = iter(np.argsort(-size, kind="stable"))
    left = np.ones(spec.channels, bool)
    order = np.empty(spec.channels, np.int64)
    for places in _block_places(spec):
        group = [int(next(c for c in largest_first if left[c]))]
        left[group[0]] = False
        while len(group) < len(places):
            group.append(int(np.where(left, alike[group[-1]], -np.inf).argmax()))
            left[group[-1]] = False
        order[places] = _turned(group, alike)
    return tuple(int(c) for c in order)


def _block_places(spec: FeatureSpec) -> list[list[int]]:
    """The places of the stored order, in groups that meet in blocks; in a vector all meet."""
    layout, c = layout_of(spec), spec.channels
    if not layout.map_blocks[0]:
        return [list(range(c))]
    tile = layout.tile[0] * layout.tile[1]
    groups = [range(z * 4 * tile + place, min((z + 1) * 4 * tile, c), tile) for z in range(-(-c // (4 * tile)))
              for place in range(tile)]  # fmt: skip
    return [list(group) for group in groups if group]


def _turned(group: list[int], alike: npt.NDArray[np.float64]) -> list[int]:
    """A group of at most four in the order in which neighbours are most alike; a longer one as it is."""
    if not 2 < len(group) <= 4:
        return group
    ways = (list(way) for way in permutations(group))
    return max(ways, key=lambda way: round(sum(alike[a, b] for a, b in pairwise(way)), _DIGITS))


def _channel_rows(x: torch.Tensor, spec: FeatureSpec) -> torch.Tensor:
    """[B, *shape] as [C, N]; class tokens are left out where there are others."""
    if spec.kind == "tokens" and spec.shape[0] > spec.class_tokens:
        x = x[:, spec.class_tokens :]
    return x.movedim(spec.channel_axis + 1, 0).flatten(1)


def _squared_error(codec: Codec, x: torch.Tensor) -> float:
    return float((codec.decode(codec.encode(x)) - x).square_().sum(dtype=torch.float64))
