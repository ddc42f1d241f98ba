"""A whole set checked: every byte of every shard; with its model, identity too and some samples computed again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from fmshards.errors import FormatError, InputError, MismatchError
from fmshards.extraction.batches import RawBatch
from fmshards.extraction.decode import Decoder
from fmshards.extraction.forward import run_prefix
from fmshards.extraction.sources import Source, open_source
from fmshards.model import blank_image, identity_differences, load_on, multi_prefix, parse_preprocess
from fmshards.shards import (
    LayerPlan,
    Manifest,
    Plan,
    check_index,
    layer_url,
    read_calibration,
    read_chunk,
    read_index,
    read_manifest,
    verify_shard,
)

SAMPLES = 8

# Between two computations of one feature: what another batch, thread count or device does to float32, by far; and
# what the other rounding may do to a code on the edge of a block's exponent.
_FLOAT_NOISE = 1e-6
_CODE_NOISE = 2.0


@dataclass(frozen=True)
class Report:
    """What was checked, and what is wrong: one line a problem, the first bad byte range of a shard in it."""

    samples: int
    shards: int
    bytes: int
    recomputed: int
    problems: tuple[str, ...]


def verify(
    url: str,
    model: str | nn.Module | None = None,
    *,
    weights: str | None = None,
    source: Any = None,
    preprocess: Any = None,
    device: str | None = None,
) -> Report:
    """Read the set at `url` from the first byte to the last.

    Checked are all checksums, digests, counts and the order of members, and that layers agree about their samples.
    With `model`, its weights before each cut must be those that wrote the set, and 8 samples spread over the set are
    computed again from the images: each must be what is stored, to within the codec's error. `source` and
    `preprocess` are needed where the plan cannot name them: a data set or a function from Python; `source` also where
    the images have moved.

    Raises FormatError where there is no whole set, StoreError, ModelError, and InputError where the images cannot be
    read. What is wrong with the set itself is in the report.
    """
    manifest = read_manifest(url)
    problems = list(_shards(url, manifest))
    recomputed = 0
    if model is not None:
        loaded, place = load_on(model, weights, device)
        wrong = _identity(manifest.plan, loaded)
        problems += wrong
        if not problems:
            found = source_of(manifest.plan, source)
            name = model if isinstance(model, str) else None
            text = manifest.plan.identity["preprocess"] if preprocess is None else preprocess
            decoder = Decoder(found, parse_preprocess(text, model=loaded, name=name), manifest.plan.base_size)
            recomputed, wrong = _recompute(url, manifest, loaded, decoder, place)
            problems += wrong
    entries = [entry for shards in manifest.shards.values() for entry in shards]
    return Report(manifest.samples, len(entries), sum(e.bytes for e in entries), recomputed, tuple(problems))


def source_of(plan: Plan, source: Any = None) -> Source:
    """The images that a plan's set was made from. Raises InputError where they are not there or are others."""
    options = plan.options
    if source is None:
        if options.get("source") == "webdataset":
            source = [shard.url for shard in plan.inputs]
        elif options.get("source") == "folder":
            source = plan.provenance.get("source")
        else:
            raise InputError("the set was extracted from a data set in Python: give it as source=, to compute again")
    folder = options.get("source") != "webdataset"
    found = open_source(
        source,
        shard_size=options.get("shard_size") if folder else None,
        image_field=options.get("image_field"),
        seed=plan.identity.get("seed", 0),
        classes=plan.classes if options.get("source") == "folder" else None,
        orientation=options.get("orientation", "ignore"),
    )
    ours, theirs = ([(i.bytes, i.samples, i.digest) for i in inputs] for inputs in (found.inputs, plan.inputs))
    if ours != theirs:
        raise InputError(
            f"the source {source!r} is not the one that the set was extracted from: its {len(ours)} input shards "
            f"differ from the plan's {len(theirs)} in number, size or content"
        )
    return found


def _shards(url: str, manifest: Manifest) -> Iterator[str]:
    plan = manifest.plan
    try:
        read_calibration(url, plan)
    except FormatError as error:
        yield str(error)
    for layer in plan.layers:
        codecs = plan.layer_members(layer.name)
        for entry in manifest.shards[layer.name]:
            place = layer_url(url, layer.name, entry.name)
            problem = verify_shard(place, entry, codecs)
            if problem is not None:
                yield f"{place}: {problem}"
                continue
            try:
                check_index(read_index(place, entry), plan, layer.name, place)
            except (FormatError, MismatchError) as error:
                yield str(error)


def _identity(plan: Plan, model: nn.Module) -> list[str]:
    layers = [(layer.name, layer.cut) for layer in plan.layers]
    return identity_differences(
        plan.identity, layers, model, plan.provenance.get("probe"), plan.provenance.get("parts")
    )


def _recompute(
    url: str, manifest: Manifest, model: nn.Module, decoder: Decoder, device: torch.device
) -> tuple[int, list[str]]:
    plan = manifest.plan
    prefix = multi_prefix(model, [layer.cut for layer in plan.layers], blank_image(model, plan.base_size))
    problems = []
    places = list(_places(manifest))
    for shard, row in places:
        with closing(decoder.source.items(shard)) as items:
            item = next(islice(items, row, None), None)
        if item is None:
            raise InputError(f"{plan.inputs[shard].url}: has no sample {row}; the input has changed")
        batch = decoder(RawBatch(shard, [item], last=False))
        features = run_prefix(prefix, batch.base, device, plan.identity["dtype"])
        for layer in plan.layers:
            key, stored = _stored(url, manifest, layer, shard, row)
            where = f"layer {layer.name}, sample {row} of shard {plan.inputs[shard].name}"
            if key != batch.keys[0]:
                problems.append(f"{where}: its key is {key!r}, the input's {batch.keys[0]!r}")
                continue
            difference = _difference(layer, plan, features[layer.cut].float().cpu(), stored)
            if difference is not None:
                problems.append(f"{where} ({key!r}): {difference}")
    return len(places), problems


def _places(manifest: Manifest) -> Iterator[tuple[int, int]]:
    """(input shard, row) of up to 8 samples, evenly over the set."""
    counts = [entry.samples for entry in manifest.shards[manifest.plan.layers[0].name]]
    wanted = min(SAMPLES, manifest.samples)
    for i in range(wanted):
        row = (2 * i + 1) * manifest.samples // (2 * wanted)
        for shard, count in enumerate(counts):
            if row < count:
                yield shard, row
                break
            row -= count


def _stored(url: str, manifest: Manifest, layer: LayerPlan, shard: int, row: int) -> tuple[str, torch.Tensor]:
    """Key and base feature, float32 [1, *shape], of a stored sample."""
    entry = manifest.shards[layer.name][shard]
    place = layer_url(url, layer.name, entry.name)
    chunk, row = divmod(row, manifest.plan.chunk)
    base = manifest.plan.streams(layer.name)[0]
    found = read_chunk(place, read_index(place, entry), chunk, [base.member])
    return found.keys[row], base.codec.decode(base.codec.rows(found.members[base.member], found.n)[row : row + 1])


def _difference(layer: LayerPlan, plan: Plan, x: torch.Tensor, stored: torch.Tensor) -> str | None:
    codec = layer.base_codec
    energy = float(x.double().square().sum())
    own = float((codec.decode(codec.encode(x)) - x).double().square().sum())
    noise = _FLOAT_NOISE if plan.identity["dtype"] == "float32" else 1e-3
    found = float((stored - x).double().square().sum())
    allowed = _CODE_NOISE * own + noise * energy
    if found <= allowed:
        return None
    return (
        f"computed again it differs by {found / max(energy, 1e-30):.2e} of its squared norm, the codec and float error "
        f"explain {allowed / max(energy, 1e-30):.2e}"
    )
