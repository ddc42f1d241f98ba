"""A recipe at extraction: the step that is left to the cut, and what other recipes a real set serves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from fmshards.errors import InputError, MismatchError
from fmshards.extraction import extract
from fmshards.shards import read_plan
from fmshards.stream import loader

from .conftest import options, tree

LAYERS = {"layer2": 4, "layer3": "int4"}  # cells 2 and 4 pixels apart


def step_of(recipe: dict[str, Any]) -> int:
    return next(step["step"] for step in recipe["steps"] if step["name"] == "crop")


@pytest.mark.parametrize(("layers", "step"), [({"layer2": 4}, 2), (LAYERS, 4)])
def test_a_crop_moves_by_whole_cells_of_every_layer_unless_it_is_told_otherwise(tars, tmp_path, layers, step) -> None:
    plan = extract(tars[:1], tmp_path / "set", **options(layers=layers, recipe="flip+crop(pad=8)")).plan
    assert step_of(plan.recipe) == step
    assert plan.identity["recipe"] == f"flip(p=0.5)+crop(pad=8, step={step})"


@pytest.mark.parametrize(("recipe", "views"), [("resized_crop", 0), ("crop(pad=4, step=1)", 0), ("resized_crop", 2)])
def test_moves_that_features_follow_badly_are_told_before_they_are_extracted(tars, tmp_path, recipe, views) -> None:
    more = {"views": views, "sensitive": 1.0} if views else {}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        extract(tars[1:2], tmp_path / "set", **options(recipe=recipe, **more))
    assert [str(one.message).count("can be worse than") for one in told] == [1] * (not views)


def test_a_pad_below_a_cell_is_refused_before_anything_is_written(tars, tmp_path) -> None:
    with pytest.raises(InputError, match=r"layer2 by 2, layer3 by 4.*crop\(pad=4\)"):
        extract(tars[:1], tmp_path / "set", **options(layers=LAYERS, recipe="crop(pad=3)"))
    assert not (tmp_path / "set").exists()


def test_a_set_that_is_there_keeps_its_step(tars: list[str], tmp_path: Path) -> None:
    """As one of an earlier version does, where a step left out was 1."""
    out = tmp_path / "set"
    made = extract(tars[:1], out, **options(recipe="flip+crop(pad=4, step=1)"))
    before = tree(out)
    assert extract(tars[:1], out, **options(recipe="flip+crop(pad=4)")) == made
    (out / "manifest.json").unlink()
    assert extract(tars[:1], out, **options(recipe="flip+crop(pad=4)")) == made
    assert tree(out) == before
    for other in ("flip+crop(pad=4, step=2)", "flip+crop(pad=2)", "crop(pad=4)"):
        with pytest.raises(MismatchError, match=r"recipe: .* here, flip\(p=0\.5\)\+crop\(pad=4, step=1\)") as refused:
            extract(tars[:1], out, **options(recipe=other))
        # A recipe without a flip would have no mirror: that is another set.
        assert ("loader(recipe=...)" in str(refused.value)) == other.startswith("flip")


@pytest.mark.parametrize(
    ("own", "mirror", "other"),
    [
        ("flip", "stored", "flip+crop(pad=8)"),
        ("flip+crop(pad=4)", "mapped(kernel=1)", "flip+crop(pad=8)"),
        ("flip+crop(pad=4)", "stored", "crop(pad=4, step=4)"),
        ("none", "stored", "crop(pad=4)"),
    ],
)
def test_a_set_serves_what_one_extracted_with_that_recipe_does(tars, tmp_path, own, mirror, other) -> None:
    more = options(layers=LAYERS, mirror=mirror)
    for name, recipe in (("own", own), ("other", other)):
        extract(tars[:2], tmp_path / name, **{**more, "recipe": recipe})
    settings: dict[str, Any] = {"batch_size": 16, "num_workers": 0, "epoch": 1}
    ours = loader(tmp_path / "own", recipe=other, **settings)
    theirs = loader(tmp_path / "other", **settings)
    for a, b in zip(ours, theirs, strict=True):
        assert a["__key__"] == b["__key__"]
        for name in ("layer2", "layer3", "theta", "mirrored", "cls"):
            assert torch.equal(a[name], b[name])


def test_views_are_drawn_by_the_step_that_the_plan_says(tars: list[str], tmp_path: Path) -> None:
    more = options(views=2, sensitive=0.25)
    for name, recipe in (("open", "crop(pad=4)"), ("settled", "crop(pad=4, step=2)")):
        extract(tars[:1], tmp_path / name, **{**more, "recipe": recipe})
    assert read_plan(str(tmp_path / "open")).digest == read_plan(str(tmp_path / "settled")).digest
    assert tree(tmp_path / "open" / "layer2") == tree(tmp_path / "settled" / "layer2")
