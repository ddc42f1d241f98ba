"""A mirror put together from stored channels and what stands in for the others, against doing it channel by channel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmshards.augment import Mirror, MirrorParts, parse_mirror
from fmshards.augment.features import LayerMove, move
from fmshards.codec import FeatureSpec
from fmshards.errors import FormatError
from fmshards.shards import Grid
from tests.augment.test_mirror_map import SPECS, random_map

FLIP = torch.tensor([[-1.0, 0, 0], [0, 1, 0]])
EYE = torch.eye(2, 3)


def thetas(n: int, moved: bool, mirrored: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The whole thetas of n samples: mirrored ones flipped, all of them shifted where they move."""
    theta = torch.where(mirrored[:, None, None], FLIP, EYE).clone()
    if moved:
        theta[:, :, 2] += torch.randn(n, 2, generator=generator) / 8
    return theta


@given(
    st.sampled_from(SPECS),
    st.floats(0.001, 1),
    st.sampled_from(["map", "flip"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_stored_channels_are_exact_and_the_rest_is_what_stands_in(
    spec: FeatureSpec, fraction: float, rest: str, moved: bool, viewed: bool, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    count = max(1, round(fraction * spec.channels))
    channels = tuple(sorted(torch.randperm(spec.channels, generator=g)[:count].tolist()))
    others = [c for c in range(spec.channels) if c not in channels]
    moved, rest = (moved, rest) if spec.spatial else (False, "map")  # what has no places stays where it is
    sensitive = tuple(sorted(torch.randperm(spec.channels, generator=g)[:2].tolist())) if viewed else ()
    grid = Grid((2.0, 2.0), (0.4, 0.7)) if spec.spatial else None
    fill = torch.randn(spec.shape, generator=g) if spec.spatial else None
    layer = LayerMove(spec, (18, 14), grid, fill, sensitive)
    known = random_map(spec, 3, True)
    base, mirror = (torch.randn(5, *spec.shape, generator=g) for _ in range(2))
    mirrored = torch.rand(5, generator=g) < 0.5
    theta = thetas(5, moved, mirrored, g)
    axis = spec.channel_axis + 1
    view = torch.randn(5, *spec.select(2).shape, generator=g) if viewed else None
    parts = MirrorParts.of(layer, channels, known.select(others) if rest == "map" and others else None)
    stored = mirror.index_select(axis, torch.tensor(channels))
    stored[~mirrored] = float("nan")  # of no account

    found = parts.move(base.clone(), stored, theta, mirrored, view)

    own = move(torch.where(mirrored.view(-1, *[1] * (base.dim() - 1)), mirror, base), theta, mirrored, layer)
    if rest == "map":
        guessed = torch.where(mirrored.view(-1, *[1] * (base.dim() - 1)), known.apply(base), base)
        made = move(guessed, theta, mirrored, layer)
    else:
        made = move(base, theta, torch.zeros_like(mirrored), layer)
    for c in range(spec.channels):
        got = found.select(axis, c)
        if c in sensitive:
            assert view is not None
            assert torch.equal(got, view.select(axis, sensitive.index(c)))
        elif c in channels:
            assert torch.equal(got, own.select(axis, c))
        else:
            assert torch.allclose(got, made.select(axis, c), atol=1e-5)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_map_of_some_channels_is_that_part_of_the_map(spec: FeatureSpec) -> None:
    known = random_map(spec, 3, True)
    x = torch.randn(3, *spec.shape, generator=torch.Generator().manual_seed(0))
    some = [4, 1, 3]
    part = known.select(some)
    assert torch.allclose(
        part.apply(x), known.apply(x).index_select(spec.channel_axis + 1, torch.tensor(some)), atol=1e-6
    )
    assert part.multiplications * known.spec.channels == known.multiplications * len(some)


def test_the_cost_of_a_map_is_that_of_its_outputs() -> None:
    """R * C * K * K for each place, R * D for each token without one."""
    costs = [random_map(spec, 3, True).multiplications for spec in SPECS]
    assert costs == [6 * 6 * 9 * 63, 6 * 6 * 9 * 63, 6 * 6 * 9 * 63 + 6 * 6, 12 * 12, 5 * 6 * 6]


rates = st.one_of(st.none(), st.sampled_from(["int4", "int4-channel", "fp16", "2", 2.5, 4]))
mirrors = st.builds(
    Mirror,
    st.just("stored"),
    st.sampled_from([1, 3, 5, 7]),
    st.floats(1e-6, 1),
    st.sampled_from(["map", "flip"]),
    rates,
)


@given(mirrors)
def test_a_mirror_is_its_text_and_its_json(mirror: Mirror) -> None:
    assert parse_mirror(str(mirror)) == mirror
    assert Mirror.from_json(mirror.to_json()) == mirror
    assert mirror.part == (mirror != Mirror())
    assert not (mirror.mapped and mirror.flipped)
    assert (mirror.mapped or mirror.flipped) == (mirror.fraction < 1)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("stored(1)", "stored"),
        ("stored(1.0, rest=flip)", "stored"),
        ("stored(0)", "mapped(1)"),
        ("stored(0, kernel=3)", "mapped"),
        ("stored(0, rest=map, kernel=1)", "mapped(1)"),
        ("stored(0, rest=flip)", "none"),
    ],
)
def test_the_ends_are_the_other_ways(text: str, end: str) -> None:
    assert parse_mirror(text) == parse_mirror(end)
    assert parse_mirror(text).to_json() == parse_mirror(end).to_json()
    assert str(parse_mirror(text)) == str(parse_mirror(end))


def test_a_map_is_small_beside_stored_channels() -> None:
    assert parse_mirror("stored(0.3)") == Mirror("stored", fraction=0.3) == Mirror("stored", 1, 0.3, "map")
    assert parse_mirror("mapped") == Mirror("mapped") == Mirror("mapped", 3)


def test_a_rate_is_written_as_for_a_layer() -> None:
    for rate in ("int4-channel", "fp16", "2.5"):
        assert parse_mirror(f"stored(0.3, rate={rate})").rate == rate
        assert parse_mirror(f"stored(0.3, rate='{rate}')").rate == rate
    assert parse_mirror("stored(0.3, rate=4.0)") == Mirror("stored", fraction=0.3, rate=4)


@pytest.mark.parametrize(
    "data",
    [
        {"way": "stored", "fraction": "0.3"},
        {"way": "stored", "fraction": None},
        {"way": "mapped", "kernel": None},
        {"way": "stored", "fraction": 1.5},
        {"way": "stored", "fraction": float("nan")},
        {"way": "stored", "fraction": 0.3, "rest": ["map"]},
        {"way": "stored", "fraction": 0.3, "rate": {}},
        {"way": "stored", "fraction": 0.3, "rate": "no such"},
        {"way": "mapped", "fraction": 0.3},
        {"way": "none", "rate": "4"},
        {"way": "stored", "channels": [1]},
    ],
)
def test_hostile_json_is_refused(data: object) -> None:
    with pytest.raises(FormatError, match="mirror"):
        Mirror.from_json(data)
