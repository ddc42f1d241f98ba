"""A stored channel order, end to end: chosen where it pays, undone by every reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fmshards.codec import codec_from_config
from fmshards.errors import InputError, MismatchError
from fmshards.extraction import extract
from fmshards.shards import Manifest, read_manifest
from fmshards.stream import FeatureDataset
from tests.shards import reader40

from .conftest import direct, error_db, options, stored, tree

LAYERS = {"layer2": "fp32", "layer3": 4}
MORE = {"layers": LAYERS, "recipe": "flip+crop(pad=4)", "views": 2, "sensitive": 0.5, "calibration": 64}


@pytest.fixture(scope="module")
def made(tars: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    out = tmp_path_factory.mktemp("ordered") / "set"
    return out, extract(tars, out, **options(**MORE))


def test_a_zfp_layer_has_an_order_and_its_views_their_own(made: tuple[Path, Manifest]) -> None:
    _, manifest = made
    raw, layer = (manifest.plan.layer(name) for name in ("layer2", "layer3"))
    assert raw.codec["order"] is None
    assert sorted(layer.codec["order"]) == list(range(64))
    assert layer.view_codec is not None
    assert sorted(layer.view_codec["order"]) == list(range(32))
    assert manifest.plan.options["order"] == "auto"


def test_what_is_decoded_is_the_feature_at_a_smaller_error(
    made: tuple[Path, Manifest], tars: list[str], tmp_path: Path
) -> None:
    out, manifest = made
    plain = extract(tars, tmp_path / "plain", **options(**MORE, order="none"))
    for config in (plain.plan.layer("layer3").codec, plain.plan.layer("layer3").view_codec):
        assert config is not None
        assert config["order"] is None
    found, wanted = stored(out, "layer3"), direct(tars, "layer3")
    assert error_db(found.streams["base"], wanted) < -17
    assert manifest.errors["layer3"]["db"] < plain.errors["layer3"]["db"] - 0.5
    whole = stored(tmp_path / "plain", "layer3")
    for view in ("view1", "view2"):  # of other channels, or in another order, this would be about 0 dB
        assert error_db(found.streams[view], whole.streams[view]) < -14
    assert [s.bytes for s in manifest.shards["layer3"]] == [s.bytes for s in plain.shards["layer3"]]


def test_the_stream_and_the_short_reader_undo_it(made: tuple[Path, Manifest]) -> None:
    out, _ = made
    found = stored(out, "layer3")
    batches = list(FeatureDataset(str(out), ["layer3"], batch_size=26, train=False))
    assert torch.equal(torch.cat([batch["layer3"] for batch in batches])[: len(found.keys)], found.streams["base"])
    chunks = list(reader40.read(out, "layer3"))
    assert np.array_equal(np.concatenate([x for _, _, x in chunks]), found.streams["base"].numpy())


def test_the_same_call_gives_the_same_order_and_another_is_refused(
    made: tuple[Path, Manifest], tars: list[str], tmp_path: Path
) -> None:
    out, manifest = made
    again = extract(tars, tmp_path / "again", **options(**MORE))
    assert again.plan.layers == manifest.plan.layers
    before = tree(out)
    with pytest.raises(MismatchError, match=r"order: none here, auto in plan\.json"):
        extract(tars, out, **options(**MORE, order="none"))
    assert extract(tars, out, **options(**MORE)) == read_manifest(str(out))
    assert tree(out) == before
    with pytest.raises(InputError, match="auto, none"):
        extract(tars, out, **options(**MORE, order="sorted"))


def test_without_a_recipe_too(tars: list[str], tmp_path: Path) -> None:
    plan = extract(tars[:1], tmp_path / "out", **options(layers={"layer3": 4}, calibration=64)).plan
    assert codec_from_config(plan.layer("layer3").codec).order is not None
    assert plan.layer("layer3").similarity is None
