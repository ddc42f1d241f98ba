"""Small shard sets written without a model, so that readers can be checked.

`layer_plan`, `plan_of`, `write_shard` and `write_set` are what every set of the tests is made with: a plan, its layers,
the loop that writes. `build_set` says by options what is in a set and makes it of random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmshards.augment import MirrorMap, parse_mirror, parse_recipe, settle_step, view_theta
from fmshards.codec import FeatureSpec, codec_for
from fmshards.shards import (
    Grid,
    InputShard,
    LayerPlan,
    Manifest,
    Plan,
    ShardEntry,
    ShardWriter,
    layer_url,
    make_manifest,
    write_calibration,
    write_manifest,
    write_plan,
)

Contents = Callable[[str, int, int, int], Mapping[str, Any]]
"""Of a layer, an input shard, the first sample in it and how many: what `ShardWriter.add` takes."""


def layer_plan(
    name: str,
    spec: FeatureSpec,
    rate: str | float,
    *,
    sensitive: Sequence[int] = (),
    filter: str | None = None,
    mirror_channels: Sequence[int] = (),
    mirror_rate: str | float | None = None,
    **changes: Any,
) -> LayerPlan:
    """A layer of `spec` at a rate, with views of the `sensitive` channels where there are any, and of the mirror the
    `mirror_channels` where not all of it is stored, at a rate of their own if they have one."""
    own = rate if mirror_rate is None else mirror_rate
    part = codec_for(own, spec.select(len(mirror_channels)), filter=filter) if mirror_channels else None
    view = codec_for(rate, spec.select(len(sensitive)), filter=filter) if sensitive else None
    fields: dict[str, Any] = {
        "name": name,
        "cut": name,
        "codec": codec_for(rate, spec, filter=filter).config(),
        "view_codec": view.config() if view else None,
        "sensitive": tuple(sensitive),
        "similarity": None,
        "grid": Grid((2.0, 2.0), (0.5, 0.5)),
        "flops": 1,
        "dtype": "float32",
        "nonnegative": True,
        "mirror_error": None,
        "mirror_channels": tuple(mirror_channels),
        "mirror_codec": part.config() if part else None,
    }
    return LayerPlan(**{**fields, **changes})


def plan_of(layers: Sequence[LayerPlan], samples: Sequence[int], **changes: Any) -> Plan:
    """A plan of input shards of so many samples, without augmentation where `changes` do not say it."""
    fields: dict[str, Any] = {
        "identity": {"layers": {layer.name: {"cut": layer.cut, "prefix": "0" * 64} for layer in layers}, "seed": 0},
        "options": {},
        "provenance": {},
        "inputs": tuple(InputShard(f"{s:06d}", f"in-{s}.tar", None, n, None) for s, n in enumerate(samples)),
        "chunk": 8,
        "base_size": (16, 16),
        "recipe": {"steps": []},
        "mirror": {"way": "none"},
        "views": 0,
        "references": ("base",),
        "members": ("base",),
        "layers": tuple(layers),
        "classes": None,
        "calibration": None,
    }
    return Plan(**{**fields, **changes})


def write_shard(
    url: str, plan: Plan, layer: str, shard: int, contents: Contents, errors: Mapping[str, Any] | None = None
) -> ShardEntry:
    """One layer's shard of an input shard, chunk after chunk; `errors`: the error sums of its index."""
    samples = plan.inputs[shard].samples
    assert samples is not None
    with ShardWriter(url, plan.digest, layer) as writer:
        for start in range(0, samples, plan.chunk):
            writer.add(**contents(layer, shard, start, min(plan.chunk, samples - start)))
        if errors is not None:
            writer.errors(errors)
        return writer.close()


def write_set(
    root: str,
    plan: Plan,
    contents: Contents,
    errors: Callable[[str], Mapping[str, Any]] | None = None,
    whole: bool = True,
) -> Manifest | None:
    """Every shard of a plan, and the manifest, which is returned; whole=False: no manifest, as an extraction that was
    cut short leaves it."""
    assert write_plan(root, plan)
    shards = {
        layer.name: tuple(
            write_shard(
                layer_url(root, layer.name, f"{source.name}.tar"),
                plan,
                layer.name,
                shard,
                contents,
                errors(layer.name) if errors else None,
            )
            for shard, source in enumerate(plan.inputs)
        )
        for layer in plan.layers
    }
    if not whole:
        return None
    manifest = make_manifest(root, plan, shards)
    write_manifest(root, manifest)
    return manifest


SPECS = {
    "map": FeatureSpec("map", (8, 8, 8)),
    "map_last": FeatureSpec("map_last", (8, 8, 8)),
    "tokens": FeatureSpec("tokens", (17, 8), (4, 4), 1),
    "vector": FeatureSpec("vector", (32,)),
}


@dataclass(frozen=True)
class BuiltSet:
    """`features[layer][stream]` float32 [N, *shape] are what was encoded, `keys` and `classes` go with them."""

    path: Path
    plan: Plan
    keys: list[str]
    classes: list[int]
    features: dict[str, dict[str, np.ndarray]]
    theta: np.ndarray | None

    @property
    def url(self) -> str:
        return str(self.path)


def build_set(
    path: Path,
    *,
    samples: Sequence[int] = (25, 18, 30),
    chunk: int = 8,
    layers: dict[str, str] | None = None,
    kind: str | FeatureSpec = "map",
    recipe: str | None = None,
    mirror: str = "stored",
    views: int = 0,
    sensitive: Sequence[int] = (1, 4, 6),
    fields: dict[str, list] | None = None,
    filter: str | None = None,
    seed: int = 0,
    prefix: str = "0" * 64,
    whole: bool = True,
) -> BuiltSet:
    """Write a set of `samples[s]` samples in shard s. layers: name -> rate (default `{"layer2": "fp32"}`).

    `fields`: more columns of N values. prefix: the digest of its weights.
    whole=False leaves out the manifest, as an extraction that was cut short does.
    """
    rng = np.random.default_rng(seed)
    some = np.random.default_rng(seed + 1)
    spec = SPECS[kind] if isinstance(kind, str) else kind
    strides = {} if spec.spatial is None else {"": (32 / spec.spatial[0], 32 / spec.spatial[1])}
    recipe_, mirror_ = settle_step(parse_recipe(recipe), strides), parse_mirror(mirror)
    total, base_size = sum(samples), (32, 32)
    mirrored = recipe_.flips and mirror_.way != "none"
    streams = ["base", *(["mirror"] if mirrored and mirror_.way == "stored" else [])]
    streams += [f"view{v}" for v in range(1, views + 1)]
    plans, arrays = [], {}
    features: dict[str, dict[str, np.ndarray]] = {}
    for name, rate in (layers or {"layer2": "fp32"}).items():
        arrays[f"{name}/fill"] = rng.normal(size=spec.shape).astype(np.float32)
        stored: tuple[int, ...] = ()
        if mirrored and mirror_.part:
            count = math.ceil(mirror_.fraction * spec.channels)
            stored = tuple(sorted(some.permutation(spec.channels)[:count].tolist()))
        if mirrored and mirror_.mapped:
            others = [c for c in range(spec.channels) if c not in stored]
            known = _some_map(spec, mirror_.kernel, rng).select(others)
            arrays |= {f"{name}/{k}": v for k, v in known.to_arrays().items()} if others else {}
        plans.append(
            layer_plan(
                name,
                spec,
                rate,
                sensitive=sensitive if views else (),
                filter=filter,
                grid=None if spec.spatial is None else Grid((32 / spec.spatial[0],) * 2, (0.0, 0.0)),
                nonnegative=False,
                mirror_error=-10.0 if mirrored and mirror_.mapped else None,
                mirror_channels=stored,
                mirror_rate=mirror_.rate,
            )
        )
        parts = {"base": spec, "mirror": spec.select(len(stored)) if stored else spec}
        features[name] = {
            s: rng.normal(size=(total, *parts.get(s, spec.select(len(sensitive))).shape)).astype(np.float32)
            for s in streams
        }
    path.mkdir(parents=True)
    plan = plan_of(
        plans,
        samples,
        identity={"layers": {p.name: {"cut": p.cut, "prefix": prefix} for p in plans}, "seed": seed},
        chunk=chunk,
        base_size=base_size,
        recipe=recipe_.to_json(),
        mirror=mirror_.to_json(),
        views=views,
        references=("base", "mirror") if mirrored else ("base",),
        members=tuple(streams),
        calibration=write_calibration(str(path), arrays),
    )
    keys = [f"s{s}_{i:04d}" for s, n in enumerate(samples) for i in range(n)]
    # By themselves: the same whatever streams there are, as the base's features are.
    classes = np.random.default_rng(seed + 1).integers(0, 10, total).tolist()
    columns = {"cls": [str(c).encode() for c in classes], **(fields or {})}
    first = [sum(samples[:shard]) for shard in range(len(samples))]
    thetas = [
        view_theta(recipe_, mirror_, seed, f"{shard:06d}", keys[first[shard] :][:n], views, base_size)
        for shard, n in enumerate(samples)
    ]
    theta = np.concatenate(thetas)

    def contents(layer: str, shard: int, start: int, n: int) -> dict[str, Any]:
        part = slice(first[shard] + start, first[shard] + start + n)
        return {
            "keys": keys[part],
            "fields": {name: column[part] for name, column in columns.items()},
            "theta": theta[part] if views else None,
            "members": {
                member: codec.member(codec.encode(features[layer][member.rsplit(".", 1)[0]][part]))
                for member, codec in plan.layer_members(layer).items()
            },
        }

    write_set(str(path), plan, contents, whole=whole)
    return BuiltSet(path, plan, keys, classes, features, theta if views else None)


def _some_map(spec: FeatureSpec, kernel: int, rng: np.random.Generator) -> MirrorMap:
    c, k = spec.channels, spec.class_tokens
    shape = (c, c) if spec.kind == "vector" else (c, c, kernel, kernel)

    def some(*sides: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=sides).astype(np.float32) / 4)

    classes = (some(k, c, c), some(k, c)) if k else (None, None)
    return MirrorMap(some(*shape), some(c), False, spec, *classes)
