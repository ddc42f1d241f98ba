"""Stop and go on, through real DataLoaders: the same batches where ranks and workers divide, else each sample once."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterable
from itertools import islice
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from fmshards.stream import FeatureDataset, FeatureLoader, loader
from tests.sets import BuiltSet

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*parts of a cell")

ORDER = {"groups": 2, "lanes": 4, "window": 2}


def bytes_of(batch: dict[str, Any]) -> bytes:
    """All that a batch holds, thetas too."""
    return pickle.dumps([(n, v.numpy().tobytes() if isinstance(v, torch.Tensor) else v) for n, v in batch.items()])


def read(batches: Iterable[dict[str, Any]], most: int | None = None) -> list[bytes]:
    return [bytes_of(batch) for batch in islice(batches, most)]


def keys(batches: Iterable[dict[str, Any]], most: int | None = None) -> list[str]:
    return [key for batch in islice(batches, most) for key in batch["__key__"]]


def saved(load: FeatureLoader) -> dict[str, Any]:
    return json.loads(json.dumps(load.state_dict()))


def resumed(url: str, state: dict[str, Any], batch_size: int = 8, **options: Any) -> FeatureLoader:
    load = loader(url, batch_size, **{"num_workers": 0, "seed": 3, **options})
    load.load_state_dict(state)
    return load


@pytest.fixture(scope="module")
def epochs(flipped: BuiltSet) -> list[list[bytes]]:
    load = loader(flipped.url, 8, num_workers=0, seed=3, **ORDER)
    return [read(load) for _ in range(3)]


def test_every_step_of_an_epoch(flipped: BuiltSet, epochs: list[list[bytes]]) -> None:
    """From the first batch to just after the last, and the epochs that follow; with and without workers."""
    for workers in (0, 2):
        load = loader(flipped.url, 8, num_workers=workers, seed=3, **ORDER)
        states = [saved(load)]
        for number, batch in enumerate(load):
            assert bytes_of(batch) == epochs[0][number]
            states.append(saved(load))
        states.append(saved(load))
        assert len(states) == 11
        assert states[10] == {**states[0], "epoch": 1}
        again = loader(flipped.url, 8, num_workers=0, seed=3, **ORDER)
        for number, state in enumerate(states):
            again.load_state_dict(state)
            expected = epochs[0][number:] if number < 10 else epochs[1]
            assert read(again) == expected
            assert read(again, 2) == epochs[1 if number < 10 else 2][:2]
            assert len(again) == 9


@pytest.mark.parametrize(
    ("method", "persistent"),
    [
        ("fork", False),
        ("fork", True),
        pytest.param("spawn", True, marks=pytest.mark.slow),
    ],
)
def test_workers_that_run_already_go_on_from_a_state(
    flipped: BuiltSet, epochs: list[list[bytes]], method: str, persistent: bool
) -> None:
    """And those that have made batches ahead, which no one was handed."""
    options = {"multiprocessing_context": method, "persistent_workers": persistent, "prefetch_factor": 3}
    load = loader(flipped.url, 8, num_workers=2, seed=3, **ORDER, **options)
    assert read(load) == epochs[0]
    batches = iter(load)
    assert read(batches, 4) == epochs[1][:4]
    state = saved(load)
    load.load_state_dict(state)
    assert saved(load) == state
    # The iteration in course goes on as it was, and what it hands out does not count.
    if not persistent:
        assert read(batches, 2) == epochs[1][4:6]
    assert saved(load) == state
    del batches
    assert read(load) == epochs[1][4:]
    assert load.epoch == 2
    load.load_state_dict(state)
    load.set_epoch(1)
    for batch in load:
        assert bytes_of(batch) == epochs[1][4]
        break
    assert saved(load)["deals"][0][-1] == 5
    load.load_state_dict(saved(load))
    assert [read(load), read(load)] == [epochs[1][5:], epochs[2]]


@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (4, 1), (1, 2), (2, 2)])
def test_other_ranks_and_workers_that_divide(
    flipped: BuiltSet, epochs: list[list[bytes]], ranks: int, workers: int
) -> None:
    """Keys, features and thetas are those that would have come, though nothing but the set and the seed is given."""
    load = loader(flipped.url, 8, num_workers=0, seed=3, **ORDER)
    whole = list(load)
    load.set_epoch(0)
    list(islice(load, 3))
    options = {"num_workers": workers, "ranks": ranks}
    parts = [list(resumed(flipped.url, saved(load), 8 // ranks, rank=r, **options)) for r in range(ranks)]
    assert {len(part) for part in parts} == {6}
    for number, batch in enumerate(whole[3:]):
        for name, value in batch.items():
            values = [part[number][name] for part in parts]
            if isinstance(value, torch.Tensor):
                assert torch.equal(torch.cat(values), value)
            else:
                assert [each for part in values for each in part] == value


@pytest.mark.parametrize("workers", [0, 2])
def test_three_stops_with_another_topology_each_time(flipped: BuiltSet, workers: int) -> None:
    """Each sample once, as its feature is in this epoch, but for fewer than a batch; ranks have as many batches."""
    first = loader(flipped.url, 8, num_workers=workers, seed=3)
    augmented = {k: t.numpy().tobytes() for b in loader(flipped.url, 1, num_workers=0, seed=3) for k, t in samples(b)}
    seen = keys(first, 3)
    state = saved(first)
    for ranks, batch_size, count, stop in ((3, 2, workers, 2), (2, 5, 0, 1), (1, 3, workers // 2, None)):
        loads = [resumed(flipped.url, state, batch_size, rank=r, ranks=ranks, num_workers=count) for r in range(ranks)]
        parts = [list(islice(load, stop)) for load in loads]
        assert len({len(part) for part in parts}) == 1
        states = [saved(load) for load in loads]
        assert all(each == states[0] for each in states)
        state = states[0]
        seen += keys(batch for part in parts for batch in part)
        for part in parts:
            for batch in part:
                assert all(augmented[k] == t.numpy().tobytes() for k, t in samples(batch))
    assert len(state["deals"]) == 0
    assert state["epoch"] == 1
    assert len(seen) == len(set(seen)) > 70


def samples(batch: dict[str, Any]) -> Iterable[tuple[str, torch.Tensor]]:
    return zip(batch["__key__"], torch.cat([batch["layer2"].flatten(1), batch["theta"].flatten(1)], 1), strict=True)


@pytest.mark.parametrize(
    ("method", "persistent"),
    [
        ("fork", True),
        pytest.param("spawn", True, marks=pytest.mark.slow),
        pytest.param("spawn", False, marks=pytest.mark.slow),
        pytest.param("forkserver", True, marks=pytest.mark.slow),
    ],
)
def test_a_data_loader_that_knows_nothing_of_it(
    flipped: BuiltSet, epochs: list[list[bytes]], method: str, persistent: bool
) -> None:
    data = FeatureDataset(flipped.url, batch_size=8, seed=3, **ORDER)
    load = DataLoader(
        data, batch_size=None, num_workers=2, multiprocessing_context=method, persistent_workers=persistent
    )
    assert read(load, 4) == epochs[0][:4]
    state = data.state_dict(4)
    data.load_state_dict(state)
    assert data.state_dict(0) == state
    assert read(load) == epochs[0][4:]
    assert data.state_dict(5) == {**state, "deals": [[8, 2, 4, 2, 9]]}
    assert read(load) == epochs[1]
    data.load_state_dict(state)
    assert read(load, 2) == epochs[0][4:6]
    assert data.state_dict(2)["deals"] == [[8, 2, 4, 2, 6]]


def test_a_loader_knows_the_iteration_that_began_last(flipped: BuiltSet, epochs: list[list[bytes]]) -> None:
    load = loader(flipped.url, 8, num_workers=2, seed=3, persistent_workers=False, **ORDER)
    first = iter(load)
    assert read(first, 2) == epochs[0][:2]
    second = iter(load)
    assert (saved(load)["epoch"], saved(load)["deals"][0][-1]) == (1, 0)
    assert read(first) == epochs[0][2:]
    assert read(second, 1) == epochs[1][:1]
    assert (saved(load)["epoch"], saved(load)["deals"][0][-1]) == (1, 1)
    torch.manual_seed(0)
    read(load, 1)
    torch.manual_seed(0)
    assert read(load, 3) == read(loader(flipped.url, 8, num_workers=0, seed=3, epoch=3, **ORDER), 3)
    assert (saved(load)["epoch"], saved(load)["deals"][0][-1]) == (3, 3)


def test_another_epoch_gives_a_state_up_with_one_warning(flipped: BuiltSet, epochs: list[list[bytes]]) -> None:
    load = loader(flipped.url, 8, num_workers=0, seed=3, **ORDER)
    read(load, 3)
    load.load_state_dict(saved(load))
    load.set_epoch(0)
    with pytest.warns(UserWarning, match="the state that was loaded is of epoch 0"):
        load.set_epoch(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load.set_epoch(1)
    assert read(load) == epochs[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_goes_on_with_any_batch(flipped: BuiltSet, workers: int) -> None:
    load = loader(flipped.url, 8, num_workers=workers, train=False)
    seen = keys(load, 4)
    state = saved(load)
    assert state["rows"] == 32
    parts = [list(resumed(flipped.url, state, 5, rank=r, ranks=3, num_workers=workers, train=False)) for r in range(3)]
    assert {len(part) for part in parts} == {3}
    for together in zip(*parts, strict=True):
        seen += [k for b in together for k, ok in zip(b["__key__"], b["valid"].tolist(), strict=True) if ok]
    assert seen == flipped.keys
    again = resumed(flipped.url, state, 7, num_workers=workers, train=False)
    assert keys(again) == flipped.keys[32:]
    assert saved(again)["rows"] == 0
    assert keys(again) == flipped.keys
    assert again.epoch == 0


def test_what_fills_up_an_epoch_is_not_lost(plain: BuiltSet) -> None:
    """What the last deal would have dropped comes in smaller batches; of larger ones none is left."""
    load = loader(plain.url, 10, num_workers=0, seed=3)
    for _, batch in zip(range(7), load, strict=False):
        last = batch
    state = saved(load)
    assert keys(resumed(plain.url, state, 10)) == []
    assert len(set(keys(resumed(plain.url, state, 1)))) == 3
    larger = resumed(plain.url, state, 12)
    assert keys(larger) == []
    assert larger.epoch == 1
    assert len(list(larger)) == 6
    assert len(last["__key__"]) == 10
