"""Estimates, what answers become, and the search for a rate: on numbers that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fmshards.codec import FeatureSpec, ladders, row_bytes_at
from fmshards.planning import (
    Answers,
    Estimate,
    Outcome,
    Passage,
    certainty,
    compare,
    fitted,
    photos_needed,
    through,
)
from fmshards.planning.judge import can_probe, labels_are_its_own
from fmshards.planning.probe import probe_answers, probe_features
from fmshards.planning.search import Trial, best, smallest

SPEC = FeatureSpec("map", (8, 8, 8))


def answers(*rows: list[float]) -> Answers:
    return Answers.of(torch.tensor(rows).log())


def outcome(drop: float) -> Outcome:
    estimate = Estimate(drop, 0.001, 100)
    return Outcome(estimate, estimate, None, estimate)


def trial(codec: str, rate: str, size: float, drop: float) -> Trial:
    return Trial(codec, rate, size, 1.0, -10.0, 0.0, 0.0, outcome(drop))


def test_a_share_has_the_standard_error_of_a_share() -> None:
    found = Estimate.of([1.0] * 90 + [0.0] * 10)
    assert found.value == pytest.approx(0.9)
    assert found.error == pytest.approx(math.sqrt(0.9 * 0.1 / 100))
    assert found.percent() == "90.0% +- 3.0%"


def test_photos_that_all_agree_do_not_make_certain() -> None:
    assert 1 / 150 < Estimate.of([1.0] * 100).error < 1 / 50
    assert Estimate.of([1.0] * 10000).error < 1e-3


def test_photos_needed_bring_the_difference_to_two_standard_errors() -> None:
    found = Estimate(0.003, 0.004, 300)
    n = photos_needed(found, 0.002)
    assert 2 * found.error * math.sqrt(found.n / n) == pytest.approx(0.002, rel=0.01)
    assert photos_needed(Estimate(0.0, 1e-5, 300), 0.5) == 300


def test_a_drop_is_the_probability_that_a_changed_choice_gives_away() -> None:
    before = answers([0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8])
    after = answers([0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.6, 0.1, 0.3])
    found = compare(before, after, torch.tensor([0, 1, 2]), 1.0)
    assert found.agreement.value == pytest.approx(1 / 3)
    assert found.drop.value == pytest.approx((0 + 0.1 + 0.7) / 3)
    assert found.accuracy is not None
    assert found.accuracy.value == pytest.approx((0 + 1 - 1) / 3)
    assert found.loss.value == pytest.approx((math.log(7 / 6) + math.log(4 / 6) + math.log(8 / 3)) / 3, abs=1e-5)


def test_a_change_counts_as_lost_where_nothing_tells_how_sure_the_network_is() -> None:
    before, after = answers([0.21, 0.2, 0.2], [0.5, 0.4, 0.1]), answers([0.2, 0.21, 0.2], [0.6, 0.3, 0.1])
    assert compare(before, after).drop.value == pytest.approx(0.5)
    assert compare(before, after, None, 1.0).drop.value < 0.05


@pytest.mark.parametrize("sharpened", [0.3, 1.0, 4.0])
def test_how_sure_the_network_may_be_is_learnt_from_labels(sharpened: float) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(2000, 10, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert certainty(Answers.of(sharpened * logits), labels) == pytest.approx(1 / sharpened, rel=0.25)


def test_without_labels_the_loss_is_the_divergence_and_nothing_is_said_of_accuracy() -> None:
    before, after = answers([0.5, 0.5]), answers([0.25, 0.75])
    found = compare(before, after)
    assert found.accuracy is None
    assert found.loss.value == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-5)
    assert compare(before, before).loss.value == 0


def test_features_go_through_the_codec_that_extraction_would_fit() -> None:
    x = torch.randn(40, *SPEC.shape, generator=torch.Generator().manual_seed(0))
    passage = Passage()
    decoded = torch.cat(list(through(fitted("int4", SPEC, x[:16]), x, 16, passage)))
    assert passage.samples == 40
    assert passage.bytes == 40 * row_bytes_at("int4", SPEC)
    assert passage.db == pytest.approx(
        10 * math.log10(float((decoded - x).square().sum() / x.square().sum())), abs=0.01
    )
    assert -26 < passage.db < -16
    exact = Passage()
    list(through(fitted("fp32", SPEC, x[:16]), x, 16, exact))
    assert exact.db is None


def test_every_ladder_is_of_rates_of_its_codec_the_fewest_bytes_first() -> None:
    assert {"zfp", "int", "raw"} <= set(ladders())
    for name, rates in ladders().items():
        sizes = [row_bytes_at(rate, SPEC) for rate in rates]
        assert sizes == sorted(set(sizes))
        assert {fitted(rate, SPEC, torch.rand(16, *SPEC.shape)).name for rate in rates} == {name}


SIZES = {"1": 10.0, "2": 20.0, "3": 30.0, "4": 40.0, "a": 15.0, "b": 25.0, "c": 35.0}


def test_the_smallest_rate_within_the_budget_is_found_by_halving() -> None:
    drops = {"1": 0.3, "2": 0.1, "3": 0.004, "4": 0.0, "a": 0.2, "b": 0.003, "c": 0.0}
    asked: list[str] = []

    def measured(codec: str, rate: str) -> Trial:
        asked.append(rate)
        return trial(codec, rate, SIZES[rate], drops[rate])

    found = smallest(
        {"n": ["1", "2", "3", "4"], "l": ["a", "b", "c"]},
        SIZES.__getitem__,
        measured,
        lambda t: t.outcome.drop.value < 0.005,
    )
    assert found.chosen is not None
    assert found.chosen.rate == "b"
    assert [t.rate for t in found.trials] == asked
    assert len(asked) == len(set(asked)) <= 5
    assert "c" not in asked, "it takes more bytes than what was found before"


def test_a_codec_whose_dearest_affordable_rate_fails_is_given_up() -> None:
    asked: list[str] = []

    def measured(codec: str, rate: str) -> Trial:
        asked.append(rate)
        return trial(codec, rate, SIZES[rate], 0.0 if rate == "3" else 0.5)

    ladder = {"n": ["3"], "l": ["a", "b", "c"]}
    found = smallest(ladder, SIZES.__getitem__, measured, lambda t: t.outcome.drop.value < 0.005)
    assert found.chosen is not None
    assert found.chosen.rate == "3"
    assert asked == ["3", "b"]
    none = smallest({"n": ["1", "2"]}, SIZES.__getitem__, measured, lambda t: t.outcome.drop.value < 0.005)
    assert none.chosen is None
    assert none.trials


def test_where_bytes_alone_bound_the_best_that_fits_is_taken() -> None:
    drops = {"2": 0.02, "b": 0.01}
    found = best(
        {"n": ["1", "2", "3"], "l": ["a", "b", "c"]},
        SIZES.__getitem__,
        lambda codec, rate: trial(codec, rate, SIZES[rate], drops[rate]),
        29.0,
    )
    assert found.chosen is not None
    assert found.chosen.rate == "b"
    assert best({"n": ["1"]}, SIZES.__getitem__, lambda codec, rate: trial(codec, rate, 10, 0.0), 5.0).chosen is None


def test_labels_are_its_own_where_the_network_knows_them() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 10, (100,), generator=generator)
    logits = torch.randn(100, 10, generator=generator)
    assert not labels_are_its_own(Answers.of(logits), labels)
    logits[torch.arange(100), labels] += 1.5
    assert labels_are_its_own(Answers.of(logits), labels)
    assert not labels_are_its_own(Answers.of(logits), labels + 5)
    one_class = torch.zeros(100, 10)
    one_class[:, 3] = 1
    assert not labels_are_its_own(Answers.of(one_class), torch.full((100,), 3))


def test_the_probe_knows_what_features_tell_and_no_more() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(90) % 3
    noise = torch.randn(90, *SPEC.shape, generator=generator)
    told = noise.clone()
    told[torch.arange(90), labels] += 1.0
    clear, blind = (probe_answers(probe_features(x, SPEC), labels, 0) for x in (told, noise))
    assert float((clear.top == labels).float().mean()) > 0.9
    assert float((blind.top == labels).float().mean()) < 0.6
    assert torch.equal(clear.log_p, probe_answers(probe_features(told, SPEC), labels, 0).log_p)
    assert clear.log_p.exp().sum(1).numpy() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("spec", "width"),
    [
        (FeatureSpec("vector", (6,)), 6),
        (FeatureSpec("tokens", (5, 6)), 6),
        (FeatureSpec("tokens", (5, 6), (2, 2), 1), 5 * 6),
        (FeatureSpec("map_last", (9, 7, 6)), 4 * 6),
        (FeatureSpec("map", (6, 1, 1)), 6),
    ],
)
def test_every_kind_of_feature_is_pooled(spec: FeatureSpec, width: int) -> None:
    assert probe_features(torch.rand(3, *spec.shape), spec).shape == (3, width)


def test_a_probe_needs_photos_of_two_classes() -> None:
    assert can_probe(torch.arange(40) % 2)
    assert not can_probe(torch.zeros(40, dtype=torch.int64))
    assert not can_probe(torch.arange(8) % 2)
    assert not can_probe(torch.arange(40))
    assert not can_probe(None)
