"""A shard set in a few plain numbers."""

from __future__ import annotations

import math
from typing import Any

from fmshards.shards.layer import LayerPlan
from fmshards.shards.manifest import Manifest
from fmshards.shards.plan import Plan
from fmshards.shards.sets import missing_shards


def describe_plan(url: str, plan: Plan) -> dict[str, Any]:
    """What the unfinished set of a plan at `url` will hold and what is missing, as `inspect` says."""
    layers = [_layer(layer, plan) for layer in plan.layers]
    return {**_plan(plan), "layers": layers, "missing": missing_shards(url, plan)}


def describe(manifest: Manifest) -> dict[str, Any]:
    """What a whole set holds, as `inspect` says."""
    sizes = {name: sum(entry.bytes for entry in entries) for name, entries in manifest.shards.items()}
    layers = []
    for layer in manifest.plan.layers:
        size = sizes[layer.name]
        known = {"bytes": size, "bytes_a_sample": size / max(manifest.samples, 1)}
        layers.append({**_layer(layer, manifest.plan), **known, "error": manifest.errors.get(layer.name)})
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


def mirror_texts(plan: Plan) -> list[str]:
    """`mirror_text` of each layer of a plan that has one."""
    texts = (mirror_text(_layer(layer, plan)) for layer in plan.layers)
    return [text for text in texts if text is not None]


def mirror_text(layer: dict[str, Any]) -> str | None:
    """What stands for a layer's mirror, what it costs and how far it is off, in a line; None where it is simply stored,
    or there is none. layer: as `inspect` describes it."""
    stored, cost, channels = layer["mirror_channels"], layer["mirror_map"], layer["channels"]
    said = []
    if stored is not None:
        said.append(f"{len(stored)} of {channels} channels stored, {layer['mirror_row_bytes']:,} bytes a sample")
    if cost is not None:
        flops = 2 * cost["multiplications"]
        shares = [
            f"{100 * flops / of:.3g}% of the {what}'s"
            for what, of in (("prefix", layer["prefix_flops"]), ("network", cost["model_flops"]))
            if of
        ]
        said.append(
            f"{cost['outputs']} of {channels} mapped {cost['kernel']} x {cost['kernel']}, "
            f"{cost['multiplications']:,} multiplications a sample" + (f" ({', '.join(shares)})" if shares else "")
        )
    elif stored is not None and len(stored) < channels:
        said.append("the others the base's own, flipped")
    if not said:
        return None
    error = layer["mirror_error_db"]
    if cost is not None and error is not None:
        said.append(
            f"error {error:.1f} dB on {cost['judged']} images left out of the fit, {cost['own_error_db']:.1f} dB on as "
            f"many of the {cost['fitted']} that it is fitted on"
        )
    elif error is not None:
        said.append(f"error {error:.1f} dB")
    return f"{layer['name']}: mirror: {'; '.join(said)}"


def _layer(layer: LayerPlan, plan: Plan) -> dict[str, Any]:
    codec, view, mirror = layer.base_codec, layer.own_view_codec, layer.own_mirror_codec
    return {
        "name": layer.name,
        "cut": layer.cut,
        "kind": codec.spec.kind,
        "shape": list(codec.spec.shape),
        "channels": codec.spec.channels,
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
        "mirror_channels": None if mirror is None else list(layer.mirror_channels),
        "mirror_row_bytes": None if mirror is None else mirror.row_bytes,
        "mirror_map": _map(plan.provenance.get("mirror_maps"), layer.name),
        "similarity": None if layer.similarity is None else layer.similarity.to_json(),
        "grid": None if layer.grid is None else layer.grid.to_json(),
        "prefix_flops": layer.flops,
    }


_OF_A_MAP = ("kernel", "outputs", "multiplications", "model_flops", "fitted", "judged", "own_error_db")


def _map(maps: Any, layer: str) -> dict[str, Any] | None:
    """What provenance keeps of a layer's map; None where it is not there, or not in numbers: nobody checks it."""
    found = maps.get(layer) if isinstance(maps, dict) else None
    if not isinstance(found, dict) or not all(type(found.get(name)) in (int, float) for name in _OF_A_MAP):
        return None
    return {name: found[name] for name in _OF_A_MAP}
