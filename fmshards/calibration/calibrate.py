"""Everything that is measured before a set with a recipe is written, for all its layers together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from fmshards.augment import (
    LayerMove,
    Mirror,
    MirrorMap,
    Recipe,
    check_drawable,
    move,
    render,
    settle_step,
    view_reference,
    view_theta,
)
from fmshards.calibration.grid import FeaturesOf, grid_passes, measure_grid
from fmshards.calibration.mirror_fit import MirrorSample, unknowns_of
from fmshards.calibration.sensitive import Sensitive
from fmshards.calibration.similarity import Comparison
from fmshards.codec import FeatureSpec, Sample
from fmshards.errors import InputError, ModelError
from fmshards.model import Preprocess
from fmshards.shards import Grid, Similarity

Stage = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much it is in all."""

_FIT_BYTES = 512 << 20  # features that the mirror maps are fitted on, all layers together, as float32
_LEAST_FIT = 16  # samples, whatever they take
_MATRIX_BYTES = 1 << 30  # of the normal equations of the layers that are fitted in one pass
_GRID_IMAGES, _LEAST_GRID = 8, 4  # each goes 33 times through the prefix: of a small sample fewer
_MOST, _LEAST, _PART = 512, 16, 8  # samples of a set to calibrate on: an eighth, within these
Specs = Mapping[str, FeatureSpec]
Thetas = np.ndarray[Any, np.dtype[np.float32]]

_LOOKS = ("calibration", 2)  # the stream of thetas, and how many looks (base, mirror) take turns


@dataclass(frozen=True)
class LayerCalibration:
    """What calibration found for one layer.

    similarity: of S_theta(reference) with the feature of the moved image; None without a recipe, or with a custom one.
    sensitive: the channels that views store; () without views.
    grid: None where the feature has no places, or no fill. fill: float32 [*shape], the feature of a blank image, on the
    CPU; None without places. Both are measured whatever the recipe, since training may have one of its own.
    mirror_map, mirror_error: only where the mirror is mapped; the error in dB, on the part left out of the fit.
    nonnegative: no value below zero was seen: the cut follows a ReLU.
    """

    similarity: Similarity | None
    sensitive: tuple[int, ...]
    grid: Grid | None
    fill: torch.Tensor | None
    mirror_map: MirrorMap | None
    mirror_error: float | None
    nonnegative: bool


@torch.no_grad()
def calibrate(
    prefix: FeaturesOf,
    images: Sequence[Image.Image],
    preprocess: Preprocess,
    recipe: Recipe,
    mirror: Mirror,
    views: int,
    sensitive: Sensitive | None,
    specs: Specs,
    *,
    samples: Mapping[str, Sample] | None = None,
    batch: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    stage: Stage | None = None,
) -> dict[str, LayerCalibration]:
    """Measure each layer of `specs` on `images`, the calibration sample.

    prefix: images float32 [B, 3, H, W] on `device` -> {layer: features [B, *shape]}, all layers in one pass.
    sensitive: needed where views > 0. samples: by layer, what codecs want to know; the base's features are added.

    Each image is moved once by a theta drawn as a view's is, from base and mirror in turn; the reference is what
    training will have (the flipped image's feature where the mirror is stored, the mapped one where it is mapped), so
    what is measured is what neither S_theta nor the mirror can follow. Where the references leave nothing to follow, as
    a flip does whose mirror is stored, nothing is moved: all channels are alike.

    An open crop takes the step that the measured grids give it (`settle_step`).

    Features are not kept, but for the fifth of the samples by which mirror maps are judged. Deterministic: it depends
    on its arguments alone. stage: told after each pass as ("calibration", done, total), in images through the prefix.

    Raises InputError for an empty sample, for views without sensitive channels, for a recipe that moves a feature
    without places where no views are stored, for a custom recipe without whole views, and for an open crop whose pad
    is less than the step; ModelError where the prefix gives values that are not finite for a blank image.
    """
    _check(images, recipe, mirror, views, sensitive, specs)
    with_mirror = recipe.flips and mirror.way != "none"
    followed = bool(recipe) and recipe.custom_text is None
    height, width = (int(side) for side in preprocess.base(images[0]).shape[1:])
    size = (height, width)
    check_drawable(recipe, size, ("base", "mirror") if with_mirror else ("base",))
    looks = followed and (_moves(recipe, mirror) or (with_mirror and mirror.way == "mapped"))
    counted = _Counted(prefix, _work(len(images), size, recipe, mirror, specs, looks), stage)
    run = _Run(counted, images, preprocess, max(1, batch), torch.device(device), size)
    fills, grids, maps = dict[str, torch.Tensor](), dict[str, Grid](), dict[str, tuple[MirrorMap, float]]()
    if _placed(specs):
        blank = counted(preprocess.base(Image.new("RGB", images[0].size))[None].to(run.device))
        fills = {name: blank[name][0].float().cpu() for name in _placed(specs)}
        fills = {name: fill for name, fill in fills.items() if _is_fill(fill, name, recipe)}
        measured = measure_grid(counted, run.base(_spread(len(images), _grid_images(len(images)))), specs, seed)
        grids = {name: grid for name, grid in measured.items() if name in fills}
    recipe = settle_step(recipe, {name: grid.stride for name, grid in grids.items()})
    if with_mirror and mirror.way == "mapped":
        maps = _fit_mirrors(run, mirror, specs)
    comparisons = {name: Comparison.empty(spec) for name, spec in specs.items()}
    lowest, finite = dict.fromkeys(specs, float("inf")), dict.fromkeys(specs, True)
    for chosen in run.batches():
        theta, mirrored = _looks(recipe, mirror, seed, chosen, run.size) if looks else (None, None)
        x, shown = run.base_and_moved(chosen, theta)
        base = _float(counted(x))
        for name in specs:
            lowest[name] = min(lowest[name], float(base[name].min()))
            finite[name] = finite[name] and bool(torch.isfinite(base[name]).all())
        for name, sample in (samples or {}).items():
            sample.add(base[name])
        if theta is None or mirrored is None or shown is None:
            continue
        reference = _references(run, base, x, mirrored, maps, specs)
        true = _float(counted(shown))
        for name, spec in specs.items():
            moved = reference[name]
            if spec.spatial is not None:
                how = LayerMove(spec, run.size, grids.get(name), fills[name].to(run.device))
                moved = move(moved, theta, mirrored, how)
            comparisons[name].add(moved, true[name])
    return {
        name: LayerCalibration(
            similarity=_similarity(comparisons[name], name, finite[name]) if followed else None,
            sensitive=_choose(sensitive, comparisons[name], name, recipe, mirror) if views else (),
            grid=grids.get(name),
            fill=fills.get(name),
            mirror_map=maps[name][0] if name in maps else None,
            mirror_error=maps[name][1] if name in maps else None,
            nonnegative=lowest[name] >= 0,
        )
        for name in specs
    }


def default_calibration(samples: int | None) -> int:
    """How many samples to calibrate on where nobody says it: an eighth of the set, from 16 to 512.

    samples: of the set; None where that is not known.
    """
    return _MOST if samples is None else min(_MOST, max(_LEAST, samples // _PART))


class _Counted:
    """The prefix, and how many images have been through it."""

    def __init__(self, prefix: FeaturesOf, total: int, stage: Stage | None) -> None:
        self._prefix, self._total, self._stage = prefix, total, stage
        self._done = 0

    def __call__(self, x: torch.Tensor) -> Mapping[str, torch.Tensor]:
        features = self._prefix(x)
        self._done += len(x)
        if self._stage is not None:
            self._stage("calibration", self._done, self._total)
        return features


def _work(images: int, size: tuple[int, int], recipe: Recipe, mirror: Mirror, specs: Specs, looks: bool) -> int:
    """How many images will go through the prefix."""
    total = images
    if _placed(specs):
        total += 1 + grid_passes(size) * min(images, _grid_images(images))
    if recipe.flips and mirror.way == "mapped":
        total += 2 * len(_fitted_on(images, specs)) * len(_together(specs, mirror.kernel))
    if looks:
        total += images + (images // 2 if recipe.flips and mirror.way == "stored" else 0)
    return total


@dataclass(frozen=True)
class _Run:
    """The sample, and how batches of it are made. size: (H, W) of the base images."""

    prefix: FeaturesOf
    images: Sequence[Image.Image]
    preprocess: Preprocess
    batch: int
    device: torch.device
    size: tuple[int, int]

    def batches(self) -> Iterator[list[int]]:
        for start in range(0, len(self.images), self.batch):
            yield list(range(start, min(start + self.batch, len(self.images))))

    def base(self, chosen: Sequence[int]) -> torch.Tensor:
        return self.base_and_moved(chosen, None)[0]

    def base_and_moved(self, chosen: Sequence[int], theta: Thetas | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The base images of these samples, and where there are thetas the images moved by them; each decoded once."""
        base, moved = [], []
        for place, i in enumerate(chosen):
            image = self.images[i]
            base.append(self.preprocess.base(image))
            if tuple(base[-1].shape[1:]) != self.size:
                raise InputError(
                    f"calibration: base images of several sizes, {self.size} and {tuple(base[-1].shape[1:])}; all must "
                    "be of one (height, width): add resize and center_crop to the preprocessing"
                )
            if theta is not None:
                moved.append(render(image, self.preprocess, theta[place]))
        shown = torch.stack(moved).to(self.device) if moved else None
        return torch.stack(base).to(self.device), shown


def _check(
    images: Sequence[Image.Image],
    recipe: Recipe,
    mirror: Mirror,
    views: int,
    sensitive: Sensitive | None,
    specs: Specs,
) -> None:
    if not len(images):
        raise InputError("calibration: the sample is empty; it needs at least one image")
    if views and sensitive is None:
        raise InputError(f"views={views} needs sensitive: the channels that a view stores, such as sensitive=0.25")
    if recipe.custom_text is not None and not (views and sensitive is not None and sensitive.whole):
        raise InputError(
            f"recipe {recipe}: features cannot follow a transform of your own; store whole views of it, with views=V "
            "and sensitive=1.0"
        )
    for name, spec in specs.items():
        if _stuck(spec, recipe, mirror) and not views:
            raise InputError(
                f"{name} has no places, so it cannot follow the recipe {recipe} with mirror {mirror}: store whole "
                "views of it (views=V, sensitive=1.0), or use a recipe that only flips, its mirror stored or mapped"
            )


def _stuck(spec: FeatureSpec, recipe: Recipe, mirror: Mirror) -> bool:
    """Whether the feature has no places, and the references leave something to move."""
    return spec.spatial is None and _moves(recipe, mirror)


def _moves(recipe: Recipe, mirror: Mirror) -> bool:
    """Whether the references leave something to move."""
    return recipe.moves or (recipe.flips and mirror.way == "none")


def _spread(total: int, most: int) -> list[int]:
    """At most `most` of range(total), evenly spread."""
    count = min(total, most)
    return [i * total // count for i in range(count)]


def _grid_images(total: int) -> int:
    """How many of `total` samples the grid is measured on."""
    return max(_LEAST_GRID, min(_GRID_IMAGES, total // _PART))


def _float(features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x.float() for name, x in features.items()}


def _placed(specs: Specs) -> list[str]:
    """The layers whose features have places."""
    return [name for name, spec in specs.items() if spec.spatial is not None]


def _is_fill(fill: torch.Tensor, layer: str, recipe: Recipe) -> bool:
    """Whether it can be one. Raises ModelError where it cannot, and the recipe wants it."""
    finite = bool(torch.isfinite(fill).all())
    if recipe and not finite:
        raise ModelError(
            f"{layer}: the feature of a blank image has values that are not finite; it stands for what comes in from "
            "outside when features are moved. Cut elsewhere, or extract without a recipe"
        )
    return finite


def _similarity(comparison: Comparison, layer: str, finite: bool) -> Similarity:
    # Where the image as it is has other values, extraction comes to it, and names it.
    if finite and not np.isfinite([comparison.moved, comparison.true, comparison.gap]).all():
        raise ModelError(
            f"{layer}: features of moved images have values that are not finite, those of the images have not"
        )
    return comparison.similarity()


def _fit_mirrors(run: _Run, mirror: Mirror, specs: Specs) -> dict[str, tuple[MirrorMap, float]]:
    chosen = _fitted_on(len(run.images), specs)
    fitted = {}
    for names in _together(specs, mirror.kernel):
        samples = {name: MirrorSample(specs[name], mirror.kernel, len(chosen)) for name in names}
        for start in range(0, len(chosen), run.batch):
            x = run.base(chosen[start : start + run.batch])
            base, flipped = run.prefix(x), run.prefix(x.flip(-1))
            for name, sample in samples.items():
                sample.add(base[name], flipped[name])
        for name in names:
            fitted[name] = samples.pop(name).fit(name)
    return fitted


def _fitted_on(images: int, specs: Specs) -> list[int]:
    """The samples that mirror maps are fitted on."""
    sample_bytes = 2 * 4 * sum(spec.values for spec in specs.values())
    return _spread(images, max(_LEAST_FIT, _FIT_BYTES // sample_bytes))


def _together(specs: Specs, kernel: int) -> list[list[str]]:
    """Layers whose mirror maps are fitted in one pass: all, unless their normal equations take too much memory."""
    groups: list[list[str]] = []
    left = 0
    for name, spec in specs.items():
        needed = 2 * 8 * unknowns_of(spec, kernel) ** 2
        if not groups or needed > left:
            groups.append([])
            left = _MATRIX_BYTES
        groups[-1].append(name)
        left -= needed
    return groups


def _looks(
    recipe: Recipe, mirror: Mirror, seed: int, chosen: Sequence[int], size: tuple[int, int]
) -> tuple[Thetas, np.ndarray[Any, np.dtype[np.bool_]]]:
    """theta float32[B, 2, 3] and mirrored bool[B] of these samples: views 1 and 2 in turn."""
    stream, looks = _LOOKS
    every = view_theta(recipe, mirror, seed, stream, [str(i) for i in chosen], looks, size)
    turn = np.array(chosen) % looks
    mirrored = np.array([view_reference(int(t) + 1, recipe, mirror) == "mirror" for t in turn])
    return every[np.arange(len(chosen)), turn], mirrored


def _references(
    run: _Run,
    base: dict[str, torch.Tensor],
    x: torch.Tensor,
    mirrored: np.ndarray[Any, np.dtype[np.bool_]],
    maps: Mapping[str, tuple[MirrorMap, float]],
    specs: Specs,
) -> dict[str, torch.Tensor]:
    """The references' features: the base's, and the mirror's for the samples `mirrored`."""
    if not mirrored.any():
        return base
    where = torch.from_numpy(np.flatnonzero(mirrored)).to(run.device)
    if maps:
        flipped = {name: maps[name][0].apply(base[name][where]) for name in specs}
    else:
        flipped = _float(run.prefix(x[where].flip(-1)))
    return {name: base[name].index_copy(0, where, flipped[name]) for name in specs}


def _choose(
    sensitive: Sensitive | None, comparison: Comparison, layer: str, recipe: Recipe, mirror: Mirror
) -> tuple[int, ...]:
    assert sensitive is not None  # checked
    # What has no places cannot be moved at all: it takes whole views, whatever is chosen for the other layers.
    if recipe.custom_text is not None or _stuck(comparison.spec, recipe, mirror):
        return tuple(range(comparison.spec.channels))
    return sensitive.choose(comparison, layer)
