"""The error that a set states, of features of any size: no square vanishes, none becomes infinite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fmshards.codec import FeatureSpec, codec_for
from fmshards.errors import CodecError
from fmshards.extraction import extract
from fmshards.extraction.encode import ErrorSums

MAP = FeatureSpec("map", (3, 4, 4))


def sums(rate: str, x: torch.Tensor) -> dict[str, list[float]]:
    codec = codec_for(rate, MAP)
    found = ErrorSums(codec, 100)
    found.add(codec.encode(x), x)
    return found.stats()


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e-22, 1e-3, 1.0, 1e18, 1e30, 1e37])
@pytest.mark.parametrize("rate", ["4", "int4", "bf16"])
def test_sums_of_any_size_are_those_of_doubles(rate, scale):
    x = torch.randn(5, *MAP.shape, generator=torch.Generator().manual_seed(0)) * scale
    x[:, 1] *= 1e-3  # a channel far below the others
    x[:, 2, 0, 0] = 1  # and one of which something is left at any rate
    codec = codec_for(rate, MAP)
    error = (codec.decode(codec.encode(x)).double() - x.double()).square().sum((0, 2, 3))
    found = sums(rate, x)
    assert np.allclose(found["error"], error, rtol=1e-5, atol=0)
    assert np.allclose(found["energy"], x.double().square().sum((0, 2, 3)), rtol=1e-5, atol=0)


def test_values_at_both_ends_of_float32_have_a_finite_error():
    x = torch.zeros(2, *MAP.shape)
    x[:, :, 0], x[:, :, 1] = 1.6e38, -1.6e38
    x[1] *= -1
    codec = codec_for("0.5", MAP)
    decoded = codec.decode(codec.encode(x))
    assert not (decoded - x).isfinite().all()
    error = (decoded.double() - x.double()).square().sum((0, 2, 3))
    assert np.allclose(sums("0.5", x)["error"], error, rtol=1e-5, atol=0)


class Scaled(nn.Module):
    """Features of any size."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.convolution, self.scale = nn.Conv2d(3, 8, 3, 2, 1), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(x) * self.scale


def extracted(out, scale: float, rate: str):
    torch.manual_seed(0)
    model = nn.Sequential(Scaled(scale), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    draw = np.random.default_rng(0)
    data = [
        {"image": Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)), "__key__": f"k{i}"} for i in range(6)
    ]
    return extract(data, str(out), model=model, layers={"0": rate}, preprocess="none")


@pytest.mark.parametrize(
    ("rate", "scale", "least", "most"),
    [("4", 1e-34, -0.1, 0.1), ("int8", 1e-25, -60, -30), ("bf16", 1e-25, -70, -40), ("4", 1e25, -60, -10)],
)
def test_an_error_is_stated_at_any_scale(tmp_path, rate, scale, least, most):
    assert least < extracted(tmp_path / "out", scale, rate).errors["0"]["db"] < most


def test_features_that_vanish_altogether_are_refused_by_layer_and_key(tmp_path):
    with pytest.raises(CodecError, match=r"layer 0: key 'k0', base: .* is too small for fp16; store fp32"):
        extracted(tmp_path / "out", 1e-25, "fp16")
