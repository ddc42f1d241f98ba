"""A whole set checked: every byte of every shard; with its model, identity too and some samples computed again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import nn

from fmshards.errors import InputError
from fmshards.extraction.batches import RawBatch
from fmshards.extraction.decode import Decoder
from fmshards.extraction.forward import PRECISIONS, run_prefix
from fmshards.extraction.soundness import set_problems
from fmshards.extraction.sources import Source, open_source
from fmshards.model import blank_image, identity_differences, load_on, multi_prefix, parse_preprocess
from fmshards.shards import (
    LayerPlan,
    Manifest,
    Plan,
    field_value,
    layer_url,
    read_chunk,
    read_index,
    read_manifest,
)

T = TypeVar("T")

SAMPLES = 8

# Between two computations of one feature: what another batch, thread count or device does to float32, by far; and
# what the other rounding may do to a code on the edge of a block's exponent.
_FLOAT_NOISE = 1e-6
_CODE_NOISE = 2.0


@dataclass(frozen=True)
class Report:
    """What was checked, and what is wrong: one line a fault, with a shard's first bad byte range and what mends it."""

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

    Everything is opened as a reader opens it: the plan, which must be the manifest's, the recipe, the calibration's
    arrays, and every shard, with all checksums, digests, counts, the order of members, their rows and their fields.
    Layers must hold the same samples. All faults are told, each with what mends it.

    With `model`, it must be the one that wrote the set, and 8 samples spread over the set are computed again from the
    images: each must be what is stored, fields and all, features to within the codec's error. `source` and `preprocess`
    are needed where the plan cannot name them: a data set or a function from Python; `source` also where the images
    have moved.

    Raises FormatError where there is no whole set, StoreError, ModelError, and InputError where the images cannot be
    read. What is wrong with the set itself is in the report.
    """
    manifest = read_manifest(url)
    problems = list(set_problems(url, manifest))
    recomputed = 0
    if model is not None:
        loaded, place = load_on(model, weights, device)
        problems += _identity(manifest.plan, loaded)
        if not problems:
            _said(manifest.plan, "dtype", *PRECISIONS)
            found = source_of(manifest.plan, source)
            name = model if isinstance(model, str) else None
            text = _said(manifest.plan, "preprocess") if preprocess is None else preprocess
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
        elif options.get("source") == "folder" and isinstance(plan.provenance.get("source"), str):
            source = plan.provenance["source"]
        elif options.get("source") == "folder":
            raise InputError("the plan does not say in which folder the images were: give it as source=")
        else:
            raise InputError("the set was extracted from a data set in Python: give it as source=, to compute again")
    folder = options.get("source") != "webdataset"
    found = open_source(
        source,
        shard_size=_optional(options, "shard_size", int) if folder else None,
        image_field=_optional(options, "image_field", str),
        seed=_optional(plan.identity, "seed", int) or 0,
        classes=plan.classes if options.get("source") == "folder" else None,
        orientation=_optional(options, "orientation", str) or "ignore",
    )
    ours, theirs = ([(i.bytes, i.samples, i.digest) for i in inputs] for inputs in (found.inputs, plan.inputs))
    if ours != theirs:
        raise InputError(
            f"the source {source!r} is not the one that the set was extracted from: its {len(ours)} input shards "
            f"differ from the plan's {len(theirs)} in number, size or content"
        )
    return found


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
            key, fields, stored = _stored(url, manifest, layer, shard, row)
            where = f"layer {layer.name}, sample {row} of shard {plan.inputs[shard].name}"
            if key != batch.keys[0]:
                problems.append(f"{where}: its key is {key!r}, the input's {batch.keys[0]!r}")
                continue
            problems += [f"{where} ({key!r}): {line}" for line in _field_differences(fields, batch.fields[0])]
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


def _stored(
    url: str, manifest: Manifest, layer: LayerPlan, shard: int, row: int
) -> tuple[str, dict[str, Any], torch.Tensor]:
    """Key, fields and base feature, float32 [1, *shape], of a stored sample."""
    entry = manifest.shards[layer.name][shard]
    place = layer_url(url, layer.name, entry.name)
    chunk, row = divmod(row, manifest.plan.chunk)
    base = manifest.plan.streams(layer.name)[0]
    found = read_chunk(place, read_index(place, entry), chunk, [base.member])
    fields = {name: column[row] for name, column in found.fields.items()}
    return (
        found.keys[row],
        fields,
        base.codec.decode(base.codec.rows(found.members[base.member], found.n)[row : row + 1]),
    )


def _field_differences(stored: dict[str, Any], given: dict[str, Any]) -> Iterator[str]:
    """Stored fields that the input has otherwise; what of it was not stored is not compared."""
    here = {name: field_value(value, f"field {name!r}") for name, value in given.items()}
    for name, value in stored.items():
        if name not in here:
            yield f"the field {name!r} is stored, and the input has none"
        elif value != here[name] and repr(value) != repr(here[name]):  # NaN is the same where both have it
            yield f"the field {name!r} is {str(value)[:60]!r}, the input's {str(here[name])[:60]!r}"


def _said(plan: Plan, name: str, *known: str) -> str:
    """A text of the plan's identity. Raises InputError where it is not there, or not one of those known."""
    value = plan.identity.get(name)
    if not isinstance(value, str) or (known and value not in known):
        among = f"one of {', '.join(known)}" if known else "text"
        raise InputError(
            f"the plan's identity has {str(value)[:60]!r} as its {name}, expected {among}: no sample can be computed "
            "again; extract the set again"
        )
    return value


def _optional(section: dict[str, Any], name: str, kind: type[T]) -> T | None:
    """An option of the plan, None where it is not there. Raises InputError for one of another kind."""
    value = section.get(name)
    if value is None or (isinstance(value, kind) and not isinstance(value, bool)):
        return value
    raise InputError(f"the plan's {name} is {str(value)[:60]!r}, no {kind.__name__}: extract the set again")


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
