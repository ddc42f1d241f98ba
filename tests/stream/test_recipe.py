"""The recipe belongs to training: what a set serves whatever its own recipe is, and what it does not."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from fmshards.errors import FormatError, InputError
from fmshards.shards import Grid, Plan, write_calibration
from fmshards.stream import FeatureDataset, FeatureDecoder, decode_chunks, loader
from tests.sets import SPECS, BuiltSet, build_set, layer_plan, plan_of, write_set

FLIPPING = ["flip", "flip+crop(pad=4)", "crop(pad=8)+flip", "flip+crop(pad=4, step=2)", "flip+resized_crop"]
OTHERS = ["none", "crop(pad=8)", "crop(pad=4, step=1)", "resized_crop(scale=(0.5, 1.0))"]
Made = Callable[..., BuiltSet]
quiet = pytest.mark.filterwarnings("ignore:.*can be worse than")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A set as if extracted with these options; the same images' features for all of them."""
    known: dict[str, BuiltSet] = {}

    def make(**options: Any) -> BuiltSet:
        text = str(options)
        if text not in known:
            known[text] = build_set(tmp_path_factory.mktemp("sets") / "set", **options)
        return known[text]

    return make


def same(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    return len(a) == len(b) and all(
        x.keys() == y.keys()
        and all(torch.equal(v, y[k]) if isinstance(v, torch.Tensor) else v == y[k] for k, v in x.items())
        for x, y in zip(a, b, strict=True)
    )


@quiet
@settings(max_examples=25, deadline=None)
@given(st.sampled_from(FLIPPING + OTHERS), st.sampled_from(FLIPPING + OTHERS), st.integers(0, 9), st.integers(0, 9))
def test_a_set_serves_a_recipe_as_one_that_was_extracted_with_it(made: Made, own, other, seed, epoch) -> None:
    if other in FLIPPING and own not in FLIPPING:
        with pytest.raises(InputError, match="keeps no mirror"):
            loader(made(recipe=own).url, 8, recipe=other, num_workers=0)
        return
    options: dict[str, Any] = {"batch_size": 8, "seed": seed, "epoch": epoch, "num_workers": 0}
    ours = list(loader(made(recipe=own).url, recipe=other, **options))
    assert same(ours, list(loader(made(recipe=other).url, **options)))


@quiet
def test_ranks_workers_rows_and_the_plugin_serve_it_alike(made: Made) -> None:
    url, recipe = made(recipe="flip").url, "flip+crop(pad=8)"
    shape: dict[str, Any] = {"batch_size": 8, "recipe": recipe, "groups": 2, "lanes": 2, "window": 2}
    wanted = list(loader(url, num_workers=0, **shape))
    assert same(wanted, list(loader(url, num_workers=2, **shape)))
    decoder = FeatureDecoder(url)
    assert same(wanted, [decoder(batch) for batch in loader(url, num_workers=0, decode=False, **shape)])
    assert same(wanted, list(DataLoader(FeatureDataset(url, **shape), batch_size=None)))
    by_key = {key: (b["theta"][i], b["layer2"][i]) for b in wanted for i, key in enumerate(b["__key__"])}
    tars = [f"{url}/layer2/{s:06d}.tar" for s in range(3)]
    for sample in decode_chunks(recipe=recipe)({"url": tar} for tar in tars):
        if sample["__key__"] in by_key:
            theta, x = by_key[sample["__key__"]]
            assert torch.equal(sample["theta"], theta)
            assert torch.equal(sample["layer2"], x)


def test_none_moves_nothing_and_reads_no_mirror(made: Made) -> None:
    built = made(recipe="flip+crop(pad=4)")
    batches = list(loader(built.url, 8, recipe="none", num_workers=0))
    assert not any(batch["mirrored"].any() for batch in batches)
    for batch in batches:
        rows = [built.keys.index(key) for key in batch["__key__"]]
        assert np.array_equal(batch["layer2"].numpy(), built.features["layer2"]["base"][rows])


def test_the_sets_own_recipe_is_its_own_views_and_all(made: Made) -> None:
    url = made(recipe="flip+crop(pad=8)", views=2).url
    own = list(loader(url, 8, num_workers=0))
    assert all((batch["view"] > 0).all() for batch in own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(own, list(loader(url, 8, recipe="flip+crop(pad=8)", num_workers=0)))
    with pytest.warns(UserWarning, match="the 2 stored views show what the set's own recipe drew.*are not used"):
        other = loader(url, 8, recipe="flip", num_workers=0)
    assert same(list(other), list(loader(made(recipe="flip").url, 8, num_workers=0)))


def test_a_mapped_mirror_is_one(made: Made) -> None:
    options: dict[str, Any] = {"batch_size": 8, "num_workers": 0}
    mapped = [made(recipe=text, mirror="mapped(kernel=3)").url for text in ("flip", "flip+crop(pad=8)")]
    ours = list(loader(mapped[0], recipe="flip+crop(pad=8)", **options))
    assert any(batch["mirrored"].any() for batch in ours)
    assert same(ours, list(loader(mapped[1], **options)))


def test_the_feature_itself_is_flipped_where_the_set_was_extracted_so_and_nowhere_else(made: Made) -> None:
    naive = made(recipe="flip(p=0.3)", mirror="none").url
    batches = list(loader(naive, 8, recipe="crop(pad=8)+flip(p=0.9)", num_workers=0))
    turned = torch.cat([batch["theta"][:, 0, 0] < 0 for batch in batches]).float().mean()
    assert turned > 0.7
    with pytest.raises(InputError, match="mirror=none"):
        loader(made(recipe="flip").url, 8, recipe="flip(p=0.9)", num_workers=0)


@pytest.mark.parametrize(
    ("options", "recipe", "says"),
    [
        ({}, "flip", r"keeps no mirror.*extract with a flip in the recipe.*--mirror mapped"),
        ({"recipe": "flip", "kind": "vector"}, "flip+crop(pad=2)", "layer2 has no places.*whole views"),
        ({"recipe": "flip"}, lambda image: image, "no stored feature can follow.*whole views"),
        ({"recipe": "flip"}, "crop(pad=3)", r"layer2 by 4.*crop\(pad=4\)"),
        ({"recipe": "flip"}, "crop(pad=64)", "out of sight"),
        ({"recipe": "flip"}, "crop", "needs its pad"),
        ({"recipe": "flip"}, 3, "recipe must be text"),
    ],
)
def test_what_a_set_cannot_serve_is_refused_at_once(made: Made, options, recipe, says) -> None:
    with pytest.raises(InputError, match=says):
        loader(made(**options).url, 8, recipe=recipe, num_workers=0)
    with pytest.raises(InputError, match=says):
        next(iter(decode_chunks(recipe=recipe)([f"{made(**options).url}/layer2/000000.tar"])))


@pytest.mark.parametrize("how", [{"train": False}, {"augment": False}])
def test_a_recipe_that_would_be_left_aside_is_refused(made: Made, how) -> None:
    with pytest.raises(InputError, match="leave it out"):
        loader(made(recipe="flip").url, 8, recipe="flip", **how)


def test_a_set_whose_grid_was_not_measured_moves_by_no_recipe_but_its_own(made: Made, tmp_path: Path) -> None:
    old = build_set(tmp_path / "set", recipe="flip", whole=False)
    manifest = json.loads((made(recipe="flip").path / "manifest.json").read_text())
    manifest["plan"]["layers"][0]["grid"] = None
    manifest["plan_digest"] = Plan.from_json(manifest["plan"], "here").digest
    (old.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"where the cells of layer layer2 lie was not measured.*extract again"):
        loader(old.url, 8, recipe="crop(pad=4)")
    assert len(loader(old.url, 8, recipe="none", num_workers=0)) == 9


def write_plain(url: Path, layers: dict[str, Grid], arrays: dict[str, np.ndarray]) -> str:
    """A set without a recipe, of zeros, whose cells lie so, with these arrays of calibration."""
    url.mkdir()
    calibration = write_calibration(str(url), arrays)
    plan = plan_of(
        [layer_plan(n, SPECS["map"], "fp32", grid=g) for n, g in layers.items()], (8,), calibration=calibration
    )

    def contents(layer, shard, start, n):
        codec = plan.layer(layer).base_codec
        rows = codec.member(codec.encode(np.zeros((n, 8, 8, 8), np.float32)))
        return {"keys": [str(start + i) for i in range(n)], "fields": {}, "theta": None, "members": {"base.raw": rows}}

    write_set(str(url), plan, contents)
    return str(url)


@pytest.mark.parametrize("decode", [True, False])
def test_a_fill_that_is_missing_is_told_before_anything_moves(tmp_path: Path, decode: bool) -> None:
    """As in a set that another writer made."""
    url = write_plain(tmp_path / "set", {"a": Grid((2, 2), (0, 0))}, {"a/other": np.zeros(1, np.float32)})
    assert len(loader(url, 4, decode=decode, num_workers=0)) == 2
    with pytest.raises(FormatError, match="there is no fill"):
        loader(url, 4, recipe="crop(pad=2)", decode=decode, num_workers=0)


def test_only_the_layers_that_are_read_decide_the_step(tmp_path: Path) -> None:
    fills = {f"{name}/fill": np.zeros((8, 8, 8), np.float32) for name in "ab"}
    url = write_plain(tmp_path / "set", {"a": Grid((2, 2), (0, 0)), "b": Grid((4, 6), (0, 0))}, fills)
    for layers, step in (("a", 2), ("b", 12), (None, 12)):
        assert f"crop(pad=12, step={step})" in repr(FeatureDataset(url, layers, 8, recipe="crop(pad=12)"))
    with pytest.raises(InputError, match=r"a by 2, b by 4 x 6"):
        FeatureDataset(url, batch_size=8, recipe="crop(pad=2)")


def test_poor_moves_are_told_once_where_the_loader_is_made(made: Made) -> None:
    url = made(recipe="flip").url
    with pytest.warns(UserWarning, match=r"move layer2 by parts of a cell \(4 pixels\)") as told:
        made_loader = loader(url, 8, recipe="crop(pad=4, step=2)", num_workers=0)
    assert len(told) == 1
    assert told[0].filename.endswith(("test_recipe.py", "loading.py"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(made_loader)
        list(loader(url, 8, recipe="flip+crop(pad=8)", num_workers=0))
        list(loader(made(recipe="crop(pad=4, step=2)").url, 8, train=False, num_workers=0))
    with pytest.warns(UserWarning, match="enlarged by up to 1.4 times"):
        loader(made(recipe="resized_crop(scale=(0.5, 1.0))").url, 8, num_workers=0)
