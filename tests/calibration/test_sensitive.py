from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fmshards.calibration import Comparison, Sensitive, parse_sensitive
from fmshards.codec import FeatureSpec
from fmshards.errors import InputError


def compared(moved: torch.Tensor, true: torch.Tensor) -> Comparison:
    out = Comparison.empty(FeatureSpec("map", tuple(true.shape[1:])))
    out.add(moved, true)
    return out


@pytest.fixture
def comparison() -> Comparison:
    """Channel 0 is zero, 1 is exact, 2 is a little off in direction but large, 3 is small and the wrong way round."""
    torch.manual_seed(0)
    true = torch.randn(8, 4, 3, 3)
    true[:, 0] = 0
    true[:, 2] *= 100
    true[:, 3] *= 0.01
    moved = true.clone()
    moved[:, 2] += 10 * torch.randn(8, 3, 3)
    moved[:, 3] *= -1
    return compared(moved, true)


def test_similarity_of_each_channel(comparison):
    found = comparison.similarity()
    assert found.cosine[:2] == (1.0, 1.0)
    assert found.error[:2] == (0.0, 0.0)
    assert 0.98 < found.cosine[2] < 1
    assert found.error[2] == pytest.approx(0.01, rel=0.5)
    assert (found.cosine[3], found.error[3]) == (pytest.approx(-1), pytest.approx(4))


def test_zero_on_one_side_alone_is_unlike():
    true = torch.ones(2, 2, 1, 1)
    moved = true.clone()
    true[:, 0], moved[:, 1] = 0, 0
    found = compared(moved, true).similarity()
    assert found.cosine == (0.0, 0.0)
    assert found.error == (1.0, 1.0)


def test_sums_do_not_depend_on_how_samples_are_batched():
    torch.manual_seed(1)
    true, moved = torch.randn(2, 10, 3, 4, 4)
    whole, parts = compared(moved, true), Comparison.empty(FeatureSpec("map", (3, 4, 4)))
    for some in (slice(0, 3), slice(3, 4), slice(4, 10)):
        parts.add(moved[some], true[some])
    assert parts.similarity().cosine == pytest.approx(whole.similarity().cosine, abs=1e-6)
    assert parts.similarity().error == pytest.approx(whole.similarity().error, rel=1e-5)


def test_a_fraction_takes_what_carries_the_error(comparison):
    assert parse_sensitive(0.25).choose(comparison, "cut") == (2,)
    assert parse_sensitive(0.5).choose(comparison, "cut") == (2, 3)
    assert parse_sensitive(0.3).choose(comparison, "cut") == (2, 3)  # a part of a channel is a channel
    assert parse_sensitive(1.0).choose(comparison, "cut") == (0, 1, 2, 3)


def test_a_threshold_takes_what_is_below_it(comparison):
    assert parse_sensitive("threshold(0.9)").choose(comparison, "cut") == (3,)
    assert parse_sensitive("threshold(1.0)").choose(comparison, "cut") == (2, 3)


def test_a_threshold_that_chooses_nothing_is_refused():
    x = torch.ones(1, 2, 1, 1)
    with pytest.raises(InputError, match=r"no channel of layer2 has a cosine below 0\.9.*least is 1\.0000"):
        parse_sensitive("threshold(0.9)").choose(compared(x, x), "layer2")


def test_a_list_is_taken_as_it_is_and_checked(comparison):
    assert parse_sensitive([3, 0]).choose(comparison, "cut") == (0, 3)
    with pytest.raises(InputError, match=r"cut has channels 0 to 3, there is no 4"):
        parse_sensitive([1, 4]).choose(comparison, "cut")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.25, "0.25"),
        (1, "1.0"),
        ("0.5", "0.5"),
        (" threshold(0.9) ", "threshold(0.9)"),
        ("threshold(cosine=0.9)", "threshold(0.9)"),
        ("[3, 5,7]", "[3, 5, 7]"),
        ((7, 3), "[7, 3]"),
    ],
)
def test_what_can_be_written(value, text):
    found = parse_sensitive(value)
    assert str(found) == text
    assert parse_sensitive(text) == found
    assert parse_sensitive(found) is found


@pytest.mark.parametrize(
    "value",
    [
        *(0, 0.0, -0.1, 1.5, 2, math.nan, True, None, {}),
        *([], [1, 1], [-1], [0.5], [True]),
        *("", "half", "0", "1.5", "nan", "[", "[]", "[a]", "[1, 1]", "[0.5]", "()", "__import__('os')", "0.2+0.3"),
        *("threshold", "threshold()", "threshold(2)", "threshold(-1)", "threshold(a)", "threshold(True)"),
        *("threshold(0.1, 0.2)", "threshold(error=0.5)", "threshold(0.5)+threshold(0.6)", "fraction(0.5)"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(value):
    with pytest.raises(InputError, match="sensitive"):
        parse_sensitive(value)


@given(st.floats(0.001, 1), st.integers(1, 300))
def test_a_fraction_of_any_width_is_at_least_one_channel_and_never_more_than_all(fraction, width):
    comparison = Comparison.empty(FeatureSpec("vector", (width,)))
    chosen = Sensitive(fraction=fraction).choose(comparison, "cut")
    assert 1 <= len(chosen) <= width
    assert abs(len(chosen) - fraction * width) < 1
