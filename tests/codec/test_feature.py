from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fmshards.augment import MirrorMap
from fmshards.codec import FeatureSpec

SPECS = [
    FeatureSpec("map", (8, 6, 5)),
    FeatureSpec("map_last", (6, 5, 8)),
    FeatureSpec("tokens", (17, 8), (4, 4), 1),
    FeatureSpec("tokens", (9, 8)),
    FeatureSpec("vector", (12,)),
]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_map_costs_the_multiplications_that_torch_counts_in_it(spec: FeatureSpec, kernel: int) -> None:
    c, k = spec.channels, spec.class_tokens
    placed = spec.spatial is not None
    classes = (torch.ones(k, c, c), torch.ones(k, c)) if k else (None, None)
    weight = torch.ones(c, c, kernel, kernel) if placed else torch.ones(c, c)
    mirror = MirrorMap(weight, torch.zeros(c), False, spec, *classes)
    with FlopCounterMode(display=False) as counted:
        mirror.apply(torch.ones(1, *spec.shape))
    assert 2 * spec.map_multiplications(kernel) == counted.get_total_flops()


def test_a_map_to_some_channels_costs_their_part() -> None:
    spec = FeatureSpec("map", (8, 6, 5))
    assert 4 * spec.map_multiplications(3, 2) == spec.map_multiplications(3)
    assert spec.map_multiplications(3, 0) == 0
