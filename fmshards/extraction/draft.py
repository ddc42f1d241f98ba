"""A plan for a set that is not there yet: cuts, codecs, chunk length, and what calibration measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fmshards.augment import poor_moves, settle_step
from fmshards.calibration import FeaturesOf, LayerCalibration, Stage, calibrate
from fmshards.codec import Rate, Sample, fit, sample_for, samples_wanted
from fmshards.errors import InputError, ModelError, warn
from fmshards.extraction.calibration_images import calibration_images, head
from fmshards.extraction.decode import Decoder
from fmshards.extraction.forward import run_prefix
from fmshards.extraction.provenance import provenance
from fmshards.extraction.request import Request
from fmshards.model import Cut, cuts_of, find_cut, multi_prefix
from fmshards.shards import LayerPlan, Plan, check_readable

Arrays = dict[str, np.ndarray[Any, Any]]

CHUNK_BYTES = 4 << 20
_LOOK = 16  # samples looked at where there is no recipe to calibrate for
_EXACT_DB = -300.0  # stands for a mapped mirror without any error: JSON has no infinity


def draft_plan(request: Request, stage: Stage | None = None) -> tuple[Plan, Arrays]:
    """The plan of a new set, without its calibration entry, and the calibration's arrays ("layer2/fill").

    Reads the calibration sample, and runs the prefix on it; stage is told how far this is. Raises what reading, the
    model and calibration raise.
    """
    base = first_base(request)
    size = (int(base.shape[1]), int(base.shape[2]))
    images = calibration_images(Decoder(request.source, request.preprocess, size, keep=request.kept), _wanted(request))
    example = base[None].to(request.device)
    found = asked_cuts(request, example)
    prefix = _named_prefix(request, found, example)
    dtypes = _check_features(prefix, example, found)
    samples = {name: _samples(request, name, cut, len(images)) for name, cut in found.items()}
    measured = calibrate(
        prefix,
        images,
        request.preprocess,
        request.recipe,
        request.mirror,
        request.options.views,
        request.sensitive,
        {name: cut.spec for name, cut in found.items()},
        samples={name: list(wanted.values()) for name, wanted in samples.items()},
        batch=request.batch,
        seed=request.options.seed,
        device=request.device,
        stage=stage,
    )
    # As calibration settled it: of the same grids.
    strides = {name: own.grid.stride for name, own in measured.items() if own.grid is not None}
    request = replace(request, recipe=settle_step(request.recipe, strides))
    for line in [] if request.options.views else poor_moves(request.recipe, strides):
        warn(line)
    layers = tuple(_layer(request, name, found[name], samples[name], measured[name], dtypes[name]) for name in found)
    rows = [codec.row_bytes for each in layers for codec in (each.base_codec, each.own_mirror_codec) if codec]
    mirrored = request.recipe.flips and request.mirror.way != "none"
    stored = ("mirror",) if mirrored and request.mirror.way == "stored" else ()
    plan = Plan(
        identity=request.identity(size),
        options=request.plan_options(),
        provenance={
            **provenance(request.device, request.memory_format),
            "model": request.model_text,
            "weights": request.options.weights,
            "source": request.source_text,
            "probe": request.identities.probe(list(found), size, int(base.shape[0])),
            "parts": {name: request.identities.parts(name) for name in found},
            **_mirror_notes(measured, found),
        },
        inputs=request.source.inputs,
        chunk=request.options.chunk or chunk_length(max(rows)),
        base_size=size,
        recipe=request.recipe.to_json(),
        mirror=request.mirror.to_json(),
        views=request.options.views,
        references=("base", "mirror") if mirrored else ("base",),
        members=("base", *stored, *(f"view{v + 1}" for v in range(request.options.views))),
        layers=layers,
        classes=request.source.classes,
        calibration=None,
    )
    return plan, _arrays(measured)


def chunk_length(largest_row: int) -> int:
    """Samples in a chunk: 4 MB of the largest row, within 8 to 256; one length for the whole set."""
    return min(max(CHUNK_BYTES // largest_row, 8), 256)


def _wanted(request: Request) -> int:
    """Samples to calibrate on: without a recipe, or a codec that asks for more, a few do."""
    asked = [samples_wanted(rate, request.options.order) for rate in request.options.layers.values()]
    if request.recipe or None in asked:
        return request.calibration
    return min(request.calibration, max(_LOOK, *(count or 0 for count in asked)))


def first_base(request: Request) -> torch.Tensor:
    """The source's first image, float32 [3, H, W]. Raises InputError where it holds none, or fields that no set can."""
    decoder = Decoder(request.source, request.preprocess, keep=request.kept)
    for item in head(request.source, 0, 1):
        sample = decoder.sample(0, item)
        url = request.source.inputs[0].url
        check_readable(sample.fields, request.options.layers, f"{url}: key {sample.key!r}")
        return decoder.base(0, sample)
    raise InputError(f"{request.source.inputs[0].url} holds no sample")


def asked_cuts(request: Request, example: torch.Tensor) -> dict[str, Cut]:
    """The cut of each layer that is asked for. Raises ModelError, and InputError for one cut under two names."""
    known = request.analysis(example)
    every = cuts_of(known)
    found = {name: find_cut(every, name, known) for name in request.options.layers}
    names = [cut.name for cut in found.values()]
    for name, cut in found.items():
        if names.count(cut.name) > 1:
            raise InputError(f"the layer {name!r} is the cut {cut.name!r}, which another layer is too; leave one out")
    return found


def _named_prefix(request: Request, found: Mapping[str, Cut], example: torch.Tensor) -> FeaturesOf:
    """Images on the device -> features by the layer's name, in the precision asked for."""
    module = multi_prefix(request.model, [cut.name for cut in found.values()], analysis=request.analysis(example))

    def prefix(x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = run_prefix(module, x, request.device, request.options.precision, request.memory_format)
        return {name: features[cut.name] for name, cut in found.items()}

    return prefix


def _check_features(prefix: FeaturesOf, example: torch.Tensor, found: Mapping[str, Cut]) -> dict[str, str]:
    """The dtype of each layer's feature, by its name in torch."""
    dtypes = {}
    for name, feature in prefix(example).items():
        shape = tuple(feature.shape[1:])
        if shape != found[name].spec.shape or not feature.dtype.is_floating_point:
            raise ModelError(
                f"the cut {name!r} gives {feature.dtype} {shape}; expected floats {found[name].spec.shape}"
            )
        dtypes[name] = str(feature.dtype).removeprefix("torch.")
    return dtypes


def _samples(request: Request, name: str, cut: Cut, images: int) -> dict[str, Sample]:
    """What the codecs of a layer are fitted to, by the text of the rate; nothing for one that wants none."""
    found: dict[str, Sample] = {}
    for rate in {str(rate): rate for rate in (request.options.layers[name], _mirror_rate(request, name))}.values():
        sample = sample_for(rate, cut.spec, request.options.order, images)
        if sample is not None:
            found[str(rate)] = sample
    return found


def _mirror_rate(request: Request, name: str) -> Rate:
    """That of the stored channels of the mirror: its own, else the layer's."""
    rate = request.mirror.rate
    return request.options.layers[name] if rate is None else rate


def _layer(
    request: Request, name: str, cut: Cut, samples: Mapping[str, Sample], measured: LayerCalibration, dtype: str
) -> LayerPlan:
    options = request.options

    def fitted(rate: Rate, channels: tuple[int, ...] | None) -> dict[str, Any]:
        spec = cut.spec if channels is None else cut.spec.select(len(channels))
        return fit(rate, spec, samples.get(str(rate)), channels, options.filter).config()

    sensitive, stored = measured.sensitive, () if measured.mirror is None else measured.mirror.channels
    return LayerPlan(
        name=name,
        cut=cut.name,
        codec=fitted(options.layers[name], None),
        view_codec=fitted(options.layers[name], sensitive) if request.options.views and sensitive else None,
        sensitive=measured.sensitive,
        similarity=measured.similarity,
        grid=measured.grid,
        flops=cut.flops_before,
        dtype=dtype,
        nonnegative=measured.nonnegative,
        mirror_error=None if measured.mirror_error is None else max(measured.mirror_error, _EXACT_DB),
        mirror_channels=stored,
        mirror_codec=fitted(_mirror_rate(request, name), stored) if stored else None,
    )


def _mirror_notes(measured: Mapping[str, LayerCalibration], found: Mapping[str, Cut]) -> dict[str, Any]:
    """`mirror_maps` of a plan's provenance: what each layer's map costs, and on how much it was fitted and judged."""
    maps = {}
    for name, layer in measured.items():
        if layer.mirror is not None and layer.mirror.map is not None:
            maps[name] = {
                "kernel": layer.mirror.map.kernel,
                "outputs": len(layer.mirror.map.bias),
                "multiplications": layer.mirror.map.multiplications,
                "model_flops": found[name].flops_before + found[name].flops_after,
                "fitted": layer.mirror.fitted,
                "judged": layer.mirror.judged,
                "own_error_db": layer.mirror.own_error,
            }
    return {"mirror_maps": maps} if maps else {}


def _arrays(measured: Mapping[str, LayerCalibration]) -> Arrays:
    arrays: Arrays = {}
    for name, layer in measured.items():
        if layer.fill is not None:
            arrays[f"{name}/fill"] = layer.fill.numpy()
        if layer.mirror_map is not None:
            arrays |= {f"{name}/{what}": array for what, array in layer.mirror_map.to_arrays().items()}
    return arrays
