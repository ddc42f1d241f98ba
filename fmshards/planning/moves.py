"""What a flip, a crop or a resized crop does to features: S_theta and each mirror beside the truly moved image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fmshards.augment import FLIP, Crop, LayerMove, MirrorMap, Recipe, ResizedCrop, fresh_theta, move, replace
from fmshards.calibration import FeaturesOf, measure_grid
from fmshards.calibration.mirror_fit import MirrorSample, unknowns_of
from fmshards.codec import FeatureSpec
from fmshards.planning.measure import Answers, Outcome, Suffix, compare
from fmshards.planning.photos import Photos, spread
from fmshards.shards import Grid

_FITTED, _JUDGED = 256, 96  # photos that mirror maps are fitted on, and others that moves are judged on
_RANKED = 48  # of the former, those by which channels are chosen
_GRID, _BATCH = 4, 8
_MAPS = {1: 4096, 3: 1200}  # by the kernel, unknowns beyond which a fit takes minutes
_PART = 0.3  # of the mirror's channels, stored

Thetas = npt.NDArray[np.float32]
Stage = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Way:
    """Where a mirror comes from. text: as the option has it. stored: the share of channels that is. kernel: of the map
    that the others come from, 0 where they are the base's, flipped."""

    text: str
    stored: float
    kernel: int


STORED, NONE = Way("stored", 1.0, 0), Way("none", 0.0, 0)
WAYS: tuple[Way, ...] = (
    NONE,
    Way("mapped(kernel=1)", 0.0, 1),
    Way("mapped(kernel=3)", 0.0, 3),
    Way(f"stored({_PART}, rest=map, kernel=1)", _PART, 1),
)
"""Those that are measured; what is stored whole is the true mirror."""


@dataclass(frozen=True)
class Moved:
    """What one way of moving a layer's features gives, beside the truly moved image.

    what: the term of a recipe, or flip with its way. db: relative squared error of the feature. outcome: the answers
    from the moved feature beside those to the moved image, None where the network gives no logits. still: the
    agreement of the feature left as it is. seconds: a sample, of what the way computes. multiplications: the same.
    """

    what: str
    db: float | None
    outcome: Outcome | None
    still: Outcome | None
    seconds: float = 0.0
    multiplications: int = 0

    @property
    def worse_than_still(self) -> bool:
        """Whether moving the feature is further from the moved image's answers than not moving it, by its error."""
        if self.outcome is None or self.still is None:
            return False
        return self.outcome.drop.value > self.still.drop.value + self.still.drop.error

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        parts = {name: value and value.to_json() for name, value in (("outcome", self.outcome), ("still", self.still))}
        return {**vars(self), **parts, "worse_than_still": self.worse_than_still}


@dataclass(frozen=True)
class Moves:
    """Of one layer: its flips by the way's text, and other moves in the order of their terms."""

    grid: Grid | None
    flips: Mapping[str, Moved]
    others: tuple[Moved, ...]


@dataclass
class _Sums:
    """Answers from moved features, and squared errors, of one way over batches."""

    answers: list[Answers] = field(default_factory=list)
    error: float = 0.0
    energy: float = 0.0
    seconds: list[float] = field(default_factory=list)

    def add(self, found: torch.Tensor, true: torch.Tensor, suffix: Suffix | None) -> None:
        self.error += float((found - true).double().square().sum())
        self.energy += float(true.double().square().sum())
        if suffix is not None:
            self.answers.append(Answers.of(suffix(found)))


@torch.no_grad()
def measure_moves(
    photos: Photos,
    prefix: FeaturesOf,
    suffixes: Mapping[str, Suffix | None],
    specs: Mapping[str, FeatureSpec],
    recipe: Recipe,
    device: torch.device,
    seed: int,
    stage: Stage,
    factor: float | None = None,
) -> dict[str, Moves]:
    """For each layer of `specs` what the recipe's terms do, each by itself, on photos that no map was fitted to.

    A crop is measured as the recipe has it and by whole cells of the coarsest layer. Features are not kept: memory is
    that of a batch. Deterministic for a seed. stage: told of photos done. factor: as `compare` takes it.
    """
    size, kinds = photos.size, {}
    fit, judge = _parts(len(photos))
    blank = prefix(photos.preprocess.base(Image.new("RGB", photos.images[0].size))[None].to(device))
    fills = {name: blank[name][0].float() for name, spec in specs.items() if spec.spatial is not None}
    moving = [term for term in recipe.terms if isinstance(term, (Crop, ResizedCrop))]
    grids = measure_grid(prefix, photos.base(spread(len(photos), _GRID)).to(device), specs, seed) if fills else {}
    for term in moving:
        for chosen in (term, *_whole(term, grids)):
            kinds[str(Recipe((chosen,)))] = fresh_theta(
                Recipe((chosen,)), seed, 0, judge, [False], size, references=("base",)
            )
    run = _Run(photos, prefix, suffixes, specs, device, grids, fills, stage, factor)
    maps = run.fit(fit) if recipe.flips else {}
    return run.judge(judge, kinds, maps, recipe.flips)


def _parts(n: int) -> tuple[list[int], list[int]]:
    """Photos to fit maps on, and others to judge by: every third."""
    judged = list(range(2, n, 3)) if n >= 3 else list(range(n))
    fitted = [i for i in range(n) if i % 3 != 2]
    return [fitted[i] for i in spread(len(fitted), _FITTED)], [judged[i] for i in spread(len(judged), _JUDGED)]


def _whole(term: Crop | ResizedCrop, grids: Mapping[str, Grid]) -> list[Crop]:
    """The crop by whole cells of the coarsest layer, where it is another one."""
    strides = [stride for grid in grids.values() for stride in grid.stride]
    coarse = round(max(strides, default=1))
    if not isinstance(term, Crop) or not term.pad or term.step % coarse == 0:
        return []
    return [Crop(max(1, term.pad // coarse) * coarse, coarse)]


@dataclass(frozen=True)
class _Mirrors:
    """By kernel the map of a layer; and the channels that the partly stored mirror stores."""

    maps: Mapping[int, MirrorMap]
    worst: Sequence[int]


@dataclass(frozen=True)
class _Run:
    photos: Photos
    prefix: FeaturesOf
    suffixes: Mapping[str, Suffix | None]
    specs: Mapping[str, FeatureSpec]
    device: torch.device
    grids: Mapping[str, Grid]
    fills: Mapping[str, torch.Tensor]
    stage: Stage
    factor: float | None

    def fit(self, chosen: Sequence[int]) -> dict[str, _Mirrors]:
        """Maps by least squares; the channels stored are those that a 1 x 1 map gets most wrong."""
        samples = {
            (name, kernel): MirrorSample(spec, kernel, len(chosen))
            for name, spec in self.specs.items()
            for kernel, most in _MAPS.items()
            if unknowns_of(spec, kernel) <= most and len(chosen) >= 5 and (kernel == 1 or spec.spatial is not None)
        }
        for done, base, flipped in self._pairs(chosen):
            for (name, _), sample in samples.items():
                sample.add(base[name], flipped[name])
            self.stage("flips, fitted", done, len(chosen))
        maps: dict[str, dict[int, MirrorMap]] = {name: {} for name in self.specs}
        for (name, kernel), sample in samples.items():
            maps[name][kernel] = sample.fit(name)[0].to(self.device)
        gaps = {name: torch.zeros(spec.channels, dtype=torch.float64) for name, spec in self.specs.items()}
        for _, base, flipped in self._pairs(chosen[:_RANKED]):
            for name, spec in self.specs.items():
                stands_in = maps[name][1].apply(base[name]) if 1 in maps[name] else base[name]
                squares = (stands_in - flipped[name]).double().square().movedim(spec.channel_axis + 1, 0)
                gaps[name] += squares.flatten(1).sum(1).cpu()
        return {
            name: _Mirrors(maps[name], gaps[name].argsort(descending=True)[: round(_PART * len(gaps[name]))].tolist())
            for name in self.specs
        }

    def _pairs(self, chosen: Sequence[int]) -> Iterator[tuple[int, dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
        for start in range(0, len(chosen), _BATCH):
            x = self.photos.base(chosen[start : start + _BATCH]).to(self.device)
            yield start + len(x), _float(self.prefix(x)), _float(self.prefix(x.flip(-1)))

    def judge(
        self, chosen: Sequence[int], kinds: Mapping[str, Thetas], mirrors: Mapping[str, _Mirrors], flips: bool
    ) -> dict[str, Moves]:
        ways: dict[tuple[str, str], _Sums] = {}
        true: dict[tuple[str, str], list[Answers]] = {}
        still: dict[str, list[Answers]] = {name: [] for name in self.specs}

        def count(name: str, what: str, found: torch.Tensor, wanted: torch.Tensor, seconds: float) -> None:
            sums = ways.setdefault((name, what), _Sums())
            sums.add(found, wanted, self.suffixes[name])
            sums.seconds.append(seconds / len(found))

        for start in range(0, len(chosen), _BATCH):
            part = chosen[start : start + _BATCH]
            x = self.photos.base(part).to(self.device)
            base = _float(self.prefix(x))
            shown = {
                what: self.photos.moved(part, t[start : start + _BATCH]).to(self.device) for what, t in kinds.items()
            }
            for name in self.specs:
                if (suffix := self.suffixes[name]) is not None:
                    still[name].append(Answers.of(suffix(base[name])))
            for what, image in ([("flip", x.flip(-1))] if flips else []) + list(shown.items()):
                wanted = _float(self.prefix(image))
                for name, spec in self.specs.items():
                    if (suffix := self.suffixes[name]) is not None:
                        true.setdefault((name, what), []).append(Answers.of(suffix(wanted[name])))
                    if what == "flip":
                        for way in WAYS:
                            began = time.perf_counter()
                            found = self._mirror(name, way, base[name], wanted[name], mirrors[name])
                            if found is not None:
                                count(name, f"flip {way.text}", found, wanted[name], time.perf_counter() - began)
                    elif spec.spatial is not None:
                        began = time.perf_counter()
                        found = self._move(name, base[name], kinds[what][start : start + _BATCH])
                        count(name, what, found, wanted[name], time.perf_counter() - began)
            self.stage("moves", start + len(part), len(chosen))
        return {name: self._layer(name, ways, true, still[name], mirrors) for name in self.specs}

    def _mirror(
        self, name: str, way: Way, base: torch.Tensor, true: torch.Tensor, mirrors: _Mirrors
    ) -> torch.Tensor | None:
        if way.kernel and way.kernel not in mirrors.maps:
            return None
        if way.kernel:
            rest = mirrors.maps[way.kernel].apply(base)
        elif self.specs[name].spatial is None:
            rest = base
        else:
            rest = self._move(name, base, np.tile(FLIP.astype(np.float32), (len(base), 1, 1)))
        if not way.stored:
            return rest
        spec, worst = self.specs[name], tuple(mirrors.worst)
        own = true.index_select(spec.channel_axis + 1, torch.tensor(worst, device=true.device))
        return replace(rest, own, worst, spec) if worst else rest

    def _move(self, name: str, base: torch.Tensor, theta: Thetas) -> torch.Tensor:
        how = LayerMove(self.specs[name], self.photos.size, self.grids.get(name), self.fills[name])
        return move(base, theta, np.zeros(len(base), bool), how)

    def _layer(
        self,
        name: str,
        ways: Mapping[tuple[str, str], _Sums],
        true: Mapping[tuple[str, str], list[Answers]],
        still: list[Answers],
        mirrors: Mapping[str, _Mirrors],
    ) -> Moves:
        flips: dict[str, Moved] = {}
        others: list[Moved] = []
        for (layer, what), sums in ways.items():
            if layer != name:
                continue
            kind, _, text = what.partition(" ")
            way = next((w for w in WAYS if kind == "flip" and w.text == text), None)
            key = (name, "flip" if way else what)
            known = Answers.joined(true[key]) if key in true else None
            kernel = way.kernel if way is not None else 0
            weight = mirrors[name].maps[kernel].weight if kernel else None
            found = Moved(
                what,
                None if not sums.error else 10 * float(np.log10(sums.error / max(sums.energy, 1e-300))),
                None if known is None else compare(known, Answers.joined(sums.answers), None, self.factor),
                None if known is None else compare(known, Answers.joined(still), None, self.factor),
                statistics.median(sums.seconds),
                0 if weight is None else weight.numel() * (self.specs[name].values // self.specs[name].channels),
            )
            if way is None:
                others.append(found)
            else:
                flips[text] = found
        return Moves(self.grids.get(name), flips, tuple(others))


def _float(features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x.float() for name, x in features.items()}
