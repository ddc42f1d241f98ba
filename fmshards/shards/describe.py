"""A shard set in a few plain numbers: what `fmshards inspect` shows."""

from __future__ import annotations

import math
from typing import Any

from fmshards.codec import codec_from_config
from fmshards.shards.layer import LayerPlan
from fmshards.shards.manifest import Manifest


def describe(manifest: Manifest) -> dict[str, Any]:
    """What the set holds, as JSON: counts, bytes, rates, errors (dB), identity and provenance.

    `bytes_a_sample` counts whole shards, other fields and tar overhead among them; `fp32_bytes` is the bare feature.
    """
    plan = manifest.plan
    return {
        "samples": manifest.samples,
        "shards": len(plan.inputs),
        "chunk": plan.chunk,
        "bytes": sum(entry.bytes for entries in manifest.shards.values() for entry in entries),
        "members": list(plan.members),
        "references": list(plan.references),
        "views": plan.views,
        "classes": None if plan.classes is None else list(plan.classes),
        "layers": [_layer(manifest, layer) for layer in plan.layers],
        "identity": plan.identity,
        "options": plan.options,
        "provenance": plan.provenance,
    }


def _layer(manifest: Manifest, layer: LayerPlan) -> dict[str, Any]:
    codec = codec_from_config(layer.codec)
    view = None if layer.view_codec is None else codec_from_config(layer.view_codec)
    size = sum(entry.bytes for entry in manifest.shards[layer.name])
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
        "bytes": size,
        "bytes_a_sample": size / max(manifest.samples, 1),
        "fp32_bytes": 4 * math.prod(codec.spec.shape),
        "error": manifest.errors.get(layer.name),
        "mirror_error_db": layer.mirror_error,
        "similarity": None if layer.similarity is None else layer.similarity.to_json(),
        "grid": None if layer.grid is None else layer.grid.to_json(),
        "prefix_flops": layer.flops,
    }
