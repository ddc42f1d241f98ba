"""What moves do to features, on networks of which it is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fmshards.augment import parse_recipe
from fmshards.codec import FeatureSpec
from fmshards.model import parse_preprocess
from fmshards.planning.moves import Moves, measure_moves
from fmshards.planning.photos import Photos

SPEC = FeatureSpec("map", (8, 16, 16))


def photos(n: int = 24) -> Photos:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(each) for each in rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)]
    return Photos(images, parse_preprocess("none"), None, None, None)


def layer(kernel: int, stride: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, kernel, stride, padding=kernel // 2)).eval()


def moves(prefix: nn.Module, recipe: str, logits: bool = True) -> Moves:
    torch.manual_seed(1)
    suffix = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5)).eval()
    found = measure_moves(
        photos(),
        lambda x: {"cut": prefix(x)},
        {"cut": suffix if logits else None},
        {"cut": SPEC},
        parse_recipe(recipe),
        torch.device("cpu"),
        0,
        lambda name, done, total: None,
    )
    return found["cut"]


def test_a_layer_that_looks_at_single_pixels_follows_a_flip_exactly() -> None:
    prefix = nn.Sequential(layer(1, 1), nn.AvgPool2d(2))
    found = moves(prefix, "flip")
    plain = found.flips["none"]
    assert plain.db is None or plain.db < -60
    assert plain.outcome is not None
    assert plain.outcome.agreement.value == 1
    assert not plain.worse_than_still


def test_a_layer_with_kernels_of_its_own_needs_a_map_or_stored_channels() -> None:
    found = moves(layer(3), "flip").flips
    errors = {way: moved.db for way, moved in found.items()}
    assert errors["none"] > errors["mapped(kernel=1)"] > errors["mapped(kernel=3)"]
    assert errors["stored(0.3, rest=map, kernel=1)"] < errors["mapped(kernel=1)"]
    assert found["mapped(kernel=3)"].multiplications == 9 * found["mapped(kernel=1)"].multiplications == 9 * 64 * 256
    assert found["none"].multiplications == 0


def test_a_crop_is_measured_as_it_is_and_by_whole_cells() -> None:
    by_pixels, by_cells = moves(layer(3, 2), "crop(pad=3, step=1)").others
    assert (by_pixels.what, by_cells.what) == ("crop(pad=3, step=1)", "crop(pad=2, step=2)")
    assert by_cells.db < by_pixels.db
    assert moves(layer(3, 2), "crop(pad=2, step=2)").others[0].what == "crop(pad=2, step=2)"
    assert len(moves(layer(3, 2), "crop(pad=2, step=2)").others) == 1


def test_a_resized_crop_is_held_against_not_moving_at_all() -> None:
    (found,) = moves(layer(3, 2), "resized_crop(scale=(0.3, 0.5))").others
    assert found.still is not None
    assert found.outcome is not None
    assert found.outcome.agreement.n == found.still.agreement.n == 8


def test_without_logits_the_error_of_the_feature_is_all_that_is_said() -> None:
    found = moves(layer(3), "flip+crop(pad=4)", logits=False)
    assert all(moved.outcome is None and moved.db is not None for moved in (*found.flips.values(), *found.others))
    assert not any(moved.worse_than_still for moved in found.others)


@pytest.mark.parametrize("recipe", ["flip", "crop(pad=4)"])
def test_what_is_measured_is_the_same_again(recipe: str) -> None:
    first, second = (moves(layer(3), recipe) for _ in range(2))
    for one, other in zip(
        (*first.flips.values(), *first.others), (*second.flips.values(), *second.others), strict=True
    ):
        assert (one.what, one.db, one.outcome) == (other.what, other.db, other.outcome)
