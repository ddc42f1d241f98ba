"""The mirrors of a set's layers: which channels are stored, what stands in for the others, how far that is off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fmshards.augment import FLIP, LayerMove, Mirror, MirrorParts, move
from fmshards.calibration.mirror_fit import FoundMirror, MirrorSample, unknowns_of
from fmshards.calibration.passes import Run, Thetas, as_floats, spread
from fmshards.calibration.sensitive import largest
from fmshards.calibration.similarity import Comparison
from fmshards.codec import FeatureSpec

FIT_BYTES = 512 << 20  # features that the mirror maps are fitted on, all layers together, as float32
_LEAST_FIT = 16  # samples, whatever they take
MATRIX_BYTES = 1 << 30  # of the normal equations of the layers that are fitted in one pass

Specs = Mapping[str, FeatureSpec]


def find_mirrors(run: Run, mirror: Mirror, hows: Mapping[str, LayerMove], specs: Specs) -> dict[str, FoundMirror]:
    """What becomes of each layer's mirror; {} where it is simply stored, or there is none.

    Maps are fitted, and the channels to be stored chosen, on as many of the images as `pairs` says.
    """
    if mirror.mapped:
        return _fitted(run, mirror, specs)
    if mirror.part and mirror.flipped:
        return _flipped(run, mirror, hows, specs)
    if mirror.part:
        return {name: FoundMirror(tuple(range(spec.channels))) for name, spec in specs.items()}
    return {}


def pairs(images: int, mirror: Mirror, specs: Specs) -> int:
    """How many images `find_mirrors` takes through the prefix."""
    passes = len(_together(specs, mirror.kernel)) if mirror.mapped else int(mirror.part and mirror.flipped)
    return 2 * passes * len(_chosen(images, specs))


def moved_references(
    run: Run,
    base: dict[str, torch.Tensor],
    x: torch.Tensor,
    theta: Thetas,
    mirrored: np.ndarray[Any, np.dtype[np.bool_]],
    mirror: Mirror,
    found: Mapping[str, FoundMirror],
    hows: Mapping[str, LayerMove],
) -> dict[str, torch.Tensor]:
    """The references of images x as training moves them, by layer [B, *shape]: the mirror's where `mirrored`.

    base: their features. What has no places stays where it is.
    """
    where = torch.from_numpy(np.flatnonzero(mirrored)).to(run.device)
    flipped: dict[str, torch.Tensor] = {}
    if len(where) and mirror.way == "stored":
        flipped = as_floats(run.prefix(x[where].flip(-1)))
    thetas, shown = torch.from_numpy(theta).to(run.device), torch.from_numpy(mirrored).to(run.device)
    out = {}
    for name, how in hows.items():
        own, known, still = base[name], found.get(name), how.spec.spatial is None
        if known is None:
            reference = own.index_copy(0, where, flipped[name]) if flipped else own
            out[name] = reference if still else move(reference, thetas, shown, how)
            continue
        stored = None
        if known.channels and flipped:
            axis = how.spec.channel_axis + 1
            channels = torch.tensor(known.channels, device=run.device)
            of_all = flipped[name].index_select(axis, channels)
            stored = of_all.new_zeros(len(own), *of_all.shape[1:]).index_copy(0, where, of_all)
        parts, own = MirrorParts.of(how, known.channels, known.map), own.clone()
        if still:
            out[name] = own if mirror.flipped else parts.reference(own, stored, shown)
        else:
            out[name] = parts.move(own, stored, thetas, shown)
    return out


def _fitted(run: Run, mirror: Mirror, specs: Specs) -> dict[str, FoundMirror]:
    chosen = _chosen(len(run.images), specs)
    fitted = {}
    for names in _together(specs, mirror.kernel):
        samples = {name: MirrorSample(specs[name], mirror.kernel, len(chosen)) for name in names}
        for base, flipped in _features(run, chosen):
            for name, sample in samples.items():
                sample.add(base[name], flipped[name])
        for name in names:
            fitted[name] = samples.pop(name).fit(name, mirror.fraction if mirror.part else 0.0)
    return fitted


def _flipped(run: Run, mirror: Mirror, hows: Mapping[str, LayerMove], specs: Specs) -> dict[str, FoundMirror]:
    chosen = _chosen(len(run.images), specs)
    comparisons = {name: Comparison.empty(spec) for name, spec in specs.items()}
    for base, flipped in _features(run, chosen):
        for name, how in hows.items():
            x = base[name].float()
            if how.spec.spatial is not None:
                theta = np.tile(FLIP.astype(np.float32), (len(x), 1, 1))
                x = move(x, theta, np.zeros(len(x), bool), how)
            comparisons[name].add(x, flipped[name])
    out = {}
    for name, spec in specs.items():
        gap, energy = comparisons[name].gap, comparisons[name].true.sum()
        channels = largest(gap, mirror.fraction)
        left = float(np.delete(gap, channels).sum())
        error = None if len(channels) == spec.channels else 10 * math.log10(max(left / max(energy, 1e-300), 1e-20))
        out[name] = FoundMirror(channels, error=error, judged=len(chosen))
    return out


def _features(
    run: Run, chosen: Sequence[int]
) -> Iterator[tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]]]:
    """Features of these images and of their flips, batch by batch."""
    for start in range(0, len(chosen), run.batch):
        x = run.base(chosen[start : start + run.batch])
        yield run.prefix(x), run.prefix(x.flip(-1))


def _chosen(images: int, specs: Specs) -> list[int]:
    """The samples that mirrors are looked at on."""
    sample_bytes = 2 * 4 * sum(spec.values for spec in specs.values())
    return spread(images, max(_LEAST_FIT, FIT_BYTES // sample_bytes))


def _together(specs: Specs, kernel: int) -> list[list[str]]:
    """Layers whose mirror maps are fitted in one pass: all, unless their normal equations take too much memory."""
    groups: list[list[str]] = []
    left = 0
    for name, spec in specs.items():
        needed = 2 * 8 * unknowns_of(spec, kernel) ** 2
        if not groups or needed > left:
            groups.append([])
            left = MATRIX_BYTES
        groups[-1].append(name)
        left -= needed
    return groups
