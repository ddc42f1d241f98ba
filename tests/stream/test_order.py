"""The order is a pure function: what it promises over ranks, workers, epochs and set sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmshards.stream import order
from fmshards.stream.deal import lane_slots
from fmshards.stream.order import Deal

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def deals(draw: st.DrawFn) -> tuple[Deal, np.ndarray]:
    chunk = draw(st.integers(1, 9))
    shards = draw(st.lists(st.integers(1, 40), min_size=1, max_size=8))
    sizes = np.array([min(chunk, s - at) for s in shards for at in range(0, s, chunk)], np.int64)
    lanes = draw(st.sampled_from([1, 2, 4, 6, 12]))
    share = draw(st.integers(1, 3))
    batch = lanes * share
    while batch > sizes.sum():
        sizes = np.concatenate([sizes, [chunk]])
    groups = draw(st.sampled_from([1, 2, 3, 4, 6]))
    return Deal(int(sizes.sum()), chunk, batch, groups, lanes, draw(st.integers(1, 5))), sizes


def stream_ids(sizes: np.ndarray, chunk: np.ndarray, row: np.ndarray) -> np.ndarray:
    assert (row < sizes[chunk]).all()
    return np.concatenate([[0], np.cumsum(sizes)])[chunk] + row


def global_batches(deal: Deal, sizes: np.ndarray, ranks: int, workers: int, start: int = 0, epoch: int = 0):
    """{batch number: sample numbers over all ranks}, put together from every worker of every rank."""
    parts: dict[int, list[np.ndarray]] = {}
    for rank in range(ranks):
        seen = []
        for worker in range(workers):
            made = order.training(deal, sizes, 7, epoch, rank, ranks, worker, workers, start)
            ids = stream_ids(sizes, *made.rows())
            assert made.batches.tolist() == list(range(start + worker, deal.batches, workers))
            assert ids.shape == (len(made.batches), deal.batch // ranks)
            for number, batch in zip(made.batches.tolist(), ids, strict=True):
                parts.setdefault(number, []).append(batch)
            seen += made.batches.tolist()
        assert sorted(seen) == list(range(start, deal.batches))
    return {number: np.concatenate(rows) for number, rows in sorted(parts.items())}


@SETTINGS
@given(deals(), st.integers(0, 3))
def test_an_epoch_shows_no_row_twice(case: tuple[Deal, np.ndarray], epoch: int) -> None:
    deal, sizes = case
    batches = global_batches(deal, sizes, 1, 1, epoch=epoch)
    assert len(batches) == deal.samples // deal.batch
    rows = np.concatenate(list(batches.values()))
    assert len(rows) == len(set(rows.tolist())) == deal.batches * deal.batch


@SETTINGS
@given(deals(), st.data())
def test_batches_are_the_same_for_all_ranks_and_workers(case: tuple[Deal, np.ndarray], data: st.DataObject) -> None:
    deal, sizes = case
    ranks = data.draw(st.sampled_from([r for r in (1, 2, 3, 4, 6) if deal.lanes % r == 0]))
    workers = data.draw(st.sampled_from([w for w in (1, 2, 3, 4, 6) if deal.groups % w == 0]))
    start = data.draw(st.integers(0, deal.batches))
    whole = global_batches(deal, sizes, 1, 1)
    parts = global_batches(deal, sizes, ranks, workers, start)
    assert list(parts) == list(range(start, deal.batches))
    for number, rows in parts.items():
        assert rows.tolist() == whole[number].tolist()


@SETTINGS
@given(deals(), st.data())
def test_a_schedule_can_be_carried_out(case: tuple[Deal, np.ndarray], data: st.DataObject) -> None:
    deal, sizes = case
    workers = data.draw(st.sampled_from([w for w in (1, 2, 3) if deal.groups % w == 0]))
    worker = data.draw(st.integers(0, workers - 1))
    start = data.draw(st.integers(0, deal.batches))
    made = order.training(deal, sizes, 1, 2, 0, 1, worker, workers, start)
    carry_out(made)
    lanes = deal.groups * deal.lanes // workers
    assert made.slots <= lanes * lane_slots(deal)


def carry_out(made: order.Schedule) -> None:
    held: set[int] = set()
    done, most = 0, 0
    for need, emit in zip(made.need.tolist(), made.emit.tolist(), strict=True):
        for fetch in range(done, need):
            new = set(range(made.start[fetch], made.start[fetch] + made.count[fetch]))
            assert new
            assert not new & held
            held |= new
        done = max(done, need)
        most = max(most, len(held))
        assert set(emit) <= held
        assert len(set(emit)) == len(emit)
        held -= set(emit)
    assert not held
    assert done == len(made.chunk)
    assert most == made.slots


@SETTINGS
@given(deals(), st.integers(1, 4), st.integers(1, 3))
def test_evaluation_is_in_stored_order(case: tuple[Deal, np.ndarray], workers: int, ranks: int) -> None:
    deal, sizes = case
    batch = ranks * 3
    batches: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    for rank in range(ranks):
        for worker in range(workers):
            made = order.evaluation(sizes, batch, rank, ranks, worker, workers)
            carry_out(made)
            ids = stream_ids(sizes, *made.rows())
            if len(made.batches):
                assert made.valid is not None
                for i, number in enumerate(made.batches.tolist()):
                    batches[number, rank] = ids[i], made.valid[i]
    total = -(-deal.samples // batch)
    assert sorted(batches) == [(t, r) for t in range(total) for r in range(ranks)]
    rows = np.concatenate([batches[key][0][batches[key][1]] for key in sorted(batches)])
    assert rows.tolist() == list(range(deal.samples))


def test_epochs_differ_and_drop_other_rows() -> None:
    sizes = np.full(20, 5, np.int64)
    deal = Deal(100, 5, 12, 2, 4, 2)
    epochs = [np.concatenate(list(global_batches(deal, sizes, 1, 1, epoch=e).values())) for e in range(12)]
    assert len({tuple(rows.tolist()) for rows in epochs}) == 12
    dropped = [frozenset(range(100)) - frozenset(rows.tolist()) for rows in epochs]
    assert all(len(rows) == 4 for rows in dropped)
    assert len(set(dropped)) > 6
    seeds = {tuple(order.training(deal, sizes, seed, 0).rows()[0].reshape(-1).tolist()) for seed in range(5)}
    assert len(seeds) == 5


def test_rows_stay_within_their_window() -> None:
    sizes = np.full(200, 10, np.int64)
    deal = Deal(2000, 10, 20, 1, 1, 4)
    chunk, row = order.training(deal, sizes, 3, 0).rows()
    permuted = order.chunk_order(200, 3, 0)
    position = np.argsort(permuted)[chunk.reshape(-1)] * 10 + row.reshape(-1)
    moved = position - np.arange(2000)
    assert moved.min() >= -40
    assert moved.max() <= 40
    assert abs(moved).mean() > 5
    # No bursts: the rows held rise to M * n / 2 and stay there.
    assert order.training(deal, sizes, 3, 0).slots <= lane_slots(deal) < 100


def test_the_order_is_fixed_for_ever() -> None:
    """A change here changes every user's runs: resuming and reproducing stop working across versions."""
    sizes = np.array([4, 4, 2, 4, 1], np.int64)
    made = order.training(Deal(15, 4, 4, 1, 2, 2), sizes, 5, 1)
    assert stream_ids(sizes, *made.rows()).tolist() == FIXED_ROWS
    assert order.chunk_order(10, 5, 1).tolist() == FIXED_CHUNKS
    assert order.combinations(8, 3, 5, 1).tolist() == FIXED_COMBINATIONS


FIXED_ROWS = [[14, 8, 5, 6], [9, 11, 4, 13], [10, 12, 0, 7]]
FIXED_CHUNKS = [4, 5, 2, 3, 1, 9, 8, 6, 7, 0]
FIXED_COMBINATIONS = [0, 0, 2, 1, 2, 1, 1, 0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_combinations_are_drawn_without_replacement(count: int) -> None:
    shown = np.stack([order.combinations(50, count, 9, e) for e in range(4 * count)])
    for block in range(4):
        part = np.sort(shown[block * count : (block + 1) * count], axis=0)
        assert (part == np.arange(count)[:, None]).all()
    if count == 5:
        assert len({tuple(column) for column in shown.T.tolist()}) == 50
        share = np.bincount(shown[0], minlength=5)
        assert share.min() > 2


def test_a_million_rows_are_cheap_to_order() -> None:
    """What one worker does at the start of an epoch is vectorised: a loop over rows would take minutes."""
    sizes = np.full(4000, 256, np.int64)
    deal = Deal(4000 * 256, 256, 256, 4, 64, 4)
    made = order.training(deal, sizes, 0, 0, 0, 1, 1, 4)
    assert made.emit.shape == (1000, 256)
