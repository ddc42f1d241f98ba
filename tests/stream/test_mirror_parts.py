"""Batches of sets whose mirror is stored in part: what they hold, decoded and not, and what of them is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fmshards.augment import LayerMove, Mirror, MirrorMap, move
from fmshards.errors import FormatError, InputError
from fmshards.reader import PLAIN, Combination
from fmshards.shards import read_calibration
from fmshards.stream import FeatureDataset, FeatureDecoder, decode_chunks, open_shards
from tests.sets import SPECS, BuiltSet, build_set

MIRRORS = ["stored(0.4, rest=map, kernel=3)", "stored(0.4, rest=flip)", "stored(1, rate=fp16)"]
MIXED: dict[str, Any] = {"layers": {"layer2": "fp32", "layer3": "fp32"}, "recipe": "flip+crop(pad=4)"}


@pytest.fixture(scope="module", params=MIRRORS)
def parted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BuiltSet:
    return build_set(tmp_path_factory.mktemp("sets") / "parted", mirror=request.param, **MIXED)


def expected(built: BuiltSet, batch: dict, layer: str) -> torch.Tensor:
    """What a batch must hold, by the slow way: whole references, moved one by one; a view's channels last."""
    plan, features, mirror = built.plan.layer(layer), built.features[layer], Mirror.from_json(built.plan.mirror)
    every = read_calibration(built.url, built.plan)
    arrays = {name.partition("/")[2]: array for name, array in every.items() if layer in name}
    spec, axis = plan.spec, plan.spec.channel_axis + 1
    stored = torch.tensor(plan.mirror_channels)
    others = torch.tensor([c for c in range(spec.channels) if c not in plan.mirror_channels], dtype=torch.long)
    how = LayerMove(spec, (32, 32), plan.grid, torch.from_numpy(arrays["fill"]) if spec.spatial else None)
    out = []
    for i, key in enumerate(batch["__key__"]):
        row, theta, mirrored = built.keys.index(key), batch["theta"][i : i + 1], batch["mirrored"][i : i + 1]
        base = torch.from_numpy(features["base"][row])[None]
        x = base.clone()
        if mirrored.item():
            half = features["mirror"][row].astype(np.float16 if mirror.rate == "fp16" else np.float32)
            x.index_copy_(axis, stored, torch.from_numpy(half.astype(np.float32))[None])
            if mirror.mapped:
                known = MirrorMap.from_arrays(arrays, spec, plan.nonnegative, len(others))
                x.index_copy_(axis, others, known.apply(base))
        x = move(x, theta, mirrored, how)
        if mirrored.item() and mirror.flipped:
            flipped = move(base, theta, torch.tensor([False]), how)
            x = x.index_copy(axis, others, flipped.index_select(axis, others))
        if view := int(batch["view"][i]):
            own = torch.from_numpy(features[f"view{view}"][row])[None]
            x = x.index_copy(axis, torch.tensor(plan.sensitive), own)
        out.append(x)
    return torch.cat(out)


@pytest.mark.parametrize("workers", [0, 2])
def test_stored_channels_the_map_and_the_flip_make_the_mirror(parted: BuiltSet, workers: int) -> None:
    data = FeatureDataset(parted.url, batch_size=8, groups=2)
    seen = 0
    for batch in torch.utils.data.DataLoader(data, batch_size=None, num_workers=workers):
        for layer in ("layer2", "layer3"):
            assert torch.allclose(batch[layer], expected(parted, batch, layer), atol=1e-5)
        seen += int(batch["mirrored"].sum())
    assert 10 < seen < 63


@pytest.mark.parametrize("mirror", MIRRORS)
@pytest.mark.parametrize("kind", sorted(SPECS))
def test_every_kind_of_feature(tmp_path: Path, kind: str, mirror: str) -> None:
    if kind == "vector" and "flip" in mirror:
        return  # which calibration refuses: what has no places cannot be flipped
    recipe = "flip" if kind == "vector" else "flip+crop(pad=8)"
    built = build_set(tmp_path / "set", kind=kind, recipe=recipe, mirror=mirror, samples=(9, 7), chunk=4)
    batch = next(iter(FeatureDataset(built.url, batch_size=16)))
    assert 0 < int(batch["mirrored"].sum()) < 16
    assert torch.allclose(batch["layer2"], expected(built, batch, "layer2"), atol=1e-5)


@pytest.mark.parametrize("mirror", MIRRORS)
def test_views_refer_to_the_mirror(tmp_path: Path, mirror: str) -> None:
    built = build_set(tmp_path / "set", mirror=mirror, views=4, **MIXED)
    shown = set()
    for batch in FeatureDataset(built.url, batch_size=8):
        assert torch.allclose(batch["layer2"], expected(built, batch, "layer2"), atol=1e-5)
        shown |= set(zip(batch["view"].tolist(), batch["mirrored"].tolist(), strict=True))
    assert shown == {(1, False), (2, True), (3, False), (4, True)}


def test_undecoded_batches_are_all_alike_and_decode_to_the_same(parted: BuiltSet) -> None:
    rows = list(FeatureDataset(parted.url, batch_size=8, decode=False))
    shapes = {tuple((name, *value.shape) for name, value in b.items() if name.endswith("rows")) for b in rows}
    assert len(shapes) == 1
    decoder = FeatureDecoder(parted.url)
    for batch, whole in zip(rows, FeatureDataset(parted.url, batch_size=8), strict=True):
        assert batch["layer2.mirror_rows"].dtype == torch.uint8
        assert not batch["layer2.mirror_rows"][~batch["mirrored"]].any()
        assert batch["layer2.mirror_rows"][batch["mirrored"]].any(dim=1).all()
        made = decoder(batch)
        assert "layer2.mirror_rows" not in made
        assert torch.equal(made["layer2"], whole["layer2"])


def test_what_is_not_mirrored_needs_no_rows_of_the_mirror(parted: BuiltSet) -> None:
    decoder = FeatureDecoder(parted.url)
    for options in ({"train": False}, {"augment": False}):
        batch = next(iter(FeatureDataset(parted.url, batch_size=8, decode=False, **options)))
        assert "layer2.mirror_rows" not in batch
        where = [parted.keys.index(key) for key in batch["__key__"]]
        assert np.array_equal(decoder(batch)["layer2"], parted.features["layer2"]["base"][where])
    batch = next(iter(FeatureDataset(parted.url, batch_size=73, decode=False)))
    without = {name: value for name, value in batch.items() if name != "layer2.mirror_rows"}
    with pytest.raises(InputError, match=r"no layer2\.mirror_rows"):
        decoder(without)
    moved = decoder({**without, "mirrored": torch.zeros(73, dtype=torch.bool)})
    assert torch.equal(moved["layer2"], decoder({**batch, "mirrored": torch.zeros(73, dtype=torch.bool)})["layer2"])
    with pytest.raises(InputError, match=r"73 samples and 72 layer2\.mirror_rows"):
        decoder({**batch, "layer2.mirror_rows": batch["layer2.mirror_rows"][1:]})


def test_both_parts_are_read_where_the_mirror_is_shown(parted: BuiltSet) -> None:
    catalog = FeatureDataset(parted.url, ["layer2"], batch_size=8).catalog
    layer = parted.plan.layer("layer2")
    assert layer.own_mirror_codec is not None
    both = layer.base_codec.row_bytes + layer.own_mirror_codec.row_bytes
    assert [s.name for s in catalog.streams(layer, Combination("mirror", 0))] == ["base", "mirror"]
    assert catalog.row_bytes(Combination("mirror", 0)) == both
    assert [s.name for s in catalog.streams(layer, PLAIN)] == ["base"]


def test_one_sample_and_the_plugin(parted: BuiltSet) -> None:
    samples = open_shards(parted.url)
    theta = torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]])
    for i in (0, 30):
        one = {"__key__": [parted.keys[i]], "theta": theta, "mirrored": torch.tensor([True]), "view": [0]}
        found = samples.sample(i, "mirror")["layer2"]
        assert torch.allclose(found, expected(parted, one, "layer2")[0], atol=1e-5)
        assert np.array_equal(samples[i]["layer2"], parted.features["layer2"]["base"][i])
    urls = [f"{parted.url}/layer2/{name}" for name in samples.catalog.shard_names]
    mirrored = 0
    for sample in decode_chunks()(urls):
        flags = {"mirrored": torch.tensor([sample["mirrored"]]), "view": [0]}
        batch = {"__key__": [sample["__key__"]], "theta": sample["theta"][None], **flags}
        assert torch.allclose(sample["layer2"], expected(parted, batch, "layer2")[0], atol=1e-5)
        mirrored += sample["mirrored"]
    assert 0 < mirrored < 73


@pytest.mark.parametrize(
    ("mirror", "words"),
    [
        ({"way": "stored"}, "the plan's mirror is stored, and the layer has the channels"),
        ({"way": "none"}, "the plan's mirror is none, and the layer has the channels"),
        ({"way": "stored", "fraction": 0.4, "rest": "map", "kernel": 3}, "no array 'mirror_weight'"),
        ({"way": "stored", "fraction": 0.4, "rest": "both"}, "rest must be one of"),
    ],
)
def test_a_plan_that_says_otherwise_than_its_layers_is_refused(tmp_path: Path, mirror: dict, words: str) -> None:
    built = build_set(tmp_path / "set", mirror="stored(0.4, rest=flip)", **MIXED)
    plan = replace(built.plan, mirror=mirror)
    manifest = json.loads((built.path / "manifest.json").read_bytes())
    manifest |= {"plan": plan.to_json(), "plan_digest": plan.digest}
    (built.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match=words):
        FeatureDecoder(built.url)
