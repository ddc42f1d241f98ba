"""What caching stands on: moving a feature is nearly running the prefix on the moved image."""

from __future__ import annotations

import numpy as np
import torch

from fmshards.augment import FLIP, LayerMove, compose, fresh_theta, move, parse_recipe, render, translate
from fmshards.codec import FeatureSpec
from fmshards.model import parse_preprocess
from fmshards.shards import Grid
from tests.augment.conftest import layer2

SPEC = FeatureSpec("map", (32, 16, 16))
GRID = Grid((2.0, 2.0), (0.5, 0.5))
SIZE = (32, 32)
PREPROCESS = parse_preprocess("normalize(imagenet)")


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).square().sum() / b.square().sum())


def rendered(images, thetas) -> torch.Tensor:
    return torch.stack([render(image, PREPROCESS, theta) for image, theta in zip(images, thetas, strict=True)])


def test_whole_cell_crops_commute_with_the_prefix(resnet, images) -> None:
    images = images[:64]
    none = np.zeros(64, bool)
    theta = fresh_theta(parse_recipe("crop(pad=4, step=2)"), 0, 0, np.arange(64), none, SIZE)
    base = layer2(resnet, torch.stack([PREPROCESS.base(image) for image in images]))
    fill = layer2(resnet, PREPROCESS.normalize(torch.zeros(1, 3, 32, 32)))[0]
    true = layer2(resnet, rendered(images, theta))
    moved = move(base, theta, none, LayerMove(SPEC, SIZE, GRID, fill))
    zeros = move(base, theta, none, LayerMove(SPEC, SIZE, GRID))
    assert relative(moved, true) < 0.2
    assert relative(moved, true) < 0.8 * relative(zeros, true)
    assert relative(moved, true) < 0.25 * relative(base, true)


def test_away_from_the_border_a_whole_cell_shift_is_nearly_exact(resnet, images) -> None:
    """A cell of layer2 sees many pixels around it: only a small image amid a wide margin is clear of the border."""
    x = torch.zeros(16, 3, 128, 128)
    x[:, :, 48:80, 48:80] = torch.stack([PREPROCESS.base(image) for image in images[:16]])
    size, spec = (128, 128), FeatureSpec("map", (32, 64, 64))
    theta = np.tile(translate(6, -4, size).astype(np.float32), (16, 1, 1))
    true = layer2(resnet, x.roll((4, -6), dims=(2, 3)))
    moved = move(layer2(resnet, x), theta, np.zeros(16, bool), LayerMove(spec, size, GRID))
    inside = (..., slice(16, 48), slice(16, 48))
    assert relative(moved[inside], true[inside]) < 1e-10


def test_with_the_mirror_as_reference_a_flip_is_exact_and_without_it_is_not(resnet, images) -> None:
    x = torch.stack([PREPROCESS.base(image) for image in images[:32]])
    flip = np.tile(FLIP.astype(np.float32), (32, 1, 1))
    true = layer2(resnet, rendered(images[:32], flip))
    mirror = layer2(resnet, x.flip(-1))
    stored = move(mirror, flip, np.ones(32, bool), LayerMove(SPEC, SIZE, GRID))
    naive = move(layer2(resnet, x), flip, np.zeros(32, bool), LayerMove(SPEC, SIZE, GRID))
    assert torch.equal(stored, true)
    assert relative(naive, true) > 0.05


def test_theta_of_a_mirror_is_the_flip_and_the_rest(resnet, images) -> None:
    """theta = F . phi: the image is flipped, then shifted; the mirror's feature is shifted alone."""
    x = torch.stack([PREPROCESS.base(image) for image in images[:32]])
    theta = np.tile(compose(FLIP, translate(4, 2, SIZE)).astype(np.float32), (32, 1, 1))
    true = layer2(resnet, rendered(images[:32], theta))
    fill = layer2(resnet, PREPROCESS.normalize(torch.zeros(1, 3, 32, 32)))[0]
    mirror = layer2(resnet, x.flip(-1))
    right = move(mirror, theta, np.ones(32, bool), LayerMove(SPEC, SIZE, GRID, fill))
    wrong_way = np.tile(compose(FLIP, translate(-4, 2, SIZE)).astype(np.float32), (32, 1, 1))
    wrong = move(mirror, wrong_way, np.ones(32, bool), LayerMove(SPEC, SIZE, GRID, fill))
    assert relative(right, true) < 0.2
    assert relative(right, true) < 0.4 * relative(wrong, true)
