"""The stored channel order: a permutation that lowers ZFP's error, or none."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fmshards.codec import FeatureSpec, codec_for
from fmshards.codec.zfp.channel_order import ChannelSample, greedy_order

SPECS = [
    FeatureSpec("map", (32, 16, 16)),
    FeatureSpec("map", (37, 8, 8)),  # a last block of one channel
    FeatureSpec("map", (64, 14, 14)),  # tiles of 2 x 2
    FeatureSpec("map", (130, 7, 7)),  # tiles of 4 x 4, the last mosaics partly empty
    FeatureSpec("map_last", (8, 8, 24)),
    FeatureSpec("tokens", (17, 48), (4, 4), 1),
    FeatureSpec("tokens", (9, 32)),
    FeatureSpec("vector", (256,)),
]


def families(spec: FeatureSpec, n: int, seed: int = 0) -> torch.Tensor:
    """Features of which every fourth channel shares a smooth picture, [n, *shape]: families lie apart as they are."""
    generator = torch.Generator().manual_seed(seed)
    c = spec.channels
    parts = -(-c // 4)
    h, w = spec.spatial or (1, spec.shape[0] if spec.kind == "tokens" else 1)
    rough = torch.randn(n, parts, max(h // 4, 1), max(w // 4, 1), generator=generator)
    smooth = torch.nn.functional.interpolate(rough, size=(h, w), mode="bilinear")
    scale = 2.0 ** torch.linspace(-2, 2, parts)[None, :, None, None]
    x = (smooth * scale).repeat(1, 4, 1, 1)[:, :c] * torch.linspace(0.9, 1.1, c)[None, :, None, None]
    x = x + 0.02 * torch.randn(x.shape, generator=generator)
    if spec.kind == "map":
        return x
    if spec.kind == "vector":
        return x.flatten(1)
    last = x.permute(0, 2, 3, 1)
    if spec.kind == "map_last":
        return last.contiguous()
    tokens = last.flatten(1, 2)
    return torch.cat([torch.zeros(n, spec.shape[0] - tokens.shape[1], c), tokens], 1)


def sample_of(spec: FeatureSpec, x: torch.Tensor, batch: int = 16) -> ChannelSample:
    sample = ChannelSample(spec, len(x))
    for start in range(0, len(x), batch):
        sample.add(x[start : start + batch])
    return sample


def error_db(spec: FeatureSpec, order, x: torch.Tensor, rate: float = 4) -> float:
    codec = codec_for(rate, spec, order)
    back = codec.decode(codec.encode(x))
    return 10 * float(torch.log10((back - x).square().sum() / x.square().sum()))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_families_are_found_and_gain_on_other_samples(spec: FeatureSpec) -> None:
    order = sample_of(spec, families(spec, 48)).order(partial(codec_for, 4))
    assert order is not None
    assert sorted(order) == list(range(spec.channels))
    other = families(spec, 16, seed=1)
    assert error_db(spec, order, other) < error_db(spec, None, other) - 1


@pytest.mark.parametrize("spec", SPECS[:4], ids=str)
def test_an_order_of_some_channels_counts_them_as_a_view_does(spec: FeatureSpec) -> None:
    sensitive = [c for c in range(spec.channels) if c % 3]
    x = families(spec, 32)
    order = sample_of(spec, x).order(partial(codec_for, 4), sensitive)
    assert order is not None
    view = spec.select(len(sensitive))
    assert sorted(order) == list(range(len(sensitive)))
    assert error_db(view, order, x[:, sensitive]) < error_db(view, None, x[:, sensitive]) - 0.5


def test_the_same_sample_gives_the_same_order_however_it_is_cut() -> None:
    spec = SPECS[2]
    x = families(spec, 40)
    orders = {sample_of(spec, x, batch).order(partial(codec_for, 2)) for batch in (1, 7, 16, 40)}
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    orders.add(sample_of(spec, x).order(partial(codec_for, 2)))
    torch.set_num_threads(threads)
    assert len(orders) == 1


def test_nothing_is_stored_where_nothing_is_gained() -> None:
    noise = torch.randn(32, 24, 8, 8, generator=torch.Generator().manual_seed(0))
    assert sample_of(FeatureSpec("map", (24, 8, 8)), noise).order(partial(codec_for, 4)) is None
    one = FeatureSpec("map", (1, 8, 8))
    assert sample_of(one, noise[:, :1]).order(partial(codec_for, 4)) is None
    zeros = torch.zeros(4, 24, 8, 8)
    assert sample_of(FeatureSpec("map", (24, 8, 8)), zeros).order(partial(codec_for, 4)) is None
    alone = noise[:1]
    assert sample_of(FeatureSpec("map", (24, 8, 8)), alone).order(partial(codec_for, 4)) is None
    # Families that lie together already.
    spec = SPECS[0]
    x = families(spec, 32)
    together = x[:, torch.arange(32).view(4, 8).T.flatten()]
    assert sample_of(spec, x).order(partial(codec_for, 4)) is not None
    assert sample_of(spec, together).order(partial(codec_for, 4)) is None


def test_a_feature_that_cannot_be_encoded_is_left_to_extraction_to_name() -> None:
    spec = SPECS[0]
    for bad in (float("inf"), float("nan")):
        for where in range(8):  # among those that make the order, and those that judge it
            x = families(spec, 8)
            x[where, 3, 2, 2] = bad
            assert sample_of(spec, x).order(partial(codec_for, 4)) is None


@given(st.integers(1, 40), st.sampled_from([(8, 8), (14, 14), (7, 7), (1, 5), (6, 4)]), st.integers(0, 2**16))
def test_any_moments_give_a_permutation_and_ties_the_lower_number(c: int, side: tuple[int, int], seed: int) -> None:
    spec = FeatureSpec("map", (c, *side))
    rows = np.random.default_rng(seed).integers(-2, 3, (c, 3)).astype(float)
    assert sorted(greedy_order(spec, rows @ rows.T)) == list(range(c))
    order = greedy_order(FeatureSpec("map", (c, 8, 8)), np.ones((c, c)))
    assert list(order) == list(range(c))
