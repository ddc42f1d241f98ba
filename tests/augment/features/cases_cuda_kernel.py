"""The kernel that moves and replaces, against the CPU. Run by tests/kernels/test_triton.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmshards.augment import FLIP, LayerMove, compose, crop_box, identity_theta, move, translate
from fmshards.augment.features import on_cuda
from fmshards.codec import FeatureSpec
from fmshards.shards import Grid
from tests.augment.features.test_move import CENTRED, CORNER, MAP, SIZE, features, kinds
from tests.triton_here import DEVICE

SHEAR = np.array([[0.7, 0.3, 0.1], [-0.2, 0.9, 0.4]])
WHOLE = [
    identity_theta(1)[0],
    FLIP,
    translate(4, 8, SIZE),
    compose(FLIP, translate(-8, 4, SIZE)),
    translate(1e9, 0, SIZE),
]
ANY = [*WHOLE, crop_box(1, 2, 10, 11, SIZE), SHEAR, SHEAR * 1e30, np.full((2, 3), np.inf)]
KINDS = kinds(5, 8, 6)
GRIDS = [CENTRED, CORNER, Grid((4.3, 3.9), (-0.7, 1.1)), None]
SENSITIVE = (4, 0, 2)
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def both(spec, thetas, grid, fill, view, dtype=torch.float32, memory_format=torch.contiguous_format, source=None):
    """By the kernel and on the CPU, half of the samples mirrored."""
    n = len(thetas)
    theta = torch.from_numpy(np.stack(thetas).astype(np.float32))
    mirrored = torch.arange(n) % 2 == 1
    x = features(spec, n) if source is None else source
    blank = features(spec, 1, seed=1)[0] if fill else None
    stored = features(spec.select(len(SENSITIVE)), n, seed=2) if view else None
    layer = LayerMove(spec, SIZE, grid, blank, SENSITIVE if view else ())
    expected = move(x, theta, mirrored, layer, stored, dtype)
    x, theta, mirrored, stored = (None if t is None else t.to(DEVICE) for t in (x, theta, mirrored, stored))
    got = on_cuda.move(x, theta, mirrored, layer.on(DEVICE), stored, dtype, memory_format)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=memory_format)
    return got.cpu(), expected


@pytest.mark.parametrize(("fill", "view"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("spec", "dtype"), list(zip(KINDS, [*ROUNDING, torch.float32], strict=True)), ids=str)
def test_whole_moves_and_stored_channels_are_copies(spec, dtype, fill, view):
    got, expected = both(spec, WHOLE, CENTRED, fill, view, dtype)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize(("spec", "grid"), list(zip(KINDS, GRIDS, strict=True)), ids=str)
def test_any_move_is_the_cpus_within_rounding(spec, grid, dtype):
    got, expected = both(spec, ANY[:-2], grid, True, True, dtype)
    assert torch.allclose(got.float(), expected.float(), rtol=ROUNDING[dtype], atol=1e-6)


def test_what_comes_from_nowhere_is_the_fill():
    """Positions that no number of 32 bits holds, and none at all."""
    fill = features(MAP, 1, seed=1)
    got, _ = both(MAP, ANY[-2:-1] * 2, CENTRED, True, False)
    assert torch.equal(got, fill.expand_as(got))
    nan = torch.full((1, 2, 3), torch.nan, device=DEVICE)
    still = torch.zeros(1, dtype=torch.bool, device=DEVICE)
    x = features(MAP, 1).to(DEVICE)
    layer = LayerMove(MAP, SIZE, CENTRED, fill[0]).on(DEVICE)
    out = on_cuda.move(x, nan, still, layer, None, torch.float32, torch.contiguous_format)
    assert torch.equal(out.cpu(), fill)


def test_infinite_neighbours_and_negative_zeros_do_not_spoil_whole_moves():
    x = torch.full((5, *MAP.shape), -0.0)
    x[..., ::2] = torch.inf
    got, _ = both(MAP, WHOLE[:1] * 5, CENTRED, False, False, source=x.clone())
    flipped = x.flip(-1)
    for i in range(5):
        wanted = flipped[i] if i % 2 else x[i]
        assert got[i].numpy().tobytes() == wanted.contiguous().numpy().tobytes()


@pytest.mark.parametrize("shape", [(3, 1, 7), (3, 7, 1), (1, 1, 1), (37, 7, 7), (600, 2, 2)])
def test_sides_and_channels_of_any_number(shape):
    spec = FeatureSpec("map", shape)
    theta = [translate(3, -5, SIZE), SHEAR]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        got, expected = both(spec, theta, None, True, False, memory_format=memory_format)
        assert torch.allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("source", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("target", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_in_and_out(source, target):
    x = features(MAP, len(WHOLE)).contiguous(memory_format=source)
    got, expected = both(MAP, WHOLE, CENTRED, True, True, torch.bfloat16, target, x)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("spec", [FeatureSpec("vector", (70,)), FeatureSpec("tokens", (6, 5), None, 1)], ids=str)
def test_features_without_places_stay_and_take_stored_channels(spec):
    x, view = features(spec, 2), features(spec.select(3), 2, seed=1)
    theta, still = torch.eye(2, 3).expand(2, 2, 3), torch.zeros(2, dtype=torch.bool)
    layer = LayerMove(spec, SIZE, sensitive=SENSITIVE)
    expected = move(x, theta, still, layer, view)
    there = [t.to(DEVICE) for t in (x, theta, still, view)]
    got = on_cuda.move(*there[:3], layer, there[3], torch.float32, torch.contiguous_format)
    assert torch.equal(got.cpu(), expected)
    if DEVICE.type == "cpu":  # a device would not work on after this
        with pytest.raises(RuntimeError, match="cannot be moved"):
            on_cuda.move(*there[:2], ~still, layer, None, torch.float32, torch.contiguous_format)


def test_a_trial_finds_a_kernel_that_is_unsound(monkeypatch):
    on_cuda._trial(DEVICE)
    real = on_cuda.move
    for broken in (lambda *given: real(*given).mul(2), lambda *given: 1 / 0):
        monkeypatch.setattr(on_cuda, "move", broken)
        with pytest.raises((AssertionError, ZeroDivisionError)):
            on_cuda._trial(DEVICE)
