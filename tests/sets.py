"""Small shard sets written without a model: `build_set` says what is in them, so that readers can be checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fmshards.augment import MirrorMap, parse_mirror, parse_recipe, view_theta
from fmshards.codec import FeatureSpec, codec_for
from fmshards.shards import (
    Grid,
    InputShard,
    LayerPlan,
    Plan,
    ShardWriter,
    layer_url,
    make_manifest,
    write_calibration,
    write_manifest,
    write_plan,
)

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
    whole: bool = True,
) -> BuiltSet:
    """Write a set of `samples[s]` samples in shard s. layers: name -> rate (default `{"layer2": "fp32"}`).

    `fields`: more columns of N values. whole=False leaves out the manifest, as an extraction that was cut short does.
    """
    rng = np.random.default_rng(seed)
    spec = SPECS[kind] if isinstance(kind, str) else kind
    recipe_, mirror_ = parse_recipe(recipe), parse_mirror(mirror)
    total, base_size = sum(samples), (32, 32)
    mirrored = recipe_.flips and mirror_.way != "none"
    streams = ["base", *(["mirror"] if mirrored and mirror_.way == "stored" else [])]
    streams += [f"view{v}" for v in range(1, views + 1)]
    plans, arrays = [], {}
    features: dict[str, dict[str, np.ndarray]] = {}
    for name, rate in (layers or {"layer2": "fp32"}).items():
        view = codec_for(rate, spec.select(len(sensitive)), filter=filter)
        arrays[f"{name}/fill"] = rng.normal(size=spec.shape).astype(np.float32)
        if mirrored and mirror_.way == "mapped":
            arrays |= {f"{name}/{k}": v for k, v in _some_map(spec, mirror_.kernel, rng).to_arrays().items()}
        plans.append(
            LayerPlan(
                name=name,
                cut=name,
                codec=codec_for(rate, spec, filter=filter).config(),
                view_codec=view.config() if views else None,
                sensitive=tuple(sensitive) if views else (),
                similarity=None,
                grid=None if spec.spatial is None else Grid((32 / spec.spatial[0],) * 2, (0.0, 0.0)),
                flops=1,
                dtype="float32",
                nonnegative=False,
                mirror_error=-10.0 if mirrored and mirror_.way == "mapped" else None,
            )
        )
        features[name] = {
            s: rng.normal(size=(total, *(view.spec if s.startswith("view") else spec).shape)).astype(np.float32)
            for s in streams
        }
    path.mkdir(parents=True)
    plan = Plan(
        identity={"layers": {p.name: {"cut": p.cut, "prefix": "0" * 64} for p in plans}, "seed": seed},
        options={},
        provenance={},
        inputs=tuple(InputShard(f"{s:06d}", f"in-{s}.tar", None, n, None) for s, n in enumerate(samples)),
        chunk=chunk,
        base_size=base_size,
        recipe=recipe_.to_json(),
        mirror=mirror_.to_json(),
        views=views,
        references=("base", "mirror") if mirrored else ("base",),
        members=tuple(streams),
        layers=tuple(plans),
        classes=None,
        calibration=write_calibration(str(path), arrays),
    )
    write_plan(str(path), plan)
    keys = [f"s{s}_{i:04d}" for s, n in enumerate(samples) for i in range(n)]
    classes = rng.integers(0, 10, total).tolist()
    columns = {"cls": [str(c).encode() for c in classes], **(fields or {})}
    thetas = []
    for shard, n in enumerate(samples):
        own = keys[sum(samples[:shard]) :][:n]
        thetas.append(view_theta(recipe_, mirror_, seed, f"{shard:06d}", own, views, base_size))
    theta = np.concatenate(thetas)
    entries: dict[str, list] = {p.name: [] for p in plans}
    for layer in plans:
        codecs = plan.layer_members(layer.name)
        at = 0
        for shard, n in enumerate(samples):
            with ShardWriter(layer_url(str(path), layer.name, f"{shard:06d}.tar"), plan.digest, layer.name) as writer:
                for lo in range(at, at + n, chunk):
                    part = slice(lo, min(lo + chunk, at + n))
                    members = {}
                    for member, codec in codecs.items():
                        rows = codec.encode(features[layer.name][member.rsplit(".", 1)[0]][part])
                        members[member] = codec.member(rows)
                    writer.add(
                        keys[part], {k: v[part] for k, v in columns.items()}, theta[part] if views else None, members
                    )
                entries[layer.name].append(writer.close())
            at += n
    if whole:
        write_manifest(str(path), make_manifest(str(path), plan, entries))
    return BuiltSet(path, plan, keys, classes, features, theta if views else None)


def _some_map(spec: FeatureSpec, kernel: int, rng: np.random.Generator) -> MirrorMap:
    c, k = spec.channels, spec.class_tokens
    shape = (c, c) if spec.kind == "vector" else (c, c, kernel, kernel)

    def some(*sides: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=sides).astype(np.float32) / 4)

    classes = (some(k, c, c), some(k, c)) if k else (None, None)
    return MirrorMap(some(*shape), some(c), False, spec, *classes)
