from __future__ import annotations

import numpy as np
import pytest
import torch

from fmshards.augment import MirrorMap
from fmshards.calibration.mirror_fit import MirrorSample, mirror_error
from fmshards.codec import FeatureSpec
from fmshards.errors import InputError, ModelError
from tests.augment.conftest import images as photos  # noqa: F401  (a fixture)
from tests.augment.conftest import layer2, resnet  # noqa: F401  (a fixture)
from tests.augment.test_mirror_map import SPECS, random_map


def fit_mirror(base, mirror, spec: FeatureSpec, kernel: int = 3, batch: int = 64) -> tuple[MirrorMap, float]:
    sample = MirrorSample(spec, kernel, len(base))
    for x, y in zip(base.split(batch), mirror.split(batch), strict=True):
        sample.add(x, y)
    found = sample.fit("cut")
    assert found.map is not None
    assert found.error is not None
    return found.map, found.error


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_known_linear_map_is_found(spec: FeatureSpec, kernel: int) -> None:
    known = random_map(spec, kernel, False)
    x = torch.randn(400, *spec.shape, generator=torch.Generator().manual_seed(0))
    fitted, error = fit_mirror(x, known.apply(x), spec, kernel)
    assert error < -60
    assert torch.allclose(fitted.weight, known.weight, atol=2e-3)
    assert torch.allclose(fitted.bias, known.bias, atol=2e-3)
    if known.class_weight is not None:
        assert torch.allclose(fitted.class_weight, known.class_weight, atol=2e-3)


def test_the_error_is_of_the_last_fifth() -> None:
    spec = FeatureSpec("map", (4, 6, 6))
    x = torch.randn(100, *spec.shape)
    y = x.flip(-1).clone()
    y[80:] *= -1  # what was learnt is wrong there, by twice the value: +6 dB
    _, error = fit_mirror(x, y, spec)
    assert abs(error - 6.02) < 0.2
    _, perfect = fit_mirror(x, x.flip(-1), spec)
    assert -200 <= perfect < -80


def test_few_samples_lean_on_the_plain_flip() -> None:
    """60 vectors of 256 values: least squares alone would be far worse than changing nothing."""
    spec = FeatureSpec("vector", (256,))
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 256, generator=g)
    y = x + 0.1 * torch.randn(60, 256, generator=g)
    _, error = fit_mirror(x, y, spec)
    plain = MirrorMap(torch.eye(256), torch.zeros(256), False, spec)
    assert error < mirror_error(plain, (x[48:], y[48:])) + 1.0


def test_dead_and_equal_channels_do_no_harm() -> None:
    spec = FeatureSpec("map", (5, 8, 8))
    x = torch.randn(50, *spec.shape).relu()
    x[:, 2] = 0
    x[:, 3] = x[:, 4]
    fitted, error = fit_mirror(x, x.flip(-1), spec)
    assert error < -60
    assert torch.isfinite(fitted.weight).all()


def test_bad_samples_are_refused() -> None:
    spec = FeatureSpec("map", (4, 6, 6))
    x = torch.randn(4, *spec.shape)
    with pytest.raises(InputError, match="at least 5"):
        fit_mirror(x, x, spec)
    with pytest.raises(InputError, match="expected two"):
        MirrorSample(spec, 3, 5).add(x, x[:3])
    wide = FeatureSpec("map", (2000, 1, 1))
    many = torch.zeros(5, *wide.shape)
    with pytest.raises(InputError, match="kernel=1"):
        fit_mirror(many, many, wide, 3)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("n", [12, 60])
def test_the_batches_do_not_matter(spec: FeatureSpec, n: int) -> None:
    known = random_map(spec, 3, False)
    x = torch.randn(n, *spec.shape, generator=torch.Generator().manual_seed(0))
    y = known.apply(x) + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    (whole, error), (parts, other) = fit_mirror(x, y, spec, 3, n), fit_mirror(x, y, spec, 3, 7)
    assert error == pytest.approx(other, abs=1e-6)
    for name, array in whole.to_arrays().items():
        assert np.allclose(array, parts.to_arrays()[name], atol=1e-6)


def test_a_relu_follows_where_nothing_is_below_zero() -> None:
    spec = FeatureSpec("vector", (3,))
    x = torch.rand(20, 3)
    assert fit_mirror(x, x, spec)[0].relu
    x[19, 1] = -0.1
    assert not fit_mirror(x, x, spec)[0].relu


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("where", [0, 19])  # among those that are fitted on, and those that judge
def test_what_gives_no_finite_map_is_refused_by_layer(bad: float, where: int) -> None:
    spec = FeatureSpec("map", (2, 4, 4))
    x = torch.rand(20, *spec.shape)
    x[where] = bad
    with pytest.raises(ModelError, match=r"cut: no mirror map.*not finite"):
        fit_mirror(x, -x, spec)


def test_it_beats_the_plain_flip_on_a_real_network(resnet, photos) -> None:  # noqa: F811  # a fixture, imported above
    x = torch.stack([pixels(image) for image in photos])
    base, mirror = layer2(resnet, x), layer2(resnet, x.flip(-1))
    spec = FeatureSpec("map", (32, 16, 16))
    plain = MirrorMap(torch.eye(32)[:, :, None, None], torch.zeros(32), True, spec)
    naive = mirror_error(plain, (base[160:], mirror[160:]))
    _, one = fit_mirror(base, mirror, spec, 1)
    _, three = fit_mirror(base, mirror, spec, 3)
    assert three < one - 0.5
    assert one < naive - 1.0


def pixels(image) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = torch.from_numpy(np.array(image)).float() / 255
    return ((x - mean) / std).permute(2, 0, 1)
