"""Everything that is measured before a set with a recipe is written, for all its layers together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from fmshards.augment import (
    Mirror,
    MirrorMap,
    Recipe,
    move,
    render,
    view_reference,
    view_theta,
)
from fmshards.calibration.grid import Prefix, measure_grid
from fmshards.calibration.mirror_fit import fit_mirror
from fmshards.calibration.sensitive import Sensitive
from fmshards.calibration.similarity import Comparison
from fmshards.codec import FeatureSpec, Sample
from fmshards.errors import InputError
from fmshards.model import Preprocess
from fmshards.shards import Grid, Similarity

_FIT_BYTES = 512 << 20  # features kept for the mirror maps, all layers together, as float32
_LEAST_FIT = 16  # samples, whatever they take
_GRID_IMAGES = 8
_LOOKS = ("calibration", 2)  # the stream of thetas, and how many looks (base, mirror) take turns


@dataclass(frozen=True)
class LayerCalibration:
    """What calibration found for one layer.

    similarity: of S_theta(reference) with the feature of the moved image; None without a recipe, or with a custom one.
    sensitive: the channels that views store; () without views.
    grid: None where the feature has no places, or without a recipe. fill: float32 [*shape], the feature of a blank
        image, on the CPU; None with it.
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
    prefix: Prefix,
    images: Sequence[Image.Image],
    preprocess: Preprocess,
    recipe: Recipe,
    mirror: Mirror,
    views: int,
    sensitive: Sensitive | None,
    specs: Mapping[str, FeatureSpec],
    *,
    samples: Mapping[str, Sample] | None = None,
    batch: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, LayerCalibration]:
    """Measure each layer of `specs` on `images`, the calibration sample.

    prefix: images float32 [B, 3, H, W] on `device` -> {layer: features [B, *shape]}, all layers in one pass.
    sensitive: needed where views > 0. samples: by layer, what codecs want to know; the base's features are added.

    Each image is moved once by a theta drawn as a view's is, from base and mirror in turn; the reference is what
    training will have (the flipped image's feature where the mirror is stored, the mapped one where it is mapped), so
    what is measured is what neither S_theta nor the mirror can follow. Features are not kept but for the mirror
    maps (at most 512 MB, or 16 samples). Deterministic: it depends on its arguments alone.

    Raises InputError for an empty sample, for views without sensitive channels, for a recipe that moves a feature
    without places where no views are stored, and for a custom recipe without whole views.
    """
    _check(images, recipe, mirror, views, sensitive, specs)
    run = _Run(prefix, images, preprocess, max(1, batch), torch.device(device))
    with_mirror = recipe.flips and mirror.way != "none"
    fills, grids, maps = dict[str, torch.Tensor](), dict[str, Grid](), dict[str, tuple[MirrorMap, float]]()
    if recipe:
        blank = prefix(preprocess.base(Image.new("RGB", images[0].size))[None].to(run.device))
        fills = {name: blank[name][0].float().cpu() for name, spec in specs.items() if spec.spatial}
        some = run.base(_spread(len(images), _GRID_IMAGES))
        grids = measure_grid(prefix, some, specs, seed)
    if with_mirror and mirror.way == "mapped":
        maps = _fit_mirrors(run, mirror, specs)
    comparisons = {name: Comparison.empty(spec) for name, spec in specs.items()}
    lowest = dict.fromkeys(specs, float("inf"))
    for chosen in run.batches():
        x = run.base(chosen)
        base = _float(prefix(x))
        for name in specs:
            lowest[name] = min(lowest[name], float(base[name].min()))
        for name, sample in (samples or {}).items():
            sample.add(base[name])
        if not recipe or recipe.custom_text is not None:
            continue
        size = (int(x.shape[2]), int(x.shape[3]))
        theta, mirrored = _looks(recipe, mirror, seed, chosen, size)
        reference = _references(run, base, x, mirrored, maps, specs)
        true = _float(prefix(run.moved(chosen, theta)))
        for name, spec in specs.items():
            moved = reference[name]
            if spec.spatial is not None:
                moved = move(moved, theta, mirrored, spec, grids[name], fills[name].to(run.device), size)
            comparisons[name].add(moved, true[name])
    return {
        name: LayerCalibration(
            similarity=comparisons[name].similarity() if recipe and recipe.custom_text is None else None,
            sensitive=_choose(sensitive, comparisons[name], name, recipe, mirror) if views else (),
            grid=grids.get(name),
            fill=fills.get(name),
            mirror_map=maps[name][0] if name in maps else None,
            mirror_error=maps[name][1] if name in maps else None,
            nonnegative=lowest[name] >= 0,
        )
        for name in specs
    }


@dataclass(frozen=True)
class _Run:
    """The sample, and how batches of it are made."""

    prefix: Prefix
    images: Sequence[Image.Image]
    preprocess: Preprocess
    batch: int
    device: torch.device

    def batches(self) -> Iterator[list[int]]:
        for start in range(0, len(self.images), self.batch):
            yield list(range(start, min(start + self.batch, len(self.images))))

    def base(self, chosen: Sequence[int]) -> torch.Tensor:
        made = [self.preprocess.base(self.images[i]) for i in chosen]
        sizes = {tuple(x.shape[1:]) for x in made}
        if len(sizes) > 1:
            raise InputError(
                f"calibration: base images of several sizes, {sorted(sizes)[:4]}; all must be of one (height, width): "
                "add resize and center_crop to the preprocessing"
            )
        return torch.stack(made).to(self.device)

    def moved(self, chosen: Sequence[int], theta: np.ndarray[Any, np.dtype[np.float32]]) -> torch.Tensor:
        pairs = zip(chosen, theta, strict=True)
        return torch.stack([render(self.images[i], self.preprocess, t) for i, t in pairs]).to(self.device)


def _check(
    images: Sequence[Image.Image],
    recipe: Recipe,
    mirror: Mirror,
    views: int,
    sensitive: Sensitive | None,
    specs: Mapping[str, FeatureSpec],
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
    return spec.spatial is None and (recipe.moves or (recipe.flips and mirror.way == "none"))


def _spread(total: int, most: int) -> list[int]:
    """At most `most` of range(total), evenly spread."""
    count = min(total, most)
    return [i * total // count for i in range(count)]


def _float(features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x.float() for name, x in features.items()}


def _fit_mirrors(run: _Run, mirror: Mirror, specs: Mapping[str, FeatureSpec]) -> dict[str, tuple[MirrorMap, float]]:
    sample_bytes = 2 * 4 * sum(spec.values for spec in specs.values())
    chosen = _spread(len(run.images), max(_LEAST_FIT, _FIT_BYTES // sample_bytes))
    pairs: dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]] = {name: ([], []) for name in specs}
    for start in range(0, len(chosen), run.batch):
        x = run.base(chosen[start : start + run.batch])
        for side, batch in enumerate((x, x.flip(-1))):
            for name, features in run.prefix(batch).items():
                if name in pairs:
                    pairs[name][side].append(features.float().cpu())
    fitted = {}
    for name, spec in specs.items():
        base, flipped = (torch.cat(part) for part in pairs.pop(name))
        relu = bool(base.min() >= 0) and bool(flipped.min() >= 0)
        fitted[name] = fit_mirror(base, flipped, spec, mirror.kernel, relu)
    return fitted


def _looks(
    recipe: Recipe, mirror: Mirror, seed: int, chosen: Sequence[int], size: tuple[int, int]
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.bool_]]]:
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
    specs: Mapping[str, FeatureSpec],
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
