"""A small real set: rows of a real codec over smooth, half rectified random maps, views, thetas and fields."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fmshards.codec import FeatureSpec
from fmshards.shards import InputShard, LayerPlan, Manifest, Plan, ShardEntry, Similarity
from tests import sets

CHUNK = 8
SHAPES = {"layer2": (8, 8, 8), "head": (5, 7, 6)}
SAMPLES = (20, 16)


def layer_plan(name: str, shape: tuple[int, ...], rate: str | float = 4, views: int = 1) -> LayerPlan:
    return sets.layer_plan(
        name,
        FeatureSpec("map", shape),
        rate,
        sensitive=(1, 3) if views else (),
        similarity=Similarity((0.5,) * shape[0], (0.25,) * shape[0]),
        flops=123_456,
    )


def small_plan(**changes: Any) -> Plan:
    views = changes.pop("views", 1)
    plan: dict[str, Any] = {
        "layers": tuple(layer_plan(name, shape, views=views) for name, shape in SHAPES.items()),
        "samples": SAMPLES,
        "identity": {"layers": {name: {"cut": name, "prefix": "0" * 64} for name in SHAPES}, "seed": 0},
        "options": {"batch": 64, "model": "resnet20"},
        "provenance": {"torch": "2.14"},
        "inputs": tuple(InputShard(f"{i:06d}", f"in/{i:06d}.tar", 1, n, None) for i, n in enumerate(SAMPLES)),
        "chunk": CHUNK,
        "recipe": {"steps": [{"name": "flip", "p": 0.5}]},
        "mirror": {"way": "stored"},
        "views": views,
        "references": ("base", "mirror"),
        "members": ("base", "mirror", *(f"view{v}" for v in range(1, views + 1))),
        "classes": ("cat", "dog"),
    }
    return sets.plan_of(**{**plan, **changes})


def features(n: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """float32 [n, *shape], smooth and half zeros, as features after a ReLU are."""
    rng = np.random.default_rng(seed)
    return np.maximum(np.cumsum(rng.standard_normal((n, *shape)), axis=-1), 0).astype(np.float32)


def chunk_args(plan: Plan, layer: str, shard: int, start: int, n: int) -> dict[str, Any]:
    """What `ShardWriter.add` takes for samples start to start + n of input shard `shard`."""
    rng = np.random.default_rng([shard, start])
    members = {}
    for m, (name, codec) in enumerate(plan.layer_members(layer).items()):
        members[name] = codec.member(codec.encode(features(n, codec.spec.shape, 1000 * shard + 10 * start + m)))
    return {
        "keys": [f"s{shard}-{i}" for i in range(start, start + n)],
        "fields": {"cls": [str(i % 10).encode() for i in range(start, start + n)], "n": [{"i": [i]} for i in range(n)]},
        "theta": rng.standard_normal((n, plan.views, 2, 3)).astype(np.float32) if plan.views else None,
        "members": members,
    }


def write_shard(url: str, plan: Plan, layer: str, shard: int) -> ShardEntry:
    return sets.write_shard(url, plan, layer, shard, partial(chunk_args, plan), _errors(plan, layer))


def write_set(folder: Path, plan: Plan | None = None) -> Manifest:
    plan = plan or small_plan()
    manifest = sets.write_set(str(folder), plan, partial(chunk_args, plan), partial(_errors, plan))
    assert manifest is not None
    return manifest


def _errors(plan: Plan, layer: str) -> dict[str, Any]:
    channels = plan.layer_members(layer)["base.zfp"].spec.channels
    return {"samples": plan.chunk, "error": [1.0] * channels, "energy": [100.0] * channels}
