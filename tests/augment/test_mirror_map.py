"""The mapped mirror as it is applied and kept; how it is fitted: tests/calibration/test_mirror_fit.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fmshards.augment import MirrorMap
from fmshards.codec import FeatureSpec
from fmshards.errors import FormatError

SPECS = [
    FeatureSpec("map", (6, 9, 7)),
    FeatureSpec("map_last", (9, 7, 6)),
    FeatureSpec("tokens", (64, 6), grid=(9, 7), class_tokens=1),
    FeatureSpec("vector", (12,)),
    FeatureSpec("tokens", (5, 6)),
]


def random_map(spec: FeatureSpec, kernel: int, relu: bool) -> MirrorMap:
    g = torch.Generator().manual_seed(1)
    c, k = spec.channels, spec.class_tokens
    shape = (c, c) if spec.spatial is None else (c, c, kernel, kernel)
    tokens = (torch.randn(k, c, c, generator=g), torch.randn(k, c, generator=g)) if k else (None, None)
    return MirrorMap(torch.randn(shape, generator=g) / 4, torch.randn(c, generator=g), relu, spec, *tokens)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_arrays_come_back(spec: FeatureSpec) -> None:
    known = random_map(spec, 3, True)
    arrays = known.to_arrays()
    assert all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays.values())
    again = MirrorMap.from_arrays(arrays, spec, True)
    x = torch.randn(3, *spec.shape)
    assert torch.equal(again.apply(x), known.apply(x))
    assert again.apply(x).shape == x.shape
    assert (again.apply(x) >= 0).all()
    assert again.apply(x.bfloat16()).dtype == torch.bfloat16
    for name in arrays:
        with pytest.raises(FormatError, match=name):
            MirrorMap.from_arrays({k: v for k, v in arrays.items() if k != name}, spec, True)
        with pytest.raises(FormatError, match="expected"):
            MirrorMap.from_arrays(arrays | {name: arrays[name][..., :-1]}, spec, True)
        with pytest.raises(FormatError, match="finite"):
            MirrorMap.from_arrays(arrays | {name: arrays[name] * np.float32("nan")}, spec, True)


def test_apply_is_flip_then_convolution() -> None:
    known = random_map(SPECS[0], 3, True)
    x = torch.randn(2, 6, 9, 7)
    assert torch.equal(known.apply(x), F.relu(F.conv2d(x.flip(3), known.weight, known.bias, padding=1)))
