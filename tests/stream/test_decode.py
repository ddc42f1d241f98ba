"""Rows to features: both ways of decoding agree, and what comes out is what the recipe says."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fmshards.augment import LayerMove, move
from fmshards.errors import InputError
from fmshards.shards import read_calibration
from fmshards.stream import FeatureDataset, FeatureDecoder, loader
from tests.sets import SPECS, BuiltSet, build_set


@pytest.fixture(params=["flipped", "mapped", "viewed"])
def built(request: pytest.FixtureRequest) -> BuiltSet:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("workers", "dtype"), [(0, torch.float32), (0, torch.bfloat16), (2, torch.float32)])
def test_both_ways_give_the_same_tensors(built: BuiltSet, workers: int, train: bool, dtype: torch.dtype) -> None:
    options = {"batch_size": 8, "train": train, "num_workers": workers, "groups": 2}
    decoded = list(loader(built.url, dtype=dtype, **options))
    rows = list(loader(built.url, decode=False, **options))
    decoder = FeatureDecoder(built.url, dtype=dtype)
    assert len(decoded) == len(rows)
    for one, other in zip(decoded, rows, strict=True):
        assert other["layer2.rows"].dtype == torch.uint8
        assert "layer2" not in other
        made = decoder(other)
        assert made.keys() == one.keys()
        for name, value in one.items():
            same = torch.equal(made[name], value) if isinstance(value, torch.Tensor) else made[name] == value
            assert same, name
            if isinstance(value, torch.Tensor):
                assert made[name].dtype == value.dtype


@pytest.mark.parametrize("kind", list(SPECS))
def test_what_a_first_batch_needs_can_be_made_ready_before(tmp_path: Path, kind: str) -> None:
    built = build_set(tmp_path / "set", kind=kind, layers={"a": "4", "b": "int4", "c": "fp16"})
    decoder = FeatureDecoder(built.url)
    batch = next(iter(FeatureDataset(built.url, batch_size=8, decode=False)))
    before = decoder(batch)
    decoder.prepare()
    for name in ("a", "b", "c"):
        assert torch.equal(decoder(batch)[name], before[name])


def test_kernels_are_there_before_workers_start(tmp_path: Path) -> None:
    """Workers that start at once would each compile them; the loader's own process does it once."""
    built = build_set(tmp_path / "set", layers={"a": "4"}, recipe="flip+crop(pad=4, step=1)")
    program = (
        "import sys; from fmshards import loader; from fmshards.kernels import jit\n"
        f"made = loader({built.url!r}, batch_size=8, num_workers=1, multiprocessing_context='spawn')\n"
        "from fmshards.codec.zfp.cpu import decode\n"
        "from fmshards.augment.features import on_cpu\n"
        "assert jit.missing() or decode.decode_rows.seconds is not None\n"
        "assert jit.missing() or on_cpu.move_planes.seconds is not None"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_decoder_adds_nothing_to_a_models_state(built: BuiltSet) -> None:
    decoder = FeatureDecoder(built.url)
    assert not list(decoder.parameters())
    assert not list(decoder.buffers())
    assert not torch.nn.Sequential(decoder, torch.nn.Linear(2, 2)).state_dict().keys() - {"1.weight", "1.bias"}
    batch = next(iter(FeatureDataset(built.url, batch_size=8, decode=False)))
    for other in (copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))):
        assert torch.equal(other(batch)["layer2"], decoder(batch)["layer2"])


def test_rows_that_are_missing_are_named(flipped: BuiltSet) -> None:
    batch = next(iter(FeatureDataset(flipped.url, ["layer3"], batch_size=8, decode=False)))
    with pytest.raises(InputError, match=r"no layer2.rows"):
        FeatureDecoder(flipped.url)(batch)
    assert FeatureDecoder(flipped.url, "layer3")(batch)["layer3"].shape == (8, 8, 8, 8)


def expected(built: BuiltSet, batch: dict, layer: str = "layer2") -> torch.Tensor:
    """What a batch must hold, by the slow way: reference picked, moved, channels put in, one sample at a time."""
    plan, features = built.plan.layer(layer), built.features[layer]
    fill = torch.from_numpy(read_calibration(built.url, built.plan)[f"{layer}/fill"])
    spec = next(iter(built.plan.layer_members(layer).values())).spec
    out = []
    for i, key in enumerate(batch["__key__"]):
        row = built.keys.index(key)
        mirrored = batch["mirrored"][i : i + 1]
        reference = features["mirror" if mirrored.item() else "base"][row]
        x = move(
            torch.from_numpy(reference)[None],
            batch["theta"][i : i + 1],
            mirrored,
            LayerMove(spec, (32, 32), plan.grid, fill),
        )
        view = int(batch["view"][i])
        if view:
            x.index_copy_(1, torch.tensor(plan.sensitive), torch.from_numpy(features[f"view{view}"][row])[None])
            assert built.theta is not None
            assert np.array_equal(batch["theta"][i].numpy(), built.theta[row, view - 1])
        out.append(x)
    return torch.cat(out)


@pytest.mark.parametrize("name", ["flipped", "viewed"])
def test_features_are_moved_and_channels_put_in(name: str, request: pytest.FixtureRequest) -> None:
    built = request.getfixturevalue(name)
    thetas = set()
    for batch in FeatureDataset(built.url, batch_size=8):
        assert torch.equal(batch["layer2"], expected(built, batch))
        thetas |= {tuple(theta.flatten().tolist()) for theta in batch["theta"]}
    assert len(thetas) > 20


def test_each_reference_and_view_comes_once_in_a_block_of_epochs(viewed: BuiltSet) -> None:
    data = FeatureDataset(viewed.url, batch_size=73, augment=True)
    shown: dict[str, list[tuple[bool, int]]] = {key: [] for key in viewed.keys}
    for _ in range(8):
        for batch in data:
            pairs = zip(batch["mirrored"].tolist(), batch["view"].tolist(), strict=True)
            for key, pair in zip(batch["__key__"], pairs, strict=True):
                shown[key].append(pair)
    for pairs in shown.values():
        assert sorted(pairs[:4]) == sorted(pairs[4:]) == [(False, 1), (False, 3), (True, 2), (True, 4)]
    assert len({tuple(pairs) for pairs in shown.values()}) > 3


def test_references_take_turns(flipped: BuiltSet) -> None:
    data = FeatureDataset(flipped.url, batch_size=73)
    first, second = (next(iter(data)) for _ in range(2))
    turns = dict(zip(first["__key__"], first["mirrored"].tolist(), strict=True))
    assert {True, False} == set(turns.values())
    for key, mirrored in zip(second["__key__"], second["mirrored"].tolist(), strict=True):
        assert mirrored is not turns[key]


def test_the_mapped_mirror_is_the_map_of_the_base(mapped: BuiltSet) -> None:
    decoder = FeatureDecoder(mapped.url)
    batch = next(iter(FeatureDataset(mapped.url, batch_size=73, decode=False)))
    made = decoder(batch)["layer2"]
    assert 0 < int(batch["mirrored"].sum()) < 73
    same = FeatureDecoder(mapped.url)(batch | {"mirrored": torch.zeros(73, dtype=torch.bool)})["layer2"]
    base = ~batch["mirrored"]
    assert torch.equal(made[base], same[base])
    assert not torch.isclose(made[~base], same[~base]).all()
    assert "layer2.rows" in batch
    assert len(mapped.plan.members) == 1


@pytest.mark.parametrize("kind", sorted(SPECS))
@pytest.mark.parametrize("mirror", ["stored", "mapped(kernel=1)"])
def test_every_kind_of_feature(tmp_path, kind: str, mirror: str) -> None:
    recipe = "flip" if kind == "vector" else "flip+crop(pad=4, step=1)"
    built = build_set(tmp_path / "set", kind=kind, recipe=recipe, mirror=mirror, samples=(9, 7), chunk=4)
    batch = next(iter(FeatureDataset(built.url, batch_size=16)))
    assert batch["layer2"].shape == (16, *SPECS[kind].shape)
    assert batch["layer2"].isfinite().all()
    if mirror == "stored" and kind == "vector":
        for i, key in enumerate(batch["__key__"]):
            stream = "mirror" if batch["mirrored"][i] else "base"
            assert np.array_equal(batch["layer2"][i], built.features["layer2"][stream][built.keys.index(key)])


@pytest.mark.parametrize("kind", ["map", "vector"])
def test_whole_views_need_no_reference(tmp_path, kind: str) -> None:
    channels = SPECS[kind].channels
    built = build_set(
        tmp_path / "set",
        kind=kind,
        recipe="crop(pad=4, step=1)",
        views=3,
        sensitive=range(channels),
        samples=(9,),
        chunk=4,
    )
    rows = next(iter(FeatureDataset(built.url, batch_size=9, decode=False)))
    assert "layer2.rows" not in rows
    batch = FeatureDecoder(built.url)(rows)
    for i, key in enumerate(batch["__key__"]):
        view = built.features["layer2"][f"view{int(batch['view'][i])}"]
        assert np.array_equal(batch["layer2"][i], view[built.keys.index(key)])
    base = next(iter(FeatureDataset(built.url, batch_size=9, train=False)))
    assert np.array_equal(base["layer2"], built.features["layer2"]["base"])
