"""Everything that is measured before a set with a recipe is written, for all its layers together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    settle_step,
    view_reference,
    view_theta,
)
from fmshards.calibration.grid import FeaturesOf, grid_passes, measure_grid
from fmshards.calibration.mirror_fit import FoundMirror
from fmshards.calibration.mirrors import Specs, find_mirrors, moved_references, pairs
from fmshards.calibration.passes import Counted, Run, Stage, Thetas, as_floats, spread
from fmshards.calibration.sensitive import Sensitive
from fmshards.calibration.similarity import Comparison
from fmshards.codec import FeatureSpec, Sample
from fmshards.errors import InputError, ModelError
from fmshards.model import Preprocess
from fmshards.shards import Grid, Similarity

_GRID_IMAGES, _LEAST_GRID = 8, 4  # that the grid is measured on
_GRID_EACH = 32  # without a recipe, samples for one image more in which each of its 32 columns is tried
_MOST, _LEAST, _PART = 512, 16, 8  # samples of a set to calibrate on: an eighth, within these
_LOOKS = ("calibration", 2)  # the stream of thetas, and how many looks (base, mirror) take turns


@dataclass(frozen=True)
class LayerCalibration:
    """What calibration found for one layer.

    similarity: of S_theta(reference) with the feature of the moved image; None without a recipe, or with a custom one.
    sensitive: the channels that views store; () without views.
    grid: None where the feature has no places, or no fill. fill: float32 [*shape], the feature of a blank image, on the
    CPU; None without places. Both are measured whatever the recipe, since training may have one of its own.
    mirror: what became of it; None where it is simply stored, or there is none.
    nonnegative: no value below zero was seen: the cut follows a ReLU.
    """

    similarity: Similarity | None
    sensitive: tuple[int, ...]
    grid: Grid | None
    fill: torch.Tensor | None
    mirror: FoundMirror | None
    nonnegative: bool

    @property
    def mirror_map(self) -> MirrorMap | None:
        """The map from the base, where (a part of) the mirror is mapped."""
        return None if self.mirror is None else self.mirror.map

    @property
    def mirror_error(self) -> float | None:
        """The error of the mirror in dB where not all of it is stored, on samples that no map was fitted on."""
        return None if self.mirror is None else self.mirror.error


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
    samples: Mapping[str, Sequence[Sample]] | None = None,
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
    looks = followed and (_moves(recipe, mirror) or (with_mirror and mirror.mapped))
    counted = Counted(prefix, _work(len(images), size, recipe, mirror, specs, looks), stage)
    run = Run(counted, images, preprocess, max(1, batch), torch.device(device), size)
    fills, grids = dict[str, torch.Tensor](), dict[str, Grid]()
    if _placed(specs):
        blank = counted(preprocess.base(Image.new("RGB", images[0].size))[None].to(run.device))
        fills = {name: blank[name][0].float().cpu() for name in _placed(specs)}
        fills = {name: fill for name, fill in fills.items() if _is_fill(fill, name, recipe)}
        of, each = _grid_images(len(images), recipe)
        measured = measure_grid(counted, run.base(spread(len(images), of)), specs, seed, each)
        grids = {name: grid for name, grid in measured.items() if name in fills}
    recipe = settle_step(recipe, {name: grid.stride for name, grid in grids.items()})
    hows = {name: _how(spec, run, grids.get(name), fills.get(name)) for name, spec in specs.items()}
    mirrors = find_mirrors(run, mirror, hows, specs) if with_mirror else {}
    comparisons = {name: Comparison.empty(spec) for name, spec in specs.items()}
    lowest, finite = dict.fromkeys(specs, float("inf")), dict.fromkeys(specs, True)
    for chosen in run.batches():
        theta, mirrored = _looks(recipe, mirror, seed, chosen, run.size) if looks else (None, None)
        x, shown = run.base_and_moved(chosen, theta)
        base = as_floats(counted(x))
        for name in specs:
            lowest[name] = min(lowest[name], float(base[name].min()))
            finite[name] = finite[name] and bool(torch.isfinite(base[name]).all())
        for name, wanted in (samples or {}).items():
            for sample in wanted:
                sample.add(base[name])
        if theta is None or mirrored is None or shown is None:
            continue
        moved = moved_references(run, base, x, theta, mirrored, mirror, mirrors, hows)
        true = as_floats(counted(shown))
        for name in specs:
            comparisons[name].add(moved[name], true[name])
    return {
        name: LayerCalibration(
            similarity=_similarity(comparisons[name], name, finite[name]) if followed else None,
            sensitive=_choose(sensitive, comparisons[name], name, recipe, mirror) if views else (),
            grid=grids.get(name),
            fill=fills.get(name),
            mirror=mirrors.get(name),
            nonnegative=lowest[name] >= 0,
        )
        for name in specs
    }


def default_calibration(samples: int | None) -> int:
    """How many samples to calibrate on where nobody says it: an eighth of the set, from 16 to 512.

    samples: of the set; None where that is not known.
    """
    return _MOST if samples is None else min(_MOST, max(_LEAST, samples // _PART))


def _work(images: int, size: tuple[int, int], recipe: Recipe, mirror: Mirror, specs: Specs, looks: bool) -> int:
    """How many images will go through the prefix."""
    total = images
    if _placed(specs):
        total += 1 + grid_passes(size, *_grid_images(images, recipe))
    if recipe.flips:
        total += pairs(images, mirror, specs)
    if looks:
        total += images + (images // 2 if recipe.flips and mirror.way == "stored" else 0)
    return total


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
    return recipe.moves or (recipe.flips and mirror.flipped)


def _how(spec: FeatureSpec, run: Run, grid: Grid | None, fill: torch.Tensor | None) -> LayerMove:
    return LayerMove(spec, run.size, grid, None if fill is None else fill.to(run.device))


def _grid_images(total: int, recipe: Recipe) -> tuple[int, int]:
    """How many of `total` samples the grid is measured on, and in how many of them each column is tried.

    In all of them where a recipe asks for the grid. A set without one gets it for recipes that training may have later,
    and pays no more for it than the sample costs.
    """
    images = min(total, max(_LEAST_GRID, min(_GRID_IMAGES, total // _PART)))
    return images, images if recipe else max(1, min(images, total // _GRID_EACH))


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


def _looks(
    recipe: Recipe, mirror: Mirror, seed: int, chosen: Sequence[int], size: tuple[int, int]
) -> tuple[Thetas, np.ndarray[Any, np.dtype[np.bool_]]]:
    """theta float32[B, 2, 3] and mirrored bool[B] of these samples: views 1 and 2 in turn."""
    stream, looks = _LOOKS
    every = view_theta(recipe, mirror, seed, stream, [str(i) for i in chosen], looks, size)
    turn = np.array(chosen) % looks
    mirrored = np.array([view_reference(int(t) + 1, recipe, mirror) == "mirror" for t in turn])
    return every[np.arange(len(chosen)), turn], mirrored


def _choose(
    sensitive: Sensitive | None, comparison: Comparison, layer: str, recipe: Recipe, mirror: Mirror
) -> tuple[int, ...]:
    assert sensitive is not None  # checked
    # What has no places cannot be moved at all: it takes whole views, whatever is chosen for the other layers.
    if recipe.custom_text is not None or _stuck(comparison.spec, recipe, mirror):
        return tuple(range(comparison.spec.channels))
    return sensitive.choose(comparison, layer)
