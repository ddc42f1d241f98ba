from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from fmshards.augment import Crop, Flip, Mirror, Recipe, ResizedCrop, parse_mirror, parse_recipe
from fmshards.errors import FormatError, InputError

unit = st.floats(1e-3, 1, exclude_min=True)
steps = st.one_of(
    st.builds(Flip, unit),
    st.integers(1, 50).flatmap(lambda pad: st.builds(Crop, st.just(pad), st.integers(1, pad))),
    st.builds(
        lambda a, b, c, d: ResizedCrop(tuple(sorted((a, b))), tuple(sorted((c, d)))),
        unit,
        unit,
        st.floats(0.1, 5),
        st.floats(0.1, 5),
    ),
)


def compatible(chosen: list) -> bool:
    return sum(isinstance(s, Flip) for s in chosen) <= 1 and sum(not isinstance(s, Flip) for s in chosen) <= 1


@given(st.lists(steps, max_size=2).filter(compatible))
def test_text_and_json_come_back(chosen: list) -> None:
    recipe = Recipe(tuple(chosen))
    assert parse_recipe(str(recipe)) == recipe
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert recipe.flips == any(isinstance(s, Flip) for s in chosen)


def test_short_forms() -> None:
    assert parse_recipe("flip+crop(pad=4)") == Recipe((Flip(0.5), Crop(4)))
    assert parse_recipe("crop(4, 2)") == Recipe((Crop(4, 2),))
    assert parse_recipe("resized_crop(scale=(0.35, 1), ratio=(0.75, 1.5))").terms[0].scale == (0.35, 1.0)
    for nothing in (None, "", " none ", Recipe()):
        assert parse_recipe(nothing) == Recipe()
        assert not parse_recipe(nothing)


def test_a_crop_without_a_step_is_open_until_it_is_given_one() -> None:
    recipe = parse_recipe("flip+crop(pad=4)")
    assert recipe.open
    assert str(recipe) == "flip(p=0.5)+crop(pad=4)"
    assert parse_recipe(str(recipe)) == recipe
    settled = recipe.with_step(2)
    assert str(settled) == "flip(p=0.5)+crop(pad=4, step=2)"
    assert (settled.open, settled.with_step(None)) == (False, recipe)
    assert not parse_recipe("flip+resized_crop").open
    with pytest.raises(InputError, match="would never shift"):
        recipe.with_step(8)
    with pytest.raises(FormatError, match="no step"):  # plans are of settled ones alone
        Recipe.from_json(recipe.to_json())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("crop(pad=-1)", "pad must be a whole number of pixels, 0 or more, found -1"),
        ("crop(pad=2.5)", "whole number"),
        ("crop(pad=4, step=None)", "expected a number"),
        ("crop(pad=4, step=0)", "step must be a whole number of pixels, 1 or more, found 0"),
        ("crop(pad=2, step=4)", "would never shift"),
        ("crop(pad=1000000)", "pad"),
        ("crop", "needs its pad"),
        ("crop(pad=4, pads=4)", r"takes \(pad, step\)"),
        ("crop(4, 1, 2)", r"takes \(pad, step\)"),
        ("crop(4, pad=4)", r"takes \(pad, step\)"),
        ("crop(pad=true)", "pad"),
        ("flip(p=0)", "above 0"),
        ("flip(p=1.5)", "at most 1"),
        ("flip(p=left)", "must be a number"),
        ("flip+flip", "at most one flip"),
        ("crop(pad=4)+resized_crop", "at most one crop"),
        ("resized_crop(scale=(0, 1))", "0 < low"),
        ("resized_crop(scale=(0.5, 1.2))", "high <= 1"),
        ("resized_crop(scale=(0.9, 0.5))", "low <= high"),
        ("resized_crop(scale=0.5)", "two numbers"),
        ("resized_crop(ratio=(-1, 1))", "ratio"),
        ("resized_crop(scale=(1e999, 1))", "must be a number"),
        ("flipp", "did you mean flip"),
        ("rotate(30)", "known: flip, crop, resized_crop"),
        ("flip-crop", "expected"),
        ("__import__('os').system('true')", "expected"),
    ],
)
def test_bad_recipes_are_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_recipe(text)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"steps": "flip"},
        {"steps": [{"p": 0.5}]},
        {"steps": [{"name": "flip", "q": 1}]},
        {"steps": [{"name": "crop", "pad": -3}]},
        {"steps": [{"name": "crop", "pad": 4}], "more": 1},
        {"custom": 3},
        {"steps": [{"name": ["flip"]}]},
        {"steps": [{"name": "crop"}]},
        {"steps": [{"name": "crop", "pad": 4}]},
        {"steps": [{"name": "crop", "pad": 4, "step": None}]},
    ],
)
def test_hostile_json_is_refused(data: object) -> None:
    with pytest.raises(FormatError):
        Recipe.from_json(data)


def test_a_transform_is_custom_and_is_known_by_its_text() -> None:
    recipe = parse_recipe(v2.Compose([v2.RandomRotation(30), v2.ColorJitter(0.4)]))
    assert recipe
    assert not recipe.flips
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.custom is None
    assert "RandomRotation" in str(again)
    assert " at 0x" not in str(parse_recipe(lambda image: image))
    with pytest.raises(InputError, match="found int"):
        parse_recipe(3)  # type: ignore[arg-type]  # a user's mistake


def test_mirror_ways() -> None:
    assert parse_mirror(None) == parse_mirror("stored") == Mirror("stored")
    assert parse_mirror("mapped") == Mirror("mapped", 3)
    assert parse_mirror("mapped(1)") == parse_mirror("mapped(kernel=1)") == Mirror("mapped", 1)
    for mirror in (Mirror(), Mirror("mapped", 5), Mirror("none")):
        assert parse_mirror(str(mirror)) == mirror
        assert Mirror.from_json(json.loads(json.dumps(mirror.to_json()))) == mirror


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("maped", "did you mean mapped"),
        ("mapped(kernel=2)", "odd"),
        ("mapped(kernel=99)", "odd"),
        ("mapped(side=3)", "kernel"),
        ("stored(kernel=3)", "give a fraction"),
        ("stored(rest=flip)", "give a fraction"),
        ("stored(1.5)", "from 0 to 1"),
        ("stored(0.3, 1)", "stored takes a fraction"),
        ("stored(0.3, rest=mop)", "rest must be one of map, flip"),
        ("stored(0.3, rest=flip, kernel=1)", "the kernel is that of a map"),
        ("stored(0.3, rate=much)", "rate 'much': expected"),
        ("stored(0, rate=2)", "none are"),
        ("mapped(0.3)", "odd"),
        ("none(1)", "none takes nothing"),
        ("stored+mapped", "one way"),
        (3, "must be one of"),
    ],
)
def test_bad_mirrors_are_refused(text: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_mirror(text)  # type: ignore[arg-type]  # a user's mistake
    with pytest.raises(FormatError):
        Mirror.from_json({"way": text})
