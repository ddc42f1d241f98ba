"""The order is a pure function: what it promises over ranks, workers, epochs and set sizes."""

from __future__ import annotations

import tracemalloc
from collections import deque
from itertools import islice

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmshards.stream import order
from fmshards.stream.order import Part
from fmshards.stream.order.deal import READ_AHEAD, Deal, Job, Leg, evaluation_memory, lane_slots, order_memory
from fmshards.stream.order.runs import chunk_order
from tests.stream import reference_order
from tests.stream.helpers import Carried, carry_out

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


def global_batches(deal: Deal, sizes: np.ndarray, ranks: int, workers: int, start: int = 0, epoch: int = 0):
    """{batch number: sample numbers over all ranks}, put together from every worker of every rank."""
    parts: dict[int, list[list[int]]] = {}
    for rank in range(ranks):
        seen = []
        for worker in range(workers):
            made = carry_out(order.training([Leg(deal, start)], sizes, 7, epoch, Part(rank, ranks, worker, workers)))
            assert made.batches == list(range(start + worker, deal.batches, workers))
            for number, batch in zip(made.batches, made.ids(sizes), strict=True):
                assert len(batch) == deal.batch // ranks
                parts.setdefault(number, []).append(batch)
            seen += made.batches
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
    made = carry_out(order.training([Leg(deal, start)], sizes, 1, 2, Part(worker=worker, workers=workers)))
    lanes = deal.groups * deal.lanes // workers
    assert made.most <= lanes * lane_slots(deal)
    assert made.places <= lanes * deal.lane_places


def as_reference(made: reference_order.Schedule) -> Carried:
    """What the schedule of a whole epoch does, as `Carried` says it."""
    chunk, row = made.rows()
    out = Carried(made.batches.tolist())
    done = 0
    for i, need in enumerate(made.need.tolist()):
        out.rows.append(list(zip(chunk[i].tolist(), row[i].tolist(), strict=True)))
        out.valid.append([True] * len(chunk[i]) if made.valid is None else made.valid[i].tolist())
        out.fetches += [(i, int(made.chunk[f]), int(made.count[f])) for f in range(done, need)]
        done = max(done, need)
    return out


@settings(SETTINGS, max_examples=150)
@given(deals(), st.data())
def test_the_order_is_that_of_epochs_laid_out_whole(case: tuple[Deal, np.ndarray], data: st.DataObject) -> None:
    """Batch by batch and fetch by fetch, for every rank and worker, from any batch on."""
    deal, sizes = case
    ranks = data.draw(st.sampled_from([r for r in (1, 2, 3, 4, 6) if deal.lanes % r == 0]))
    workers = data.draw(st.sampled_from([w for w in (1, 2, 3, 4, 6) if deal.groups % w == 0]))
    who = data.draw(st.integers(0, ranks - 1)), ranks, data.draw(st.integers(0, workers - 1)), workers
    start = data.draw(st.integers(0, deal.batches))
    made = carry_out(order.training([Leg(deal, start)], sizes, 7, 2, Part(*who)))
    expected = as_reference(reference_order.training(deal, sizes, 7, 2, *who, start))
    assert made.batches == expected.batches
    assert made.rows == expected.rows
    assert made.fetches == expected.fetches


def test_the_order_of_wide_windows_and_of_one_lane_is_the_same() -> None:
    """Many stretches, and lanes that are drawn far ahead of what they show."""
    sizes = np.full(300, 40, np.int32)
    for deal in (Deal(12000, 40, 50, 1, 1, 16), Deal(12000, 40, 8, 3, 2, 1), Deal(12000, 40, 4000, 1, 4, 2)):
        for start in (0, deal.batches // 2):
            made = carry_out(order.training([Leg(deal, start)], sizes, 3, 1))
            expected = as_reference(reference_order.training(deal, sizes.astype(np.int64), 3, 1, start=start))
            assert (made.rows, made.fetches) == (expected.rows, expected.fetches)


@SETTINGS
@given(deals(), st.integers(1, 4), st.integers(1, 3), st.data())
def test_evaluation_is_in_stored_order(
    case: tuple[Deal, np.ndarray], workers: int, ranks: int, data: st.DataObject
) -> None:
    """Every sample once; one rank's last batch is short, several have batches alike, filled up at the end."""
    deal, sizes = case
    width = data.draw(st.integers(1, 9))
    batch, seen = ranks * width, {}
    for rank in range(ranks):
        for worker in range(workers):
            made = carry_out(order.evaluation(sizes, batch, Part(rank, ranks, worker, workers)))
            assert made.places <= order.evaluation_places(int(sizes.max()), width)
            expected = as_reference(reference_order.evaluation(sizes, batch, rank, ranks, worker, workers))
            assert made.batches == expected.batches
            for number, ids, rows, valid, whole, filled in zip(
                made.batches, made.ids(sizes), made.rows, made.valid, expected.rows, expected.valid, strict=True
            ):
                seen[number, rank] = [i for i, ok in zip(ids, valid, strict=True) if ok]
                if ranks == 1:
                    assert all(valid)
                    assert rows == [row for row, ok in zip(whole, filled, strict=True) if ok]
                else:
                    assert (rows, valid) == (whole, filled)
    total = -(-deal.samples // batch)
    assert sorted(seen) == [(t, r) for t in range(total) for r in range(ranks)]
    assert [i for key in sorted(seen) for i in seen[key]] == list(range(deal.samples))


def test_epochs_differ_and_drop_other_rows() -> None:
    sizes = np.full(20, 5, np.int64)
    deal = Deal(100, 5, 12, 2, 4, 2)
    epochs = [np.concatenate(list(global_batches(deal, sizes, 1, 1, epoch=e).values())) for e in range(12)]
    assert len({tuple(rows.tolist()) for rows in epochs}) == 12
    dropped = [frozenset(range(100)) - frozenset(rows.tolist()) for rows in epochs]
    assert all(len(rows) == 4 for rows in dropped)
    assert len(set(dropped)) > 6
    seeds = {str(carry_out(order.training([Leg(deal)], sizes, seed, 0)).rows) for seed in range(5)}
    assert len(seeds) == 5


def test_rows_stay_within_their_window() -> None:
    sizes = np.full(200, 10, np.int64)
    deal = Deal(2000, 10, 20, 1, 1, 4)
    made = carry_out(order.training([Leg(deal)], sizes, 3, 0))
    chunk, row = np.array(made.rows).reshape(-1, 2).T
    permuted = chunk_order(200, 3, 0)
    position = np.argsort(permuted)[chunk] * 10 + row
    moved = position - np.arange(2000)
    assert moved.min() >= -40
    assert moved.max() <= 40
    assert abs(moved).mean() > 5
    # No bursts: the rows held rise to M * n / 2 and stay there.
    assert made.most <= lane_slots(deal) < 100


@SETTINGS
@given(deals(), st.data())
def test_a_chunk_is_fetched_once_for_each_lane_that_it_lies_in(
    case: tuple[Deal, np.ndarray], data: st.DataObject
) -> None:
    """Whatever the ranks and workers, an epoch fetches at most one chunk a lane more than there are; going on from a
    batch, at most those again that the windows had."""
    deal, sizes = case
    ranks = data.draw(st.sampled_from([r for r in (1, 2, 3, 4, 6) if deal.lanes % r == 0]))
    workers = data.draw(st.sampled_from([w for w in (1, 2, 3, 4, 6) if deal.groups % w == 0]))
    start = data.draw(st.integers(0, deal.batches))
    fetches = []
    for rank in range(ranks):
        for worker in range(workers):
            made = carry_out(order.training([Leg(deal, start)], sizes, 7, 0, Part(rank, ranks, worker, workers)))
            fetches += made.fetches
    assert len(fetches) <= len(sizes) + deal.groups * deal.lanes
    assert sum(count for _, _, count in fetches) == (deal.batches - start) * deal.batch


@SETTINGS
@given(st.integers(1, 9), st.integers(1, 30), st.integers(1, 6), st.integers(1, 6))
def test_no_row_is_further_than_the_window_from_its_turn(chunk: int, chunks: int, window: int, share: int) -> None:
    sizes = np.full(chunks, chunk, np.int64)
    deal = Deal(chunk * chunks, chunk, min(share, chunk * chunks), 1, 1, window)
    made = carry_out(order.training([Leg(deal)], sizes, 3, 0))
    at = np.argsort(chunk_order(chunks, 3, 0))
    shown = [at[c] * chunk + row for batch in made.rows for c, row in batch]
    assert np.abs(np.array(shown) - np.arange(len(shown))).max() < max(2, deal.span)


def test_fetches_come_evenly() -> None:
    """The chunks fetched over 16 batches, once windows are full, against their mean."""
    for deal, most in ((Deal(250_000, 64, 64, 1, 16, 4), 1.6), (Deal(1 << 18, 64, 64, 1, 16, 4), 3.0)):
        sizes = np.full(-(-deal.samples // 64), 64, np.int64)
        sizes[-1] = deal.samples - sizes[:-1].sum()
        made = carry_out(order.training([Leg(deal)], sizes, 0, 0))
        fetches = np.bincount([before for before, _, _ in made.fetches], minlength=deal.batches + 1)
        steady = fetches[deal.span // deal.share : -deal.span // deal.share]
        assert abs(steady.mean() - 1) < 0.05
        assert np.convolve(steady, np.ones(16), "valid").max() / 16 / steady.mean() < most


def alike(batches: np.ndarray, kind: np.ndarray) -> float:
    """Pairs of a batch that are of one kind, the mean over batches."""
    counts = [np.unique(row, return_counts=True)[1] for row in kind[batches]]
    return float(np.mean([(count * (count - 1)).sum() / 2 for count in counts]))


def test_a_batch_is_mixed_from_many_chunks() -> None:
    """Pairs of a batch from one chunk, of a set that is sorted by label: near a perfect permutation, and far from
    whole chunks in a random order."""
    sizes = np.full(2000, 64, np.int64)
    kind = np.arange(128_000) // 64

    def of(deal: Deal) -> float:
        return alike(np.stack(list(global_batches(deal, sizes, 1, 1).values())), kind)

    perfect = alike(np.random.default_rng(0).permutation(128_000).reshape(-1, 64), kind)
    ours, coarse = of(Deal(128_000, 64, 64, 1, 32, 16)), of(Deal(128_000, 64, 64, 1, 1, 1))
    assert perfect < ours < 4 * perfect
    assert coarse > 500 * perfect


def test_the_order_of_a_hundred_million_samples_is_small() -> None:
    """From the beginning, from the middle, and dealt anew there: no object a chunk, and little a lane."""
    sizes = np.full(400_000, 256, np.int32)
    deal = Deal(int(sizes.sum()), 256, 256, 4, 64, 16)
    half = Leg(deal, deal.batches // 2)
    anew = Leg(Deal(half.left, 256, 384, 3, 64, 16))
    job = Job(deal.samples, len(sizes), 256, 1, 384, 1, 3, 1 << 40, runs=half.pieces)
    for legs, workers in (([Leg(deal)], 4), ([half], 4), ([half, anew], 3)):
        tracemalloc.start()
        next(order.training(legs, sizes, 0, 0, Part(workers=workers)))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 40_000_000
        assert most < order_memory(legs[-1].deal, job) / workers


def test_the_order_is_fixed_for_ever() -> None:
    """A change here changes every user's runs: resuming and reproducing stop working across versions."""
    sizes = np.array([4, 4, 2, 4, 1], np.int64)
    assert carry_out(order.training([Leg(Deal(15, 4, 4, 1, 2, 2))], sizes, 5, 1)).ids(sizes) == FIXED_ROWS
    assert chunk_order(10, 5, 1).tolist() == FIXED_CHUNKS
    assert [order.Combinations(3, 5, 1).of(chunk) for chunk in range(8)] == FIXED_COMBINATIONS


FIXED_ROWS = [[14, 8, 5, 6], [9, 11, 4, 13], [10, 12, 0, 7]]
FIXED_CHUNKS = [4, 5, 2, 3, 1, 9, 8, 6, 7, 0]
FIXED_COMBINATIONS = [0, 0, 2, 1, 2, 1, 1, 0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_combinations_are_drawn_without_replacement(count: int) -> None:
    drawn = [order.Combinations(count, 9, e) for e in range(4 * count)]
    shown = np.array([[epoch.of(c) for c in range(50)] for epoch in drawn])
    expected = np.stack([reference_order.combinations(600, count, 9, e) for e in range(4 * count)])
    assert [[epoch.of(c) for c in (599, 256, 255)] for epoch in drawn] == expected[:, [599, 256, 255]].tolist()
    expected = expected[:, :50]
    assert np.array_equal(shown, expected)
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
    made = list(order.training([Leg(deal)], sizes, 0, 0, Part(worker=1, workers=4)))
    assert sum(len(stretch.batches) for stretch in made) == 1000


@pytest.mark.parametrize(
    ("chunks", "deal", "ranks", "workers"),
    [
        (4000, Deal(4000 * 256, 256, 256, 2, 64, 16), 1, 2),
        (20000, Deal(20000 * 16, 16, 64, 4, 8, 16), 2, 2),
        (400, Deal(400 * 4096, 4096, 64, 1, 1, 16), 1, 1),
        (3000, Deal(3000 * 64, 64, 3000, 1, 1, 1), 1, 1),
        (100_000, Deal(100_000 * 8, 8, 8, 1, 1, 4), 1, 1),
    ],
)
def test_the_order_takes_the_memory_that_is_stated(chunks: int, deal: Deal, ranks: int, workers: int) -> None:
    """At the epoch's begin and from there on: it does not grow with the samples that are still to come."""
    job = Job(deal.samples, chunks, deal.chunk, 100, deal.batch // ranks, ranks, workers, 1 << 40)
    small = Deal(100, 5, 10, 1, 2, 2)
    list(order.training([Leg(small)], np.full(20, 5, np.int32), 0, 0))  # what is imported and kept once
    tracemalloc.start()
    sizes = np.full(chunks, deal.chunk, np.int32)
    np.empty(deal.lane_places * deal.groups * deal.lanes // ranks // workers, np.int32)
    laid: deque[order.Stretch] = deque()
    for stretch in islice(order.training([Leg(deal)], sizes, 0, 0, Part(0, ranks, 0, workers)), 30):
        laid.append(stretch)
        if sum(len(ahead.chunk) for ahead in laid) - len(laid[0].chunk) > READ_AHEAD + 1:
            laid.popleft()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    stated = order_memory(deal, job) / workers
    assert stated / 4 < most < stated


def test_the_order_of_a_large_set_fits_small_memory() -> None:
    """200 million samples, which took 6.6 GB as a whole."""
    job = Job(200_000_000, 200_000_000 // 256, 256, 1, 256, 1, 4, 1 << 40)
    assert order_memory(Deal(200_000_000, 256, 256, 4, 64, 16), job) < 200_000_000
    assert evaluation_memory(job) < 150_000_000
