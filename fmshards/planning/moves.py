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

from fmshards.augment import (
    FLIP,
    Crop,
    LayerMove,
    Mirror,
    MirrorParts,
    Recipe,
    ResizedCrop,
    fresh_theta,
    move,
    whole_cells,
)
from fmshards.calibration import FeaturesOf, measure_grid
from fmshards.calibration.mirror_fit import FoundMirror, MirrorSample, unknowns_of
from fmshards.codec import FeatureSpec
from fmshards.planning.measure import Answers, Outcome, Suffix, compare
from fmshards.planning.photos import Photos, spread
from fmshards.shards import Grid

_FITTED, _JUDGED = 256, 96  # photos that mirror maps are fitted on, and others that moves are judged on
_GRID, _BATCH = 4, 8
_MAPS = {1: 4096, 3: 1200}  # by the kernel, unknowns beyond which a fit takes minutes
_PART = 0.3  # of the mirror's channels, stored

Thetas = npt.NDArray[np.float32]
Stage = Callable[[str, int, int], None]


STORED, NONE = Mirror(), Mirror("none")
WAYS = (NONE, Mirror("mapped", kernel=1), Mirror("mapped", kernel=3), Mirror(fraction=_PART, rest="map", kernel=1))
"""Mirrors that are measured; one that is stored whole is the true one."""


def share_stored(mirror: Mirror) -> float:
    """The share of the mirror's channels that are stored."""
    return mirror.fraction if mirror.way == "stored" else 0.0


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

    A crop is measured as the recipe has it and by whole cells. Features are not kept: memory is
    that of a batch. Deterministic for a seed. stage: told of photos done. factor: as `compare` takes it.
    """
    size, kinds = photos.size, {}
    fit, judge = _parts(len(photos))
    blank = prefix(photos.preprocess.base(Image.new("RGB", photos.images[0].size))[None].to(device))
    fills = {name: blank[name][0].float() for name, spec in specs.items() if spec.spatial is not None}
    grids = measure_grid(prefix, photos.base(spread(len(photos), _GRID)).to(device), specs, seed) if fills else {}
    moving = [term for term in recipe.terms if isinstance(term, (Crop, ResizedCrop))]
    for chosen in (Recipe((each,)) for term in moving for each in _moves_of(term, grids)):
        kinds[str(chosen)] = fresh_theta(chosen, seed, 0, judge, [False], size, references=("base",))
    run = _Run(photos, prefix, suffixes, specs, device, grids, fills, stage, factor)
    maps = run.fit(fit) if recipe.flips else {}
    return run.judge(judge, kinds, maps, recipe.flips)


def _parts(n: int) -> tuple[list[int], list[int]]:
    """Photos to fit maps on, and others to judge by: every third."""
    judged = list(range(2, n, 3)) if n >= 3 else list(range(n))
    fitted = [i for i in range(n) if i % 3 != 2]
    return [fitted[i] for i in spread(len(fitted), _FITTED)], [judged[i] for i in spread(len(judged), _JUDGED)]


def _moves_of(term: Crop | ResizedCrop, grids: Mapping[str, Grid]) -> list[Crop | ResizedCrop]:
    """What stands for a term: the term, and a crop by whole cells of the coarsest layer; by whole cells of each layer,
    as far as its pad goes, where its step is open."""
    if not isinstance(term, Crop) or not term.pad:
        return [term]
    if term.step is None:
        steps = {whole_cells({name: grid.stride}) for name, grid in grids.items()}
        return [Crop(term.pad, step) for step in sorted(steps) if step <= term.pad]
    coarse = round(max((stride for grid in grids.values() for stride in grid.stride), default=1))
    return [term] if term.step % coarse == 0 else [term, Crop(max(1, term.pad // coarse) * coarse, coarse)]


_Mirrors = Mapping[Mirror, FoundMirror]
"""Of one layer, those of WAYS that have a map."""


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
        """Maps by least squares, each for all ways that have it."""
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
        found: dict[str, dict[Mirror, FoundMirror]] = {name: {} for name in self.specs}
        for way in WAYS:
            for name in self.specs:
                if way.mapped and (name, way.kernel) in samples:
                    found[name][way] = samples[name, way.kernel].fit(name, share_stored(way))
        return dict(found)

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
                                count(name, f"flip {way}", found, wanted[name], time.perf_counter() - began)
                    elif spec.spatial is not None:
                        began = time.perf_counter()
                        found = self._move(name, base[name], kinds[what][start : start + _BATCH])
                        count(name, what, found, wanted[name], time.perf_counter() - began)
            self.stage("moves", start + len(part), len(chosen))
        return {name: self._layer(name, ways, true, still[name], mirrors) for name in self.specs}

    def _mirror(
        self, name: str, way: Mirror, base: torch.Tensor, true: torch.Tensor, mirrors: _Mirrors
    ) -> torch.Tensor | None:
        """A way's features of the flipped images; None where no map could be fitted."""
        spec = self.specs[name]
        if not way.mapped:
            still = spec.spatial is None
            return base if still else self._move(name, base, np.tile(FLIP.astype(np.float32), (len(base), 1, 1)))
        if way not in mirrors:
            return None
        found = mirrors[way]
        parts = MirrorParts.of(self._how(name), found.channels, found.map).on(self.device)
        stored = true.index_select(spec.channel_axis + 1, parts.at) if found.channels else None
        return parts.reference(base.clone(), stored, torch.ones(len(base), dtype=torch.bool, device=base.device))

    def _move(self, name: str, base: torch.Tensor, theta: Thetas) -> torch.Tensor:
        return move(base, theta, np.zeros(len(base), bool), self._how(name))

    def _how(self, name: str) -> LayerMove:
        return LayerMove(self.specs[name], self.photos.size, self.grids.get(name), self.fills.get(name))

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
            way = next((w for w in WAYS if kind == "flip" and str(w) == text), None)
            key = (name, "flip" if way else what)
            known = Answers.joined(true[key]) if key in true else None
            own = None if way is None or way not in mirrors.get(name, {}) else mirrors[name][way].map
            found = Moved(
                what,
                None if not sums.error else 10 * float(np.log10(sums.error / max(sums.energy, 1e-300))),
                None if known is None else compare(known, Answers.joined(sums.answers), None, self.factor),
                None if known is None else compare(known, Answers.joined(still), None, self.factor),
                statistics.median(sums.seconds),
                0 if own is None else own.multiplications,
            )
            if way is None:
                others.append(found)
            else:
                flips[text] = found
        return Moves(self.grids.get(name), flips, tuple(others))


def _float(features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x.float() for name, x in features.items()}
