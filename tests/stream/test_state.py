"""What a state says, how an epoch goes on from it, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmshards.errors import InputError, MismatchError
from fmshards.stream import FeatureDataset, loader, order
from fmshards.stream.course.epoch import MOST_DEALS, Position
from fmshards.stream.course.state import Subject, go_on, legs_of, position_after, position_of, state_of
from fmshards.stream.order import Part
from fmshards.stream.order.deal import Job, choose_deal, memory_needed
from tests.sets import BuiltSet, build_set
from tests.stream.helpers import carry_out

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FREE = (None, None, None)


def job_of(samples: int, sizes: np.ndarray, batch_size: int, ranks: int, workers: int, memory: int = 1 << 40) -> Job:
    return Job(samples, len(sizes), int(sizes.max()), 5000, batch_size, ranks, workers, memory)


@SETTINGS
@given(st.integers(1, 9), st.integers(20, 300), st.data())
def test_an_epoch_that_is_stopped_again_and_again_shows_each_sample_once(
    chunk: int, samples: int, data: st.DataObject
) -> None:
    """With ranks, workers and batches that change at each stop; all ranks have as many batches, of one size."""
    sizes = np.array([min(chunk, samples - at) for at in range(0, samples, chunk)], np.int32)
    subject = Subject("set", samples, int(sizes.max()), True, 5)
    state, seen = state_of(subject, Position(2)), []
    for _ in range(data.draw(st.integers(1, 5))):
        ranks, workers = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 3))
        job = job_of(samples, sizes, data.draw(st.integers(1, 5)), ranks, workers)
        position = position_of(json.loads(json.dumps(state)), subject)
        legs = go_on(legs_of(position, subject), job, FREE)
        deal, done = legs[-1].deal, legs[-1].done
        left = deal.batches - done
        stop = data.draw(st.integers(0, left))
        parts: list[list[int]] = [[] for _ in range(left)]
        for rank in range(ranks):
            for worker in range(max(workers, 1)):
                made = carry_out(order.training(legs, sizes, 5, 2, Part(rank, ranks, worker, max(workers, 1))))
                for number, rows in zip(made.batches, made.ids(sizes), strict=True):
                    assert len(rows) == job.batch_size
                    parts[number - done] += rows
        assert all(len(part) == job.batch for part in parts)
        seen += [sample for part in parts[:stop] for sample in part]
        state = state_of(subject, position_after(2, legs, stop))
        rest = [sample for part in parts[stop:] for sample in part]
        assert len({*seen, *rest}) == len(seen) + len(rest)
        assert samples - len(seen) - len(rest) < job.batch
    assert len(json.dumps(state)) < 1000


@SETTINGS
@given(st.integers(1, 12), st.data())
def test_an_evaluation_goes_on_from_any_sample(chunk: int, data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, 100))
    sizes = np.array([min(chunk, samples - at) for at in range(0, samples, chunk)], np.int32)
    done, ranks, width = data.draw(st.integers(0, samples)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 7))
    workers = data.draw(st.integers(1, 3))
    seen: dict[tuple[int, int], list[int]] = {}
    for rank in range(ranks):
        for worker in range(workers):
            part = Part(rank, ranks, worker, workers)
            made = carry_out(order.evaluation(sizes, ranks * width, part, done))
            assert made.places <= order.evaluation_places(int(sizes.max()), width)
            for number, ids, valid in zip(made.batches, made.ids(sizes), made.valid, strict=True):
                seen[number, rank] = [i for i, ok in zip(ids, valid, strict=True) if ok]
                assert ranks == 1 or len(ids) == width
    total = -(-(samples - done) // (ranks * width))
    assert sorted(seen) == [(t, r) for t in range(total) for r in range(ranks)]
    assert [i for key in sorted(seen) for i in seen[key]] == list(range(done, samples))


def test_the_last_deal_is_continued_where_it_can_be() -> None:
    sizes = np.full(64, 4, np.int32)
    subject = Subject("set", 256, 4, True, 0)
    first = choose_deal(job_of(256, sizes, 4, 2, 2), lanes=4)
    legs = legs_of(position_after(0, go_on((), job_of(256, sizes, 4, 2, 2), (None, 4, None)), 5), subject)
    assert (first.groups, first.lanes) == (2, 4)

    def same(batch_size: int, ranks: int, workers: int, shape: Any = FREE, memory: int = 1 << 40) -> bool:
        gone_on = go_on(legs, job_of(256, sizes, batch_size, ranks, workers, memory), shape)
        assert gone_on == legs or (gone_on[:-1] == legs and gone_on[-1].deal.samples == 256 - 40)
        return gone_on == legs

    assert same(4, 2, 2)
    assert same(2, 4, 1)
    assert same(8, 1, 0)
    assert same(4, 2, 2, (2, 4, first.window))
    assert not same(4, 2, 2, (4, None, None))
    assert not same(4, 2, 2, (None, None, first.window + 1))
    assert not same(5, 2, 2)
    assert not same(4, 2, 3)
    assert not same(1, 8, 2)  # eight ranks do not divide four lanes
    needed = memory_needed(first, job_of(256, sizes, 4, 2, 2))
    assert same(4, 2, 2, memory=needed)
    assert not same(4, 2, 2, memory=needed - 1)


def test_a_deal_of_which_nothing_was_shown_is_forgotten() -> None:
    sizes = np.full(64, 4, np.int32)
    job = job_of(256, sizes, 4, 1, 0)
    legs = go_on((), job, FREE)
    assert go_on(legs, replace(job, batch_size=8), FREE) == go_on((), replace(job, batch_size=8), FREE)
    legs = go_on(legs_of(position_after(0, legs, 3), Subject("", 256, 4, True, 0)), replace(job, batch_size=8), FREE)
    assert len(legs) == 2
    again = go_on(legs, replace(job, batch_size=5), FREE)
    assert [leg.deal.batch for leg in again] == [4, 5]


def test_what_is_left_and_makes_no_batch_makes_none() -> None:
    sizes = np.full(4, 4, np.int32)
    legs = go_on((), job_of(16, sizes, 5, 1, 0), FREE)
    legs = legs_of(position_after(0, legs, 3), Subject("", 16, 4, True, 0))
    rest = go_on(legs, job_of(16, sizes, 4, 1, 2), FREE)
    assert rest[-1].deal.batches == 0
    assert list(order.training(rest, sizes, 0, 0)) == []
    assert go_on(rest, job_of(16, sizes, 1, 1, 0), FREE)[-1].deal.batches == 1


def test_an_epoch_is_dealt_anew_as_often_as_is_remembered() -> None:
    sizes = np.full(100, 4, np.int32)
    subject, legs = Subject("", 400, 4, True, 0), ()
    for number in range(MOST_DEALS):
        job = job_of(400, sizes, 1 + number % 2, 1, 0)
        position = position_after(0, go_on(legs, job, FREE), 1)
        legs = legs_of(position_of(state_of(subject, position), subject), subject)
        assert len(legs) == number + 1
    assert go_on(legs, job, FREE) == legs
    with pytest.raises(InputError, match="dealt anew 63 times"):
        go_on(legs, replace(job, batch_size=3), FREE)


def state_of_training(built: BuiltSet, **changes: Any) -> dict[str, Any]:
    load = loader(built.url, 8, num_workers=0, seed=3)
    batches = iter(load)
    next(batches)
    return {**load.state_dict(), **changes}


def test_a_state_is_small_and_plain(plain: BuiltSet) -> None:
    state = state_of_training(plain)
    assert json.loads(json.dumps(state)) == state
    assert list(state) == ["kind", "version", "set", "samples", "train", "seed", "epoch", "deals"]
    assert (state["samples"], state["seed"], state["epoch"]) == (73, 3, 0)
    assert [len(deal) for deal in state["deals"]] == [5]
    assert state["deals"][0][0] == 8
    assert state["deals"][0][-1] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "another"}, "expected what state_dict gave"),
        ({"version": 2}, "version 2, and this fmshards reads version 1"),
        ({"epoch": -1}, "epoch of the state is a whole number from 0 on, found -1"),
        ({"epoch": None}, "epoch of the state is a whole number"),
        ({"deals": None}, "deals are a list"),
        ({"deals": [[8, 1, 1, 1, 0]] * 65}, "a list of at most 64"),
        ({"deals": [[8, 1, 1, 1]]}, r"deal 0 of the state is \[B, G, K, M, t\]"),
        ({"deals": [[8, 1, 1, True, 1]]}, "deal 0 of the state is a whole number from 1 on, found True"),
        ({"deals": [[1 << 70, 1, 1, 1, 0]]}, "numbers that no deal has"),
        ({"deals": [[8, 1 << 30, 1, 1, 1]]}, "numbers that no deal has"),
        ({"epoch": 1 << 70}, "an epoch is a number"),
        ({"deals": [[8, 0, 1, 1, 1]]}, "deal 0 of the state is a whole number from 1 on, found 0"),
        ({"deals": [[8, 1, 3, 1, 1]]}, "cannot be one of the 73 samples"),
        ({"deals": [[8, 1, 1, 1, 10]]}, "cannot be one of the 73 samples"),
        ({"deals": [[8, 1, 1, 1, 9], [2, 1, 1, 1, 1]]}, "cannot be one of the 1 samples"),
        ({"deals": [[8, 1, 1, 1, 0], [2, 1, 1, 1, 1]]}, "deal number 1"),
    ],
)
def test_what_is_no_state_is_refused(plain: BuiltSet, changes: dict[str, Any], message: str) -> None:
    load = loader(plain.url, 8, num_workers=0, seed=3)
    with pytest.raises(InputError, match=message):
        load.load_state_dict(state_of_training(plain, **changes))
    assert len(list(load)) == 9


@pytest.mark.parametrize("state", [None, 3, [], {}, {"epoch": 3}, "fmshards stream"])
def test_what_is_nothing_of_ours_is_refused(plain: BuiltSet, state: Any) -> None:
    for each in (loader(plain.url, 8, num_workers=0), FeatureDataset(plain.url, batch_size=8)):
        with pytest.raises(InputError, match="expected what state_dict gave"):
            each.load_state_dict(state)


def test_a_state_of_another_stream_is_refused(plain: BuiltSet, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = build_set(tmp_path_factory.mktemp("other") / "set", samples=(20, 20))
    state = state_of_training(plain)
    with pytest.raises(MismatchError, match=r"set: '\w+' here, '\w+' in the state; samples: 40 here, 73 in the state"):
        loader(other.url, 8, num_workers=0, seed=3).load_state_dict(state)
    with pytest.raises(MismatchError, match=r"\(seed: 4 here, 3 in the state\)"):
        loader(plain.url, 8, num_workers=0, seed=4).load_state_dict(state)
    with pytest.raises(MismatchError, match=r"\(train: False here, True in the state\)"):
        loader(plain.url, 8, num_workers=0, train=False).load_state_dict(state)
    evaluation = loader(plain.url, 8, num_workers=0, train=False).state_dict()
    with pytest.raises(MismatchError, match="train: True here, False in the state"):
        loader(plain.url, 8, num_workers=0).load_state_dict(evaluation)
    with pytest.raises(InputError, match="rows=74 of the set's 73 samples"):
        loader(plain.url, 8, num_workers=0, train=False).load_state_dict({**evaluation, "rows": 74})


def test_batches_that_cannot_have_been_are_refused(plain: BuiltSet) -> None:
    data = FeatureDataset(plain.url, batch_size=8)
    assert data.state_dict(0)["deals"] == []
    with pytest.raises(InputError, match="no iteration has begun"):
        data.state_dict(1)
    next(iter(data))
    assert data.state_dict(9)["deals"][0][-1] == 9
    with pytest.raises(InputError, match="batches=10: the iteration that began last has 9 batches"):
        data.state_dict(10)
    for wrong in (-1, 1.5, None, "3"):
        with pytest.raises(InputError, match="batches is a whole number"):
            data.state_dict(wrong)  # type: ignore[arg-type]  # the point of the test
    data.set_epoch(1)
    with pytest.raises(InputError, match="no iteration has begun since set_epoch"):
        data.state_dict(1)
    assert (data.state_dict(0)["epoch"], data.state_dict(0)["deals"]) == (1, [])
