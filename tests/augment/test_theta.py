from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fmshards.augment import FLIP, compose, crop_box, identity_theta, invert, phi_of, translate

number = st.floats(-2, 2)
thetas = st.tuples(*[number] * 6).map(lambda v: np.array(v).reshape(2, 3))
regular = thetas.filter(lambda t: abs(np.linalg.det(t[:, :2])) > 0.1)
IDENTITY = identity_theta(1)[0]


@given(thetas, thetas, thetas)
def test_compose_is_associative(a, b, c) -> None:
    assert np.allclose(compose(compose(a, b), c), compose(a, compose(b, c)))


@given(thetas)
def test_identity_and_flip(a) -> None:
    assert np.array_equal(compose(a, IDENTITY), a)
    assert np.array_equal(compose(IDENTITY, a), a)
    assert np.array_equal(compose(FLIP, FLIP), IDENTITY)
    assert np.array_equal(compose(FLIP, compose(FLIP, a)), a)


@given(regular)
def test_inverse(a) -> None:
    assert np.allclose(compose(a, invert(a)), IDENTITY, atol=1e-9)
    assert np.allclose(compose(invert(a), a), IDENTITY, atol=1e-9)


@given(regular, regular)
def test_compose_moves_by_the_first_and_then_by_the_second(a, b) -> None:
    """On an image that is linear in x and y, bilinear sampling is exact wherever it stays inside."""
    p = np.array([0.3, -0.2, 1.0])
    assert np.allclose(compose(a, b) @ p, a @ np.append(b @ p, 1))


def test_batches_and_mirrors() -> None:
    a = np.random.default_rng(0).normal(size=(5, 2, 3))
    assert np.allclose(compose(a, FLIP)[3], compose(a[3], FLIP))
    mirrored = np.array([True, False, True, False, False])
    phi = phi_of(a, mirrored)
    assert np.allclose(phi[0], compose(FLIP, a[0]))
    assert np.array_equal(phi[1], a[1])
    # theta = F . phi
    assert np.allclose(compose(FLIP, phi[2]), a[2])


@given(st.integers(-4, 4), st.integers(-4, 4))
def test_translate_shows_the_pixel_that_it_says(dx: int, dy: int) -> None:
    x = torch.rand(1, 1, 12, 10)
    theta = torch.from_numpy(translate(dx, dy, (12, 10))).float()[None]
    out = F.grid_sample(x, F.affine_grid(theta, [1, 1, 12, 10], align_corners=False), align_corners=False)
    for i, j in ((6, 5), (5, 4)):
        assert torch.allclose(out[0, 0, i, j], x[0, 0, i + dy, j + dx], atol=1e-4)


def test_crop_box_shows_its_box() -> None:
    x = torch.rand(1, 1, 12, 8)
    theta = torch.from_numpy(crop_box(2, 3, 4, 6, (12, 8))).float()[None]
    grid = F.affine_grid(theta, [1, 1, 6, 4], align_corners=False)
    assert torch.allclose(F.grid_sample(x, grid, align_corners=False), x[:, :, 3:9, 2:6], atol=1e-5)
    assert np.allclose(crop_box(0, 0, 8, 12, (12, 8)), IDENTITY)
