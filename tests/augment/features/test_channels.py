from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fmshards.augment import replace
from fmshards.codec import FeatureSpec
from fmshards.errors import InputError

SPECS = [
    FeatureSpec("map", (6, 3, 4)),
    FeatureSpec("map_last", (3, 4, 6)),
    FeatureSpec("tokens", (13, 6), grid=(3, 4), class_tokens=1),
    FeatureSpec("vector", (6,)),
]


@given(st.sampled_from(SPECS), st.sets(st.integers(0, 5), min_size=1))
def test_stored_channels_end_where_they_belong(spec: FeatureSpec, chosen: set[int]) -> None:
    sensitive = sorted(chosen)
    x = torch.randn(3, *spec.shape)
    view = torch.randn(3, *spec.select(len(sensitive)).shape)
    before = x.clone()
    out = replace(x, view, sensitive, spec)
    axis = spec.channel_axis + 1
    for channel in range(6):
        source = view.select(axis, sensitive.index(channel)) if channel in chosen else x.select(axis, channel)
        assert torch.equal(out.select(axis, channel), source)
    assert torch.equal(x, before)
    assert torch.equal(replace(x, view, torch.tensor(sensitive), spec), out)


def test_all_channels_are_the_view_and_dtypes_follow_the_reference() -> None:
    spec = SPECS[0]
    x, view = torch.randn(2, 6, 3, 4).half(), torch.randn(2, 6, 3, 4)
    assert torch.equal(replace(x, view, range(6), spec), view.half())
    assert replace(x, view[:, :2], [1, 4], spec).dtype == torch.float16
    with pytest.raises(InputError, match="2 channels"):
        replace(x, view, [1, 4], spec)
    assert torch.equal(replace(x, view[:, :0], [], spec), x)
