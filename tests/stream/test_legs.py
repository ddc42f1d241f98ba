"""An epoch that is dealt in several legs shows each sample once: over sets, topologies and chains of stops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmshards.stream import order
from fmshards.stream.order import Part
from fmshards.stream.order.deal import Deal, Leg, lane_slots
from fmshards.stream.order.lane import left_of
from fmshards.stream.order.runs import whole_epoch
from tests.stream.helpers import carry_out
from tests.stream.reference_order import chunk_order, legs_laid_out, raw

SETTINGS = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEED, EPOCH = 7, 3


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Leg], np.ndarray]:
    """Legs of which each deals what those before it left, stopped anywhere, and the set's chunks."""
    chunk = draw(st.integers(1, 9))
    shards = draw(st.lists(st.integers(1, 60), min_size=1, max_size=8))
    sizes = np.array([min(chunk, s - at) for s in shards for at in range(0, s, chunk)], np.int32)
    legs: list[Leg] = []
    left = int(sizes.sum())
    for _ in range(draw(st.integers(1, 4))):
        lanes = draw(st.sampled_from([1, 2, 4, 6]))
        batch = lanes * draw(st.integers(1, 3))
        deal = Deal(left, chunk, batch, draw(st.sampled_from([1, 2, 3, 4])), lanes, draw(st.integers(1, 5)))
        legs.append(Leg(deal, draw(st.integers(0, deal.batches))))
        left = legs[-1].left
    return legs, sizes


def batches_of(legs: list[Leg], sizes: np.ndarray, ranks: int = 1, workers: int = 1) -> list[list[int]]:
    """The global batches of the last leg that are left, put together from every worker of every rank."""
    deal, done = legs[-1].deal, legs[-1].done
    parts: dict[int, list[int]] = {}
    for rank in range(ranks):
        for worker in range(workers):
            made = carry_out(order.training(legs, sizes, SEED, EPOCH, Part(rank, ranks, worker, workers)))
            assert made.batches == list(range(done + worker, deal.batches, workers))
            lanes = deal.groups * deal.lanes // ranks // workers
            assert made.places <= lanes * deal.lane_places
            assert made.most <= lanes * lane_slots(deal)
            for number, rows in zip(made.batches, made.ids(sizes), strict=True):
                assert len(rows) == deal.batch // ranks
                parts.setdefault(number, []).extend(rows)
    assert sorted(parts) == list(range(done, deal.batches))
    return [parts[number] for number in sorted(parts)]


def shown(legs: list[Leg], sizes: np.ndarray) -> list[int]:
    """The samples of the batches that are done, in all legs."""
    out = []
    for index, leg in enumerate(legs):
        for batch in batches_of([*legs[:index], Leg(leg.deal)], sizes)[: leg.done]:
            out += batch
    return out


@SETTINGS
@given(chains())
def test_the_rest_of_an_epoch_is_what_was_not_shown(case: tuple[list[Leg], np.ndarray]) -> None:
    """Every sample once, but for fewer than a batch of the last deal."""
    legs, sizes = case
    seen = shown(legs, sizes)
    rest = [sample for batch in batches_of(legs, sizes) for sample in batch]
    assert len(seen) == len(set(seen))
    assert len({*seen, *rest}) == len(seen) + len(rest)
    assert 0 <= sizes.sum() - len(seen) - len(rest) < legs[-1].deal.batch


@SETTINGS
@given(chains(), st.data())
def test_a_leg_goes_on_alike_for_all_ranks_and_workers(case: tuple[list[Leg], np.ndarray], data: st.DataObject) -> None:
    legs, sizes = case
    ranks = data.draw(st.sampled_from([r for r in (1, 2, 3, 4, 6) if legs[-1].deal.lanes % r == 0]))
    workers = data.draw(st.sampled_from([w for w in (1, 2, 3, 4) if legs[-1].deal.groups % w == 0]))
    whole = batches_of([*legs[:-1], Leg(legs[-1].deal)], sizes)
    assert batches_of(legs, sizes, ranks, workers) == whole[legs[-1].done :]


@SETTINGS
@given(chains())
def test_legs_are_those_of_epochs_laid_out_whole(case: tuple[list[Leg], np.ndarray]) -> None:
    legs, sizes = case
    assert batches_of(legs, sizes) == legs_laid_out(legs, sizes, SEED, EPOCH)


@SETTINGS
@given(chains())
def test_what_a_leg_leaves_is_in_order_and_in_few_runs(case: tuple[list[Leg], np.ndarray]) -> None:
    """A chunk's rows stay side by side, so that it is fetched once for each lane; memory is stated by the runs."""
    legs, sizes = case
    runs, most = whole_epoch(sizes, SEED, EPOCH), len(sizes)
    for index, leg in enumerate(legs):
        runs = order.left_over(runs, leg, ("lane", SEED, EPOCH, index) if index else ("lane", SEED, EPOCH))
        most += leg.pieces
        assert len(runs.chunk) <= most
        assert (runs.count > 0).all()
        assert runs.count.sum() == leg.left
        place = np.argsort(chunk_order(len(sizes), SEED, EPOCH))[runs.chunk].astype(np.int64)
        at = place * 1000 + runs.first
        assert (np.diff(at) > 0).all()


@SETTINGS
@given(st.integers(1, 400), st.integers(1, 9), st.integers(1, 6), st.data())
def test_a_lane_begins_in_its_middle_as_if_it_had_been_drawn(
    samples: int, chunk: int, window: int, data: st.DataObject
) -> None:
    """Which rows a lane has shown is told by the random numbers about there alone."""
    deal = Deal(samples, chunk, 1, 1, 1, window)
    done = data.draw(st.integers(0, samples))
    keys = np.arange(samples) + (raw(samples, "lane", 0, 0, 0) >> np.uint64(11)) * 2.0**-53 * deal.span
    turn = np.argsort(keys, kind="stable")
    rows, drawn = left_of(deal, deal.lane(0, done), ("lane", 0, 0))
    assert [*rows.tolist(), *range(drawn, samples)] == sorted(turn[done:].tolist())
    assert len(rows) <= 2 * deal.span
    assert drawn <= done + deal.span


def test_a_lane_begins_far_into_it() -> None:
    """At positions so large that position + U is rounded, and after numbers that no one has drawn."""
    deal, done, before = Deal(40_000_000, 3, 1, 1, 1, 1), 39_999_000, 9_999_000
    left, drawn = left_of(deal, deal.lane(0, done), ("lane", 0, 0))
    random = raw(4_000, "lane", 0, 0, 0, before=before)
    turn = 4 * before + np.argsort(4 * before + np.arange(4_000) + (random >> np.uint64(11)) * 2.0**-53 * deal.span)
    assert sorted(turn[done - 4 * before :].tolist()) == [*left.tolist(), *range(drawn, deal.samples)]


def test_the_order_of_later_legs_is_fixed_for_ever() -> None:
    """A change here makes states that were saved before resume with samples twice."""
    sizes = np.array([4, 4, 2, 4, 1], np.int32)
    legs = [Leg(Deal(15, 4, 4, 1, 2, 2), 1), Leg(Deal(11, 4, 3, 2, 3, 1), 1), Leg(Deal(8, 4, 2, 1, 1, 1))]
    assert batches_of(legs, sizes) == FIXED


FIXED = [[12, 1], [5, 4], [7, 8], [9, 14]]


@pytest.mark.parametrize("done", [0, 1, 4])
def test_a_deal_that_is_done_has_nothing_left(done: int) -> None:
    sizes = np.array([4, 4], np.int32)
    leg = Leg(Deal(8, 4, 2, 1, 2, 1), 4)
    assert batches_of([leg], sizes) == []
    assert batches_of([Leg(leg.deal, done), Leg(Deal(8 - 2 * done, 4, 9, 1, 1, 1))], sizes) == []
