"""Extraction with `int` and with the filter: what is fitted, what is stored, and what a restart makes of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fmshards.errors import InputError, MismatchError
from fmshards.extraction import extract, verify
from fmshards.shards import read_plan

from .child import finish, start
from .conftest import MODEL, WEIGHTS, direct, error_db, options, stored, tree

RECIPE = options(layers={"layer2": "int4", "layer3": "int5-channel"}, recipe="flip+crop(pad=4)", filter="zstd")


@pytest.fixture(scope="module")
def made(tars: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    finish(start(tars, folder / "set", folder / "log", **RECIPE), folder / "log")
    return folder / "set"


def test_features_are_the_networks_to_within_their_bits(tars: list[str], made: Path) -> None:
    for layer, most in (("layer2", -24), ("layer3", -22)):
        found = stored(made, layer)
        assert error_db(found.streams["base"], direct(tars, layer)) < most
        assert error_db(found.streams["mirror"], direct(tars, layer, lambda x: x.flip(-1))) < most
        assert found.streams["base"].min() == 0
    assert verify(str(made), MODEL, weights=WEIGHTS).problems == ()


def test_the_filter_changes_what_is_stored_and_nothing_else(tars: list[str], tmp_path: Path) -> None:
    plain = options(layers={"layer2": "int4", "layer3": 4}, recipe="flip")
    manifests = [extract(tars, tmp_path / str(f), **plain, filter=f) for f in (None, "zstd")]
    for layer in ("layer2", "layer3"):
        ours, theirs = (stored(tmp_path / str(f), layer) for f in ("zstd", None))
        assert all(torch.equal(ours.streams[name], theirs.streams[name]) for name in theirs.streams)
        sizes = [sum(entry.bytes for entry in m.shards[layer]) for m in manifests]
        assert sizes[1] < sizes[0]
        assert manifests[0].errors[layer] == manifests[1].errors[layer]
    assert "filter" not in manifests[0].plan.options
    assert manifests[1].plan.options["filter"] == "zstd"


def test_steps_are_fitted_on_as_many_samples_as_asked_for(tars: list[str], tmp_path: Path) -> None:
    """Without a recipe too, where calibration looks at a few samples else."""
    plans = []
    for calibration in (1, 104):
        out = tmp_path / str(calibration)
        extract(tars, out, **options(layers={"layer2": "int4-channel"}, calibration=calibration))
        plans.append(read_plan(str(out)).layer("layer2").codec)
    few, many = (np.array(plan["scale"]) for plan in plans)
    assert few.shape == many.shape == (32,)
    assert set(plans[1]["offset"]) == {0.0}
    errors = []
    for calibration in (1, 104):
        found = stored(tmp_path / str(calibration), "layer2").streams["base"]
        errors.append(error_db(found, direct(tars, "layer2")))
    assert errors[1] < errors[0] - 1
    top = direct(tars, "layer2").amax((0, 2, 3)).numpy()
    assert (many * 15 <= 1.001 * top).all()


def test_views_take_the_steps_of_their_channels(tars: list[str], tmp_path: Path) -> None:
    extract(
        *(tars, tmp_path / "out"),
        **options(layers={"layer2": "int6-channel"}, recipe="flip+crop(pad=4)", views=2, sensitive=0.25),
    )
    layer = read_plan(str(tmp_path / "out")).layer("layer2")
    assert layer.view_codec is not None
    assert len(layer.view_codec["scale"]) == 8
    assert layer.view_codec["scale"] == [layer.codec["scale"][c] for c in layer.sensitive]


def test_what_is_whole_is_kept_and_the_rest_made_the_same(tars: list[str], made: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(made, out)
    (out / "manifest.json").unlink()
    (out / "layer2" / "000001.tar").unlink()
    data = (out / "layer3" / "000002.tar").read_bytes()
    (out / "layer3" / "000002.tar").write_bytes(data[:-1024])
    finish(start(tars, out, tmp_path / "log", **RECIPE, workers=2), tmp_path / "log")
    assert tree(out) == tree(made)


@pytest.mark.parametrize("other", [{"filter": None}, {"layers": {"layer2": "int4", "layer3": "int5"}}])
def test_other_options_are_refused(tars: list[str], made: Path, other: dict[str, object]) -> None:
    with pytest.raises(MismatchError, match="filter" if "filter" in other else "rates.layer3"):
        extract(tars, made, **{**RECIPE, **other})


def test_an_unknown_filter_is_refused_at_once(tars: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="zstd"):
        extract(tars, tmp_path / "out", **options(filter="gzip"))
    assert not (tmp_path / "out").exists()
