"""A shard set in a few plain numbers: what `fmshards inspect` shows."""

from __future__ import annotations

import math
import os
from typing import Any

from fmshards import store
from fmshards.shards.layer import LayerPlan
from fmshards.shards.manifest import Manifest
from fmshards.shards.plan import Plan
from fmshards.shards.sets import MANIFEST, missing_shards, read_manifest, read_plan, set_url


def inspect(url: str | os.PathLike[str]) -> dict[str, Any]:
    """What the set at `url` (a path or a URL) holds, or, where it is unfinished, what it will hold and what is missing.

    The dict is plain JSON. "whole": whether the set is finished; "missing": of an unfinished one, for each layer how
    many shards are not there yet, from one listing of its folder, None of a whole one. "samples", "bytes", and each
    layer's "bytes", "bytes_a_sample" (whole shards, other fields and tar overhead among them) and "error" (dB) are
    known of a whole set and None before. "rate" is in bits a value, "fp32_bytes" the bare feature's size, "layers",
    "identity", "options" and "provenance" as the plan has them.

    Raises FormatError where no set is at `url` or what is there is malformed, StoreError where it cannot be read,
    InputError where `url` is no path or URL.
    """
    place = set_url(url)
    if store.exists(store.join(place, MANIFEST)):
        return describe(read_manifest(place))
    plan = read_plan(place)
    return {**_plan(plan), "layers": [_layer(layer) for layer in plan.layers], "missing": missing_shards(place, plan)}


def describe(manifest: Manifest) -> dict[str, Any]:
    """What a whole set holds, as `inspect` says."""
    sizes = {name: sum(entry.bytes for entry in entries) for name, entries in manifest.shards.items()}
    layers = []
    for layer in manifest.plan.layers:
        size = sizes[layer.name]
        known = {"bytes": size, "bytes_a_sample": size / max(manifest.samples, 1)}
        layers.append({**_layer(layer), **known, "error": manifest.errors.get(layer.name)})
    total = {"whole": True, "samples": manifest.samples, "bytes": sum(sizes.values())}
    return {**_plan(manifest.plan), **total, "layers": layers}


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "whole": False,
        "missing": None,
        "samples": None,
        "shards": len(plan.inputs),
        "chunk": plan.chunk,
        "bytes": None,
        "members": list(plan.members),
        "references": list(plan.references),
        "views": plan.views,
        "classes": None if plan.classes is None else list(plan.classes),
        "layers": [],
        "identity": plan.identity,
        "options": plan.options,
        "provenance": plan.provenance,
    }


def _layer(layer: LayerPlan) -> dict[str, Any]:
    codec, view = layer.base_codec, layer.own_view_codec
    return {
        "name": layer.name,
        "cut": layer.cut,
        "kind": codec.spec.kind,
        "shape": list(codec.spec.shape),
        "codec": codec.name,
        "filter": codec.config().get("filter"),
        "rate": codec.rate,
        "row_bytes": codec.row_bytes,
        "view_row_bytes": None if view is None else view.row_bytes,
        "sensitive": list(layer.sensitive),
        "bytes": None,
        "bytes_a_sample": None,
        "fp32_bytes": 4 * math.prod(codec.spec.shape),
        "error": None,
        "mirror_error_db": layer.mirror_error,
        "similarity": None if layer.similarity is None else layer.similarity.to_json(),
        "grid": None if layer.grid is None else layer.grid.to_json(),
        "prefix_flops": layer.flops,
    }
