"""A plan for a set that is not there yet: cuts, codecs, chunk length, and what calibration measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, overload

import numpy as np
import torch
from PIL import Image

from fmshards.calibration import LayerCalibration, calibrate
from fmshards.codec import Codec, Sample, fit, sample_for, samples_wanted
from fmshards.errors import InputError, ModelError
from fmshards.extraction.decode import Decoder
from fmshards.extraction.forward import Prefix, run_prefix
from fmshards.extraction.options import Request
from fmshards.extraction.provenance import provenance
from fmshards.extraction.sources import Item
from fmshards.model import Cut, cuts_of, find_cut, multi_prefix
from fmshards.shards import LayerPlan, Plan

Arrays = dict[str, np.ndarray[Any, Any]]

CHUNK_BYTES = 4 << 20
_CALIBRATION_SHARDS = 64  # input shards that calibration reads from at most
_LOOK = 16  # samples looked at where there is no recipe to calibrate for
_SMALL = 300_000  # pixels of an image that is kept for calibration once it is decoded
_EXACT_DB = -300.0  # stands for a mapped mirror without any error: JSON has no infinity


def draft_plan(request: Request) -> tuple[Plan, Arrays]:
    """The plan of a new set, without its calibration entry, and the calibration's arrays ("layer2/fill").

    Reads the calibration sample, and runs the prefix on it where there is a recipe. Raises what reading, the model
    and calibration raise.
    """
    base = _first_base(request)
    size = (int(base.shape[1]), int(base.shape[2]))
    images = calibration_images(request, size)
    example = base[None].to(request.device)
    found = _cuts(request, example)
    prefix = _named_prefix(request, found, example)
    dtypes = _check_features(prefix, example, found)
    wanted = {n: sample_for(request.layers[n], cut.spec, request.order, len(images)) for n, cut in found.items()}
    samples = {name: sample for name, sample in wanted.items() if sample is not None}
    measured = calibrate(
        prefix,
        images,
        request.preprocess,
        request.recipe,
        request.mirror,
        request.views,
        request.sensitive,
        {name: cut.spec for name, cut in found.items()},
        samples=samples,
        batch=request.batch,
        seed=request.seed,
        device=request.device,
    )
    codecs = {n: fit(request.layers[n], cut.spec, samples.get(n), None, request.filter) for n, cut in found.items()}
    layers = tuple(
        _layer(request, name, found[name], codecs[name], samples.get(name), measured[name], dtypes[name])
        for name in found
    )
    mirrored = request.recipe.flips and request.mirror.way != "none"
    stored = ("mirror",) if mirrored and request.mirror.way == "stored" else ()
    plan = Plan(
        identity=request.identity(size),
        options=request.options(),
        provenance={
            **provenance(request.device),
            "model": request.model_text,
            "weights": request.weights_text,
            "source": request.source_text,
        },
        inputs=request.source.inputs,
        chunk=request.chunk or chunk_length(max(codec.row_bytes for codec in codecs.values())),
        base_size=size,
        recipe=request.recipe.to_json(),
        mirror=request.mirror.to_json(),
        views=request.views,
        references=("base", "mirror") if mirrored else ("base",),
        members=("base", *stored, *(f"view{v + 1}" for v in range(request.views))),
        layers=layers,
        classes=request.source.classes,
        calibration=None,
    )
    return plan, _arrays(measured)


def chunk_length(largest_row: int) -> int:
    """Samples in a chunk: 4 MB of the largest row, within 8 to 256; one length for the whole set."""
    return min(max(CHUNK_BYTES // largest_row, 8), 256)


def calibration_images(request: Request, size: tuple[int, int]) -> Sequence[Image.Image]:
    """The calibration sample: as many from the beginning of each of up to 64 input shards, evenly spread.

    The same for the same source, whatever else changes. Without a recipe, or a codec that asks for more, a few do.
    """
    asked = [samples_wanted(rate, request.order) for rate in request.layers.values()]
    everything = request.recipe or None in asked
    few = max(_LOOK, *(count or 0 for count in asked))
    wanted = request.calibration if everything else min(request.calibration, few)
    inputs = len(request.source.inputs)
    count = min(inputs, _CALIBRATION_SHARDS, wanted)
    shards = [i * inputs // count for i in range(count)]
    decoder = Decoder(request.source, request.preprocess, size)
    found: list[tuple[int, Item]] = []
    for i, shard in enumerate(shards):
        share = (i + 1) * wanted // count - i * wanted // count
        for item in _head(request, shard, share):
            if request.preprocess.size is None:
                decoder.base(shard, decoder.sample(shard, item))  # refuses, key named, another size than the first's
            found.append((shard, item))
    return _Images(decoder, found)


class _Images(Sequence[Image.Image]):
    """Images decoded when they are asked for; only small ones are kept: hundreds of photos would fill the memory."""

    def __init__(self, decoder: Decoder, items: list[tuple[int, Item]]) -> None:
        self._decoder, self._items = decoder, items
        self._kept: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, i: int) -> Image.Image: ...
    @overload
    def __getitem__(self, i: slice) -> list[Image.Image]: ...
    def __getitem__(self, i: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if i in self._kept:
            return self._kept[i]
        image = self._decoder.sample(*self._items[i]).image
        if image.width * image.height <= _SMALL:
            self._kept[i] = image
        return image


def _head(request: Request, shard: int, count: int) -> Iterator[Item]:
    with closing(request.source.items(shard)) as items:
        yield from islice(items, count)


def _first_base(request: Request) -> torch.Tensor:
    decoder = Decoder(request.source, request.preprocess)
    for item in _head(request, 0, 1):
        return decoder.base(0, decoder.sample(0, item))
    raise InputError(f"{request.source.inputs[0].url} holds no sample")


def _cuts(request: Request, example: torch.Tensor) -> dict[str, Cut]:
    known = request.analysis(example)
    every = cuts_of(known)
    found = {name: find_cut(every, name, known) for name in request.layers}
    names = [cut.name for cut in found.values()]
    for name, cut in found.items():
        if names.count(cut.name) > 1:
            raise InputError(f"the layer {name!r} is the cut {cut.name!r}, which another layer is too; leave one out")
    return found


def _named_prefix(request: Request, found: Mapping[str, Cut], example: torch.Tensor) -> Prefix:
    """Images on the device -> features by the layer's name, in the precision asked for."""
    module = multi_prefix(request.model, [cut.name for cut in found.values()], analysis=request.analysis(example))

    def prefix(x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = run_prefix(module, x, request.device, request.precision)
        return {name: features[cut.name] for name, cut in found.items()}

    return prefix


def _check_features(prefix: Prefix, example: torch.Tensor, found: Mapping[str, Cut]) -> dict[str, str]:
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


def _layer(
    request: Request,
    name: str,
    cut: Cut,
    codec: Codec,
    sample: Sample | None,
    measured: LayerCalibration,
    dtype: str,
) -> LayerPlan:
    view, sensitive = None, measured.sensitive
    if request.views and sensitive:
        view = fit(request.layers[name], cut.spec.select(len(sensitive)), sample, sensitive, request.filter)
    return LayerPlan(
        name=name,
        cut=cut.name,
        codec=codec.config(),
        view_codec=None if view is None else view.config(),
        sensitive=measured.sensitive,
        similarity=measured.similarity,
        grid=measured.grid,
        flops=cut.flops_before,
        dtype=dtype,
        nonnegative=measured.nonnegative,
        mirror_error=None if measured.mirror_error is None else max(measured.mirror_error, _EXACT_DB),
    )


def _arrays(measured: Mapping[str, LayerCalibration]) -> Arrays:
    arrays: Arrays = {}
    for name, layer in measured.items():
        if layer.fill is not None:
            arrays[f"{name}/fill"] = layer.fill.numpy()
        if layer.mirror_map is not None:
            arrays |= {f"{name}/{what}": array for what, array in layer.mirror_map.to_arrays().items()}
    return arrays
