"""Fitting the mapped mirror by least squares on the calibration sample, which is looked at in batches and not kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from fmshards.augment.features.places import to_map
from fmshards.augment.mirror_map import MirrorMap
from fmshards.calibration.least_squares import LeastSquares
from fmshards.calibration.sensitive import largest
from fmshards.calibration.similarity import Comparison
from fmshards.codec import FeatureSpec
from fmshards.errors import InputError, ModelError

LARGEST = 12_000
"""Unknowns for each output: a float64 matrix of 1.2 GB."""
_LEAST = 5  # samples
_PLENTY = 20  # equations for each unknown beyond which more are left out
_ENOUGH = 1 << 15  # ... and at least so many are kept
_BATCH_BYTES = 64 << 20

Pairs = tuple[torch.Tensor, torch.Tensor]
"""Features of images and of their flips."""


@dataclass(frozen=True)
class FoundMirror:
    """What becomes of one layer's mirror where it is not simply stored.

    channels: those that are stored, rising. map: of all others; None where these are the base's own, flipped, or there
    are none. error: of the whole mirror, stored channels counting as exact, |made - true|^2 / |true|^2 in dB, at least
    -200, on `judged` samples that no map was fitted on; None where all channels are stored. own_error: the same on as
    many of the `fitted` samples that the map was fitted on; None without a map.
    """

    channels: tuple[int, ...] = ()
    map: MirrorMap | None = None
    error: float | None = None
    own_error: float | None = None
    judged: int = 0
    fitted: int = 0


class MirrorSample:
    """Pairs of features, of images and of their flips, given in batches: sums for the fit, two fifths as they are.

    samples: how many there will be. The last fifth takes no part in the fit; the map's error is on it. The first fifth
    is kept to compare that with.

    Raises InputError for fewer than 5 samples or a kernel too large for the number of channels.
    """

    def __init__(self, spec: FeatureSpec, kernel: int, samples: int) -> None:
        if samples < _LEAST:
            raise InputError(f"mirror map: at least {_LEAST} calibration samples are needed, found {samples}")
        unknowns = unknowns_of(spec, kernel)
        if unknowns > LARGEST:
            raise InputError(
                f"mirror map: {spec.channels} channels with kernel {kernel} are {unknowns} unknowns for each output, "
                f"more than {LARGEST}: use mapped(kernel=1), or store the mirror"
            )
        self.spec = spec
        self._fitted, self._seen, self._lowest = samples - samples // 5, 0, math.inf
        self._judged = samples // 5
        self._kept: list[Pairs] = []
        self._own: list[Pairs] = []
        self._places = None if spec.spatial is None else _Places(spec, kernel, self._fitted)
        tokens = 1 if spec.spatial is None else spec.class_tokens
        rows = self._fitted * (spec.values // spec.channels if spec.spatial is None else 1)
        self._rows = [_Rows(spec.channels, rows) for _ in range(tokens)]

    def add(self, base: torch.Tensor, mirror: torch.Tensor) -> None:
        """Count a batch [B, *shape] of both. Raises InputError for other shapes."""
        if base.shape != mirror.shape or tuple(base.shape[1:]) != tuple(self.spec.shape):
            raise InputError(
                f"mirror map: expected two [B, {', '.join(map(str, self.spec.shape))}] arrays, "
                f"found {list(base.shape)} and {list(mirror.shape)}"
            )
        base, mirror = base.float().cpu(), mirror.float().cpu()
        self._lowest = min(self._lowest, float(base.min()), float(mirror.min()))
        count, own = (min(max(end - self._seen, 0), len(base)) for end in (self._fitted, self._judged))
        self._seen += len(base)
        if own:
            self._own.append((base[:own].clone(), mirror[:own].clone()))
        if count < len(base):
            self._kept.append((base[count:].clone(), mirror[count:].clone()))
        x, y = base[:count], mirror[:count]
        if self._places is None:
            self._rows[0].add(x.flatten(0, -2), y.flatten(0, -2))
            return
        self._places.add(to_map(x, self.spec), to_map(y, self.spec))
        for token, rows in enumerate(self._rows):
            rows.add(x[:, token], y[:, token])

    def fit(self, layer: str, stored: float = 0.0) -> FoundMirror:
        """The map from base to mirror, and its error in dB on the samples left out, with the ReLU where it has one.

        stored: the share of channels that are stored instead: those that the map gets most wrong, by squared error on
        all samples that are kept. The map is of the others then. It may be asked for again, for another share.

        Least squares by normal equations in float64, over the whole zero-padded map as `apply` sees it. What is fitted
        is the difference from the plain flip, so that the ridge (tiny, or chosen by inner validation where the sample
        is small for the number of unknowns) shrinks towards the plain flip. A ReLU follows where no feature was below
        zero.

        Raises ModelError, the layer named, where there is no finite map.
        """
        fitted = self._map
        judged, own = _joined(self._kept), _joined(self._own)
        error = mirror_error(fitted, judged)
        if not (math.isfinite(error) and all(np.isfinite(array).all() for array in fitted.to_arrays().values())):
            raise ModelError(
                f"{layer}: no mirror map can be fitted: features of the calibration sample are not finite, or too large"
            )
        if not stored:
            return FoundMirror((), fitted, error, mirror_error(fitted, own), self._judged, self._fitted)
        comparison = Comparison.empty(self.spec)
        for base, mirror in (judged, own):
            comparison.add(fitted.apply(base), mirror)
        channels = largest(comparison.gap, stored)
        others = [c for c in range(self.spec.channels) if c not in set(channels)]
        if not others:
            return FoundMirror(channels)
        rest = fitted.select(others)
        errors = (mirror_error(rest, judged, others), mirror_error(rest, own, others))
        return FoundMirror(channels, rest, *errors, self._judged, self._fitted)

    @cached_property
    def _map(self) -> MirrorMap:
        """Of all channels. Once: the sums are spent."""
        class_weight = class_bias = None
        fits = [rows.solve() for rows in self._rows]
        if self._places is None:
            weight, bias = fits[0]
        else:
            weight, bias = self._places.solve()
            if fits:
                class_weight, class_bias = (torch.stack(parts) for parts in zip(*fits, strict=True))
        return MirrorMap(weight, bias, self._lowest >= 0, self.spec, class_weight, class_bias)


def unknowns_of(spec: FeatureSpec, kernel: int) -> int:
    """Unknowns of each output: the normal equations are a matrix of as many rows and columns."""
    return spec.channels * (1 if spec.spatial is None else kernel * kernel) + 1


def mirror_error(fitted: MirrorMap, pairs: Pairs, channels: Sequence[int] | None = None) -> float:
    """10 log10(|apply(base) - mirror|^2 / |mirror|^2), in dB, at least -200. pairs: base and mirror, [B, *shape] each;
    channels: those that the map gives, the others counting as exact."""
    error = energy = 0.0
    where = None if channels is None else torch.tensor(channels)
    for some, wanted in zip(*(torch.split(part, 64) for part in pairs), strict=True):
        energy += float(wanted.double().square().sum())
        if where is not None:
            wanted = wanted.index_select(fitted.spec.channel_axis + 1, where)
        error += float((fitted.apply(some) - wanted).double().square().sum())
    return 10 * math.log10(max(error / max(energy, 1e-300), 1e-20))


def _joined(kept: Sequence[Pairs]) -> Pairs:
    base, mirror = (torch.cat(part) for part in zip(*kept, strict=True))
    return base, mirror


class _Rows:
    """Rows x, y [n, D] with y ~ weight x + bias; n is known beforehand."""

    def __init__(self, width: int, n: int) -> None:
        few = n < _PLENTY * (width + 1)
        self._inner, self._seen = n - n // 5 if few else n, 0
        self._equations = LeastSquares()

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        count = min(max(self._inner - self._seen, 0), len(x))
        self._seen += len(x)
        y = y - x
        self._equations.fit.add(x[:count], y[:count])
        self._equations.validation.add(x[count:], y[count:])

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        solution = self._equations.solve()
        weight = (solution[:-1].T + torch.eye(solution.shape[1])).float().contiguous()
        return weight, solution[-1].float()


class _Places:
    """Maps x, y [n, C, h, w] with y ~ the convolution of flipped x; n is known beforehand."""

    def __init__(self, spec: FeatureSpec, kernel: int, n: int) -> None:
        h, w = spec.spatial or (0, 0)
        self._channels, self._kernel = spec.channels, kernel
        unknowns = unknowns_of(spec, kernel)
        few = n * h * w < _PLENTY * unknowns
        self._inner, self._seen = n - n // 5 if few else n, 0
        every = max(1, n * h * w // max(_PLENTY * unknowns, _ENOUGH))
        size = max(1, _BATCH_BYTES // (4 * (unknowns - 1) * h * w))
        self._equations = LeastSquares()
        self._fit, self._validation = (_Windows(self._equations, part, kernel, every, size) for part in (0, 1))

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        count = min(max(self._inner - self._seen, 0), len(x))
        self._seen += len(x)
        self._fit.add(x[:count], y[:count])
        self._validation.add(x[count:], y[count:])

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        self._fit.flush(1)
        self._validation.flush(1)
        solution, c, kernel = self._equations.solve(), self._channels, self._kernel
        weight = solution[:-1].view(kernel, kernel, c, c).permute(3, 2, 0, 1).float()
        weight[:, :, kernel // 2, kernel // 2] += torch.eye(c)
        return weight.contiguous(), solution[-1].float()


class _Windows:
    """Equations of places: inputs [rows, K*K*C] and what they must add to the flip [rows, C], of one of `every` places.

    `size` samples at a time, whatever the batches that they come in: so the places, and the sums, are always the same.
    """

    def __init__(self, equations: LeastSquares, part: int, kernel: int, every: int, size: int) -> None:
        self._sums = (equations.fit, equations.validation)[part]
        self._kernel, self._every, self._size = kernel, every, size
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._count = 0
        self._random = torch.Generator().manual_seed(0)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        if len(x):
            self._waiting.append((x, y))
            self._count += len(x)
        self.flush(self._size)

    def flush(self, least: int) -> None:
        """Count what waits, while it is at least so many samples."""
        while self._count >= least:
            x, y = (torch.cat(part) for part in zip(*self._waiting, strict=True))
            self._equate(x[: self._size], y[: self._size])
            self._count = max(0, len(x) - self._size)
            self._waiting = [(x[self._size :].clone(), y[self._size :].clone())] if self._count else []

    def _equate(self, x: torch.Tensor, y: torch.Tensor) -> None:
        (n, _, h, w), reach = x.shape, self._kernel // 2
        flipped = x.flip(-1).permute(0, 2, 3, 1)
        target = y.permute(0, 2, 3, 1) - flipped
        padded = F.pad(flipped, (0, 0, reach, reach, reach, reach))
        places = torch.arange(n * h * w)
        if self._every > 1:
            places = torch.randperm(len(places), generator=self._random)[: -(-len(places) // self._every)].sort().values
        sample, row, column = places // (h * w), places // w % h, places % w
        corner = (sample * padded.shape[1] + row) * padded.shape[2] + column
        cells = padded.flatten(0, 2)
        taps = [dy * padded.shape[2] + dx for dy in range(self._kernel) for dx in range(self._kernel)]
        columns = torch.cat([cells.index_select(0, corner + tap) for tap in taps], dim=1)
        self._sums.add(columns, target.flatten(0, 2).index_select(0, places))
