"""Extraction with `dct`: tables fitted to the calibration sample, kept with the plan; views have their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from fmshards.extraction import extract, verify
from fmshards.shards import read_plan
from tests.shards import reader40

from .conftest import MODEL, WEIGHTS, direct, error_db, options, stored, tree

RECIPE = options(
    layers={"layer2": "dct1", "layer3": "dct2.5"}, recipe="flip+crop(pad=4)", views=2, sensitive=0.25, filter="zstd"
)


@pytest.fixture(scope="module")
def made(tars: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    extract(tars, folder / "set", **RECIPE)
    return folder / "set"


def test_features_are_the_networks_to_within_their_bits(tars: list[str], made: Path) -> None:
    for layer, most in (("layer2", -11), ("layer3", -18)):
        found = stored(made, layer)
        assert error_db(found.streams["base"], direct(tars, layer)) < most
        assert error_db(found.streams["mirror"], direct(tars, layer, lambda x: x.flip(-1))) < most
        assert found.streams["base"].min() >= 0
    assert verify(str(made), MODEL, weights=WEIGHTS).problems == ()


def test_rows_have_the_stated_size_and_views_tables_of_their_own(made: Path) -> None:
    layer = read_plan(str(made)).layer("layer2")
    assert layer.view_codec is not None
    assert layer.codec["row_bytes"] == 32 * 16 * 16 // 8
    assert layer.view_codec["row_bytes"] == 8 * 16 * 16 // 8
    assert len(layer.view_codec["gains"]) == 8
    assert layer.view_codec["codes"] != layer.codec["codes"]


@pytest.mark.parametrize("stream", ["base", "mirror"])
def test_the_small_reader_reads_it(made: Path, stream: str) -> None:
    keys, _, x = next(reader40.read(made, "layer3", stream))
    assert torch.equal(torch.from_numpy(x), stored(made, "layer3").streams[stream][: len(keys)])


def test_what_is_missing_is_made_the_same(tars: list[str], made: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(made, out)
    (out / "manifest.json").unlink()
    (out / "layer2" / "000001.tar").unlink()
    extract(tars, out, **RECIPE)
    assert tree(out) == tree(made)
