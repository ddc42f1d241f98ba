from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmshards.augment import fresh_theta, parse_recipe, poor_moves, settle_step, whole_cells
from fmshards.errors import InputError

strides = st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=3)


@given(strides, st.integers(1, 4), st.booleans())
def test_an_open_crop_moves_every_layer_by_whole_cells_and_no_further_than_it_must(layers, times, flips) -> None:
    sides = [side for stride in layers.values() for side in stride]
    least = math.lcm(*sides)
    recipe = parse_recipe(f"{'flip+' if flips else ''}crop(pad={times * least})")
    settled = settle_step(recipe, layers)
    assert settled == recipe.with_step(least)
    assert not settled.open
    assert poor_moves(settled, layers) == []
    theta = fresh_theta(settled, 0, 0, np.arange(50), np.zeros(50, bool), (256 * least, 256 * least))
    pixels = np.abs(theta[:, :, 2]) * 128 * least
    assert np.allclose(pixels % least, 0, atol=1e-3) or np.allclose(-pixels % least, 0, atol=1e-3) or least == 1
    assert (pixels.round() > 0).any()


def test_a_step_that_is_given_stays_and_a_pad_of_nothing_needs_none() -> None:
    layers = {"layer2": (8.0, 8.0)}
    for text in ("crop(pad=16, step=3)", "flip", "none", "resized_crop"):
        assert settle_step(parse_recipe(text), layers) == parse_recipe(text)
    assert settle_step(parse_recipe("crop(pad=0)"), layers) == parse_recipe("crop(pad=0, step=1)")
    assert settle_step(parse_recipe("crop(pad=3)"), {}) == parse_recipe("crop(pad=3, step=1)")


def test_strides_that_are_no_whole_pixels_count_as_the_nearest() -> None:
    assert whole_cells({"a": (17.46, 17.46)}) == 17
    assert whole_cells({"a": (8.0, 8.0), "b": (16.0, 16.0), "c": (32.0, 32.0)}) == 32


def test_a_pad_below_a_cell_is_refused_with_what_to_write() -> None:
    layers = {"layer3": (16.0, 16.0), "layer4": (32.0, 32.0)}
    with pytest.raises(InputError, match=r"layer3 by 16, layer4 by 32.*crop\(pad=32\).*crop\(pad=16, step=16\)"):
        settle_step(parse_recipe("flip+crop(pad=16)"), layers)
    assert settle_step(parse_recipe("crop(pad=32)"), layers) == parse_recipe("crop(pad=32, step=32)")


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("flip+crop(pad=8, step=8)", ["layer4 by parts of a cell (16 pixels)", "'flip(p=0.5)+crop(pad=16)'"]),
        ("crop(pad=16, step=4)", ["layer3, layer4 by parts", "(8 and 16 pixels)", "'crop(pad=16)'"]),
        ("resized_crop", ["layer3, layer4 are enlarged by up to 3.5 times", "whole views"]),
        ("crop(pad=16, step=16)", []),
        ("resized_crop(scale=(0.9, 1))", ["layer3, layer4 are enlarged by up to 1.1 times"]),
        ("resized_crop(scale=(1, 1), ratio=(1, 1))", []),
        ("flip", []),
        ("none", []),
    ],
)
def test_moves_that_features_follow_badly_are_told_with_what_to_write(recipe: str, says: list[str]) -> None:
    layers = {"layer3": (8.0, 8.0), "layer4": (16.0, 16.0)}
    lines = poor_moves(parse_recipe(recipe), layers)
    assert len(lines) == bool(says)
    for words in says:
        assert words in lines[0]
    assert poor_moves(parse_recipe(recipe), {}) == []


def test_nearly_whole_cells_are_whole_ones() -> None:
    assert poor_moves(parse_recipe("crop(pad=17, step=17)"), {"a": (17.46, 17.46)}) == []
    assert len(poor_moves(parse_recipe("crop(pad=68, step=34)"), {"a": (17.46, 17.46)})) == 1
    # Nothing is nearer than what an open crop settles on.
    assert poor_moves(parse_recipe("crop(pad=68, step=17)"), {"a": (17.46, 17.46)}) == []
