from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmshards.augment import (
    FLIP,
    Mirror,
    check_drawable,
    compose,
    fresh_theta,
    parse_recipe,
    phi_of,
    view_reference,
    view_theta,
)
from fmshards.errors import InputError

SIZE = (32, 48)
RECIPES = ["none", "flip", "crop(pad=4, step=1)", "flip+crop(pad=4, step=2)", "resized_crop+flip", "flip+resized_crop"]


@settings(max_examples=30)
@given(
    st.sampled_from(RECIPES),
    st.integers(0, 2**40),
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(0, 2**40), st.booleans()), min_size=1, max_size=12),
    st.sampled_from([("base",), ("base", "mirror")]),
)
def test_a_theta_depends_on_its_sample_alone(recipe, seed, epoch, samples, references) -> None:
    parsed = parse_recipe(recipe)

    def theta(some):
        ids, mirrored = zip(*some, strict=True)
        return fresh_theta(parsed, seed, epoch, np.array(ids), np.array(mirrored), SIZE, references=references)

    together = theta(samples)
    assert together.dtype == np.float32
    assert together.shape == (len(samples), 2, 3)
    assert np.array_equal(together, np.concatenate([theta([s]) for s in samples]))
    assert np.array_equal(together[::-1], theta(samples[::-1]))


def shifts(theta, size):
    """(dx, dy) in pixels."""
    return theta[:, 0, 2] * size[1] / 2, theta[:, 1, 2] * size[0] / 2


@pytest.mark.parametrize(("pad", "step"), [(4, 1), (4, 2), (5, 2), (0, 1)])
def test_crop_draws_every_multiple_evenly(pad: int, step: int) -> None:
    n = 20_000
    theta = fresh_theta(parse_recipe(f"crop(pad={pad}, step={step})"), 1, 0, np.arange(n), np.zeros(n, bool), SIZE)
    assert np.array_equal(theta[:, :, :2], np.tile(np.eye(2, dtype=np.float32), (n, 1, 1)))
    wanted = np.arange(-(pad // step), pad // step + 1) * step
    for shift in shifts(theta, SIZE):
        whole = np.round(shift).astype(int)
        assert np.abs(shift - whole).max() < 1e-4
        values, counts = np.unique(whole, return_counts=True)
        assert values.tolist() == wanted.tolist()
        assert np.abs(counts / n - 1 / len(wanted)).max() < 0.01
    dx, dy = shifts(theta, SIZE)
    if pad:
        assert abs(np.corrcoef(dx, dy)[0, 1]) < 0.03


def test_epochs_and_seeds_differ() -> None:
    recipe, ids = parse_recipe("resized_crop"), np.arange(100)
    none = np.zeros(100, bool)
    thetas = [fresh_theta(recipe, s, e, ids, none, SIZE) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert all((abs(a - b).max(axis=(1, 2)) > 0).all() for a, b in itertools.pairwise(thetas))


def test_the_reference_decides_the_flip_where_there_is_a_mirror() -> None:
    mirrored = np.arange(1000) % 3 == 0
    theta = fresh_theta(parse_recipe("flip+crop(pad=4, step=1)"), 0, 0, np.arange(1000), mirrored, SIZE)
    assert np.array_equal(theta[:, 0, 0] < 0, mirrored)
    # What is left to do to either reference is a plain shift.
    assert (phi_of(theta, mirrored)[:, 0, 0] == 1).all()


def test_without_a_mirror_the_flip_is_drawn_for_each_sample() -> None:
    none = np.zeros(10_000, bool)
    for p in (0.5, 0.2):
        recipe = parse_recipe(f"flip(p={p})+crop(pad=4, step=1)")
        theta = fresh_theta(recipe, 0, 3, np.arange(10_000), none, SIZE, references=("base",))
        assert abs((theta[:, 0, 0] < 0).mean() - p) < 0.02


def test_an_uneven_flip_needs_mirror_none() -> None:
    recipe = parse_recipe("flip(p=0.3)")
    with pytest.raises(InputError, match="mirror=none"):
        fresh_theta(recipe, 0, 0, np.arange(4), np.zeros(4, bool), SIZE)
    with pytest.raises(InputError, match="mirror=none"):
        view_theta(recipe, Mirror("mapped"), 0, "shard", ["a"], 2, SIZE)
    view_theta(recipe, Mirror("none"), 0, "shard", ["a"], 2, SIZE)


def test_steps_apply_in_their_order() -> None:
    ids, mirrored = np.arange(50), np.ones(50, bool)
    flip_first = fresh_theta(parse_recipe("flip(p=0.5)+crop(pad=4, step=1)"), 0, 0, ids, mirrored, SIZE)
    crop_alone = fresh_theta(parse_recipe("crop(pad=4, step=1)+flip"), 0, 0, ids, mirrored, SIZE)
    assert np.allclose(compose(FLIP, flip_first)[:, 0, 0], 1)
    assert not np.allclose(flip_first, crop_alone)


def test_a_crop_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="out of sight"):
        fresh_theta(parse_recipe("crop(pad=32)"), 0, 0, [0], [False], (32, 48))


def boxes(theta, size):
    """left, top, width, height in pixels."""
    w, h = theta[:, 0, 0] * size[1], theta[:, 1, 1] * size[0]
    return (theta[:, 0, 2] + 1) * size[1] / 2 - w / 2, (theta[:, 1, 2] + 1) * size[0] / 2 - h / 2, w, h


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.35, 0.5)])
def test_resized_crop_stays_inside_with_its_areas_and_ratios(scale) -> None:
    n, size = 5000, (64, 64)
    recipe = parse_recipe(f"resized_crop(scale={scale})")
    theta = fresh_theta(recipe, 0, 0, np.arange(n), np.zeros(n, bool), size).astype(np.float64)
    left, top, w, h = boxes(theta, size)
    assert left.min() > -1e-3
    assert top.min() > -1e-3
    assert (left + w).max() < 64 + 1e-3
    assert (top + h).max() < 64 + 1e-3
    area, ratio = w * h / 64**2, w / h
    assert scale[0] - 1e-3 < area.min() < area.max() < scale[1] + 1e-3
    assert 0.75 - 1e-3 < ratio.min() < ratio.max() < 4 / 3 + 1e-3
    if scale[1] < 0.7:  # every box fits at once: area uniform, log ratio uniform
        assert abs(area.mean() - sum(scale) / 2) < 0.01
        assert abs(np.log(ratio).mean()) < 0.02


def test_resized_crop_falls_back_to_the_largest_centred_box() -> None:
    theta = fresh_theta(parse_recipe("resized_crop(scale=(1, 1), ratio=(4, 4))"), 0, 0, [0], [False], (64, 64))
    left, top, w, h = boxes(theta.astype(np.float64), (64, 64))
    assert np.allclose([left, top, w, h], [[0], [24], [64], [16]], atol=1e-4)
    whole = fresh_theta(parse_recipe("resized_crop(scale=(1, 1), ratio=(1, 1))"), 0, 0, [0], [False], (64, 64))
    assert np.allclose(whole, np.eye(2, 3))


def test_resized_crop_agrees_with_torchvision_in_distribution() -> None:
    import torch
    from torchvision.transforms import v2

    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(64, scale=(0.08, 1.0))
    image = torch.zeros(3, 48, 64)
    theirs = [transform.make_params([image]) for _ in range(3000)]
    n = 3000
    theta = fresh_theta(parse_recipe("resized_crop"), 0, 0, np.arange(n), np.zeros(n, bool), (48, 64))
    ours = boxes(theta.astype(np.float64), (48, 64))
    for name, values in zip(("left", "top", "width", "height"), ours, strict=True):
        other = np.array([p[name] for p in theirs], float)
        grid = np.linspace(0, 64, 30)
        gap = np.abs(np.searchsorted(np.sort(values), grid + 0.5) - np.searchsorted(np.sort(other), grid + 0.5)).max()
        assert gap / n < 0.08, name  # theirs are rounded to pixels, which shows near the border


def test_views_are_of_their_sample_and_name_their_reference() -> None:
    recipe, keys = parse_recipe("flip+resized_crop"), [f"k{i}" for i in range(40)]
    theta = view_theta(recipe, Mirror("stored"), 5, "000003", keys, 4, SIZE)
    assert theta.shape == (40, 4, 2, 3)
    assert theta.dtype == np.float32
    assert [view_reference(v, recipe, Mirror("stored")) for v in (1, 2, 3, 4)] == ["base", "mirror"] * 2
    assert ((theta[:, :, 0, 0] < 0) == [False, True, False, True]).all()
    some = view_theta(recipe, Mirror("stored"), 5, "000003", keys[7:9], 4, SIZE)
    assert np.array_equal(some, theta[7:9])
    assert np.array_equal(view_theta(recipe, Mirror("stored"), 5, "000003", keys, 2, SIZE), theta[:, :2])
    assert not np.allclose(view_theta(recipe, Mirror("stored"), 5, "000004", keys, 4, SIZE), theta)
    assert len(np.unique(theta.reshape(160, 6), axis=0)) == 160


def test_views_without_a_mirror_draw_their_flip() -> None:
    recipe, keys = parse_recipe("flip"), [str(i) for i in range(2000)]
    assert view_reference(2, recipe, Mirror("none")) == "base"
    theta = view_theta(recipe, Mirror("none"), 0, "s", keys, 1, SIZE)
    assert abs((theta[:, 0, 0, 0] < 0).mean() - 0.5) < 0.05
    assert view_reference(2, parse_recipe("crop(pad=4, step=1)"), Mirror("stored")) == "base"
    custom = view_theta(parse_recipe(lambda image: image), Mirror("none"), 0, "s", ["a"], 2, SIZE)
    assert np.array_equal(custom[0], np.tile(np.eye(2, 3), (2, 1, 1)))


def test_whether_a_recipe_can_be_drawn_is_known_before_any_sample() -> None:
    for text in RECIPES:
        check_drawable(parse_recipe(text), SIZE, ("base", "mirror"))
    check_drawable(parse_recipe("flip(p=0.3)"), SIZE, ("base",))
    check_drawable(parse_recipe(lambda image: image), SIZE, ("base",))
    with pytest.raises(InputError, match="mirror=none"):
        check_drawable(parse_recipe("flip(p=0.3)"), SIZE, ("base", "mirror"))
    with pytest.raises(InputError, match="out of sight"):
        check_drawable(parse_recipe("crop(pad=32)"), SIZE, ("base",))
