"""The tables of `dct`, fitted to features of the calibration sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmshards.codec.base import Floats
from fmshards.codec.check import check_batch
from fmshards.codec.dct import engine, on_numpy
from fmshards.codec.dct.blocks import SEGMENT, Blocks, steps
from fmshards.codec.dct.events import EVENTS, STATES, Codes
from fmshards.codec.dct.tables import KINDS, MOST_MEAN, Arrays, Tables, arrays, code_of, usual, usual_counts
from fmshards.codec.dct.transform import coefficients
from fmshards.codec.feature import FeatureSpec
from fmshards.errors import CodecError

if TYPE_CHECKING:
    import torch

_KEPT_VALUES = 1 << 22  # 16 MB as float32
_ROUNDS = 3
_USUAL = 16.0  # events' worth of what is usual, in each state
_CHANCE = 16.0  # of 8 samples, a mean is 5 of its standard errors or more
_LEAST_MEAN = 1 / 64  # of a step; less makes no error smaller by a hundredth, and zeros stay zeros without
_POWER = 0.25  # of deviations, see tools/results/check_transforms.md
_FORGIVEN = 1.1  # an error of values that are not transformed, beside one as large of those that are; see there


@dataclass
class DctSample:
    """Whole features of some samples, evenly spread among `samples`, of about 4 million values in all; 8 at least."""

    spec: FeatureSpec
    samples: int
    _kept: list[Floats] = field(default_factory=list)
    _seen: int = 0

    def add(self, x: torch.Tensor | npt.NDArray[Any]) -> None:
        """Look at a batch, floating-point [B, *shape]. Raises CodecError for another shape or values not finite."""
        check_batch(x, self.spec)
        most = max(8, _KEPT_VALUES // self.spec.values)
        share = min(1.0, most / max(self.samples, 1))
        for i in range(len(x)):
            if int((self._seen + 1) * share) > int(self._seen * share):
                one = x[i] if isinstance(x, np.ndarray) else x[i].detach().float().cpu().numpy()
                if not np.isfinite(one).all():
                    raise CodecError(f"cannot fit dct: a value of sample {self._seen} is not finite")
                self._kept.append(np.array(one, np.float32))
            self._seen += 1

    def features(self, channels: Sequence[int] | None) -> Floats:
        """float32 [n, *shape], of these channels or all. Raises CodecError for an empty sample."""
        if not self._kept:
            raise CodecError("cannot fit dct: the sample is empty")
        kept = np.stack(self._kept)
        return kept if channels is None else np.take(kept, list(channels), self.spec.channel_axis + 1)


def fit_tables(x: Floats, spec: FeatureSpec, row_bytes: int) -> Tables:
    """The tables for rows of so many bytes, from features x [n, *shape].

    Gains go with a power of channels' deviations: errors that are small beside a channel's own values matter less.
    Offsets are what values vary about, where that is much beside how much they vary. They are used, and blocks are
    transformed, where the sample comes back better so, in which an error counts by its channel's gain.
    """
    blocks = Blocks(spec)
    flat = np.ascontiguousarray(x, np.float32).reshape(len(x), -1)
    gains = _gains(x, spec) if blocks.sides else (1.0,) * spec.channels
    start = replace(usual(blocks), gains=gains, nonnegative=bool(flat.min() >= 0))
    offsets = _offsets(flat, blocks)
    ways = [
        replace(start, transformed=transformed, offsets=each)
        for transformed in ((True, False) if blocks.sides else (False,))
        for each in ((start.offsets, offsets) if any(offsets) else (start.offsets,))
    ]
    if len(ways) == 1:
        return _fitted(start, flat, blocks, row_bytes, _ROUNDS)
    tried = [_fitted(way, flat, blocks, row_bytes, 1) for way in ways]
    errors = [_error(tables, flat, blocks, row_bytes) / (1 if tables.transformed else _FORGIVEN) for tables in tried]
    return _fitted(tried[int(np.argmin(errors))], flat, blocks, row_bytes, _ROUNDS - 1)


def _fitted(tables: Tables, flat: Floats, blocks: Blocks, row_bytes: int, rounds: int) -> Tables:
    """Tables with codes, shifts and means of the sample's.

    They come from rows that are written with the tables that there are, a few times: which events there are depends on
    the steps, and these on the codes.
    """
    rows = np.empty((len(flat), row_bytes), np.uint8)
    known = arrays(tables, blocks)
    sizes = coefficients(flat, blocks, known)
    for _ in range(rounds):
        engine.encode_rows(flat, blocks, known, rows)
        seen = _Seen(blocks.spec.channels)
        for sample, row in zip(sizes, rows, strict=True):
            step = int(row[0]) | int(row[1]) << 8
            seen.add(sample / steps()[step], on_numpy.levels(sample, step, known.plain), blocks, known)
        tables = replace(tables, codes=seen.codes(), shifts=seen.shifts(), means=seen.means())
        known = arrays(tables, blocks)
    return tables


def _error(tables: Tables, flat: Floats, blocks: Blocks, row_bytes: int) -> float:
    """The squared error of the sample's rows, each value's divided by its gain first."""
    import torch

    rows, known = np.empty((len(flat), row_bytes), np.uint8), arrays(tables, blocks)
    engine.encode_rows(flat, blocks, known, rows)
    out = torch.empty((len(rows), *blocks.spec.shape))
    engine.decode_rows(rows, blocks, known, out)
    off = out.numpy().reshape(flat.shape) - flat
    grid = _places(off, blocks) / (known.gains if blocks.turned else known.gains[:, None])
    runs = off[:, : blocks.skipped]
    return float(np.square(grid, dtype=np.float64).sum() + np.square(runs, dtype=np.float64).sum())


def _places(flat: Floats, blocks: Blocks) -> Floats:
    """What of a sample has a channel's gain and offset, [n, places, C] or [n, C, places] as it lies: all but the class
    tokens that are before a grid."""
    shape = (-1, blocks.spec.channels) if blocks.turned else (blocks.spec.channels, -1)
    return flat[:, blocks.skipped :].reshape(len(flat), *shape)


class _Seen:
    """Sums over samples: of events, of what levels were, of coefficients that a channel's mean stands for."""

    def __init__(self, channels: int) -> None:
        self._counts = usual_counts() * _USUAL
        self._off, self._levels = np.zeros(16 * KINDS), np.zeros(16 * KINDS)
        self._unsaid, self._nones = np.zeros(channels), np.zeros(channels)

    def add(self, sample: Floats, levels: npt.NDArray[np.int32], blocks: Blocks, known: Arrays) -> None:
        """sample: the coefficients in steps, [blocks, 16], of which these are the levels."""
        said = on_numpy.events(levels, SEGMENT, known)
        counts = np.bincount(said.state * EVENTS + said.numbers, minlength=STATES * EVENTS)
        self._counts += counts.reshape(STATES, EVENTS)
        block, place = np.nonzero(levels)
        magnitude = np.abs(levels[block, place])
        kind = place * KINDS + np.minimum(magnitude, KINDS) - 1
        off = magnitude - np.abs(sample[block, place]).astype(np.float64)
        self._off += np.bincount(kind, weights=off, minlength=16 * KINDS)
        self._levels += np.bincount(kind, minlength=16 * KINDS)
        if blocks.grid:
            shape = len(self._unsaid), -1, 16
            none = (levels[: blocks.grid].reshape(shape) == 0) & blocks.inside
            if known.transformed:
                none[..., 1:] = False
            self._unsaid += (sample[: blocks.grid].reshape(shape) * none).sum((1, 2), dtype=np.float64)
            self._nones += none.sum((1, 2))

    def codes(self) -> Codes:
        return tuple(code_of(each, state) for state, each in enumerate(self._counts))

    def shifts(self) -> tuple[tuple[float, ...], ...]:
        found = np.clip(self._off / np.maximum(self._levels, 1), -0.5, 0.5).astype(np.float32)
        return tuple(tuple(each) for each in found.reshape(16, KINDS).tolist())

    def means(self) -> tuple[float, ...]:
        found = np.clip(self._unsaid / np.maximum(self._nones, 1), -MOST_MEAN, MOST_MEAN)
        found[np.abs(found) < _LEAST_MEAN] = 0
        return tuple(found.astype(np.float32).tolist())


def _offsets(flat: Floats, blocks: Blocks) -> tuple[float, ...]:
    """The mean of what has an offset (see `Blocks.offsets`) where it is more than the deviation, else 0.

    Of few samples it must be more by far: among many values, the means of some are large by chance.
    """
    places, own = _places(flat, blocks), flat[:, : blocks.skipped]
    axes = (0, 1) if blocks.turned else (0, 2)
    mean = np.concatenate([places.mean(axes, dtype=np.float64), own.mean(0, dtype=np.float64)])
    deviation = np.concatenate([places.std(axes, dtype=np.float64), own.std(0, dtype=np.float64)])
    much = np.abs(mean) > deviation * np.sqrt(1 + _CHANCE / len(flat))
    return tuple(np.where(much, mean, 0).astype(np.float32).tolist())


def _gains(x: Floats, spec: FeatureSpec) -> tuple[float, ...]:
    """Of each channel its deviation beside the channels' mean one, to the power _POWER."""
    axes = tuple(axis for axis in range(x.ndim) if axis != spec.channel_axis + 1)
    deviation = x.std(axes, dtype=np.float64)
    deviation = np.maximum(deviation / max(deviation.mean(), 1e-300), 1e-3)
    return tuple((deviation**_POWER).astype(np.float32).tolist())
