"""A whole set checked: every byte of every shard; with its model, identity too and some samples computed again."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import nn

from fmshards.augment import Mirror, Recipe
from fmshards.errors import InputError, MismatchError
from fmshards.extraction.decode import Decoder, Kept, Views
from fmshards.extraction.forward import PRECISIONS, Forward
from fmshards.extraction.samples import SAMPLES, sample_differences
from fmshards.extraction.soundness import set_problems
from fmshards.extraction.sources import Source, open_source
from fmshards.extraction.work import found_shards
from fmshards.model import Preprocess, blank_image, identity_differences, load_on, multi_prefix, parse_preprocess
from fmshards.shards import Manifest, Plan, layer_url, read_index, read_manifest, set_url, was_replaced

T = TypeVar("T")


@dataclass(frozen=True)
class Report:
    """What was checked, and what is wrong: one line a fault, with a shard's first bad byte range and what mends it."""

    samples: int
    shards: int
    bytes: int
    recomputed: int
    problems: tuple[str, ...]


def verify(
    url: str | os.PathLike[str],
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
    read, or `url` is no path or URL. What is wrong with the set itself is in the report.
    """
    url = set_url(url)
    manifest = read_manifest(url)
    problems = list(set_problems(url, manifest))
    if problems and was_replaced(url, manifest):
        raise MismatchError(f"{url}: another process replaced or removed the set meanwhile; verify it once it is whole")
    recomputed = 0
    if model is not None:
        loaded, place = load_on(model, weights, device)
        problems += _identity(manifest.plan, loaded)
        if not problems:
            found = source_of(url, manifest.plan, source)
            name = model if isinstance(model, str) else None
            text = _said(manifest.plan, "preprocess") if preprocess is None else preprocess
            read = parse_preprocess(text, model=loaded, name=name)
            recomputed, wrong = _recompute(url, manifest, loaded, found, read, place)
            problems += wrong
    entries = [entry for shards in manifest.shards.values() for entry in shards]
    return Report(manifest.samples, len(entries), sum(e.bytes for e in entries), recomputed, tuple(problems))


def source_of(url: str, plan: Plan, source: Any = None) -> Source:
    """The images that the set of a plan at `url` was made from. Raises InputError where they are not there or are
    others; what an input shard was changed to before anything was made from it, its shards say."""
    options = plan.options
    if source is None:
        if options.get("source") in ("webdataset", "parquet", "list"):
            source = list(dict.fromkeys(shard.url for shard in plan.inputs))
        elif options.get("source") == "folder" and isinstance(plan.provenance.get("source"), str):
            source = plan.provenance["source"]
        elif options.get("source") == "folder":
            raise InputError("the plan does not say in which folder the images were: give it as source=")
        else:
            raise InputError("the set was extracted from a data set in Python: give it as source=, to compute again")
    divided = options.get("source") != "webdataset"
    found = open_source(
        source,
        shard_size=_optional(options, "shard_size", int) if divided else None,
        image_field=_optional(options, "image_field", str),
        seed=_optional(plan.identity, "seed", int) or 0,
        classes=plan.classes if options.get("source") in ("folder", "list") else None,
        orientation=_optional(options, "orientation", str) or "ignore",
        fields=_names(options.get("fields")),
        drop_fields=_names(options.get("drop_fields")) or (),
    )
    ours, theirs = ([(i.bytes, i.samples, i.digest) for i in inputs] for inputs in (found.inputs, plan.inputs))
    if len(ours) != len(theirs) or not all(
        ours[i] == theirs[i] or _made_from(url, plan, i, found) for i in range(len(ours))
    ):
        raise InputError(
            f"the source {source!r} is not the one that the set was extracted from: its {len(ours)} input shards "
            f"differ from the plan's {len(theirs)} in number, size or content"
        )
    return found


def _made_from(url: str, plan: Plan, i: int, found: Source) -> bool:
    """Whether the shards of input shard i say that they were made from what it holds now."""
    kept = [index.input for index in found_shards(url, plan, i).values()]
    content = found.content(i) if kept and None not in kept else None
    return content is not None and all(each is not None and each["digest"] == content for each in kept)


def _identity(plan: Plan, model: nn.Module) -> list[str]:
    layers = [(layer.name, layer.cut) for layer in plan.layers]
    return identity_differences(
        plan.identity, layers, model, plan.provenance.get("probe"), plan.provenance.get("parts")
    )


def _recompute(
    url: str, manifest: Manifest, model: nn.Module, found: Source, preprocess: Preprocess, where: torch.device
) -> tuple[int, list[str]]:
    """How many samples were computed again, and what differs."""
    plan = manifest.plan
    recipe, seed = Recipe.from_json(plan.recipe), _optional(plan.identity, "seed", int) or 0
    # What a custom recipe did to the images, nobody can say here: its views are not computed again.
    rendered = plan.views and recipe.custom_text is None
    views = Views(recipe, Mirror.from_json(plan.mirror), plan.views, seed) if rendered else None
    fields, dropped = plan.options.get("fields"), plan.options.get("drop_fields")
    decoder = Decoder(found, preprocess, plan.base_size, views, Kept(_names(fields), _names(dropped) or ()))
    prefix = multi_prefix(model, [layer.cut for layer in plan.layers], blank_image(model, plan.base_size))
    forward = Forward(prefix, plan, where, _said(plan, "dtype", *PRECISIONS))
    indices = {
        shard: {
            layer.name: read_index(layer_url(url, layer.name, entry.name), entry)
            for layer in plan.layers
            for entry in [manifest.shards[layer.name][shard]]
        }
        for shard in sorted(set(_shards_of_samples(manifest)))
    }
    return min(SAMPLES, manifest.samples), sample_differences(url, plan, indices, decoder, forward)


def _names(value: Any) -> tuple[str, ...] | None:
    return tuple(map(str, value)) if isinstance(value, list) else None


def _shards_of_samples(manifest: Manifest) -> Iterator[int]:
    """The input shards of up to 8 samples, evenly over the set."""
    ends = list(accumulate(entry.samples for entry in manifest.shards[manifest.plan.layers[0].name]))
    wanted = min(SAMPLES, manifest.samples)
    for i in range(wanted):
        yield bisect_right(ends, (2 * i + 1) * manifest.samples // (2 * wanted))


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
