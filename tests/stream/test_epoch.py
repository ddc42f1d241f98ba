"""One epoch number for all workers of an iteration, advancing once for each, however workers come and go."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fmshards.errors import InputError
from fmshards.stream.course.epoch import EpochCounter, Position


class Numbers(IterableDataset[tuple[int, int]]):
    """Yields (epoch, worker) a few times: as a data set with a counter does, it begins when it is iterated."""

    def __init__(self, length: int = 4) -> None:
        self.epochs = EpochCounter()
        self.length = length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        info = get_worker_info()
        return self.items(self.epochs.begin().epoch, 0 if info is None else info.id)

    def items(self, epoch: int, worker: int) -> Iterator[tuple[int, int]]:
        for _ in range(self.length):
            yield epoch, worker


def loader(data: Numbers, workers: int, method: str | None = None, persistent: bool = False) -> DataLoader:
    return DataLoader(
        data,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=method if workers else None,
        persistent_workers=persistent,
        prefetch_factor=1 if workers else None,
    )


pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def epoch_of(load: DataLoader, workers: int) -> int:
    items = list(load)
    assert {worker for _, worker in items} == set(range(max(workers, 1)))
    epochs = {epoch for epoch, _ in items}
    assert len(epochs) == 1
    return epochs.pop()


WAYS = [
    (0, None, False),
    (2, "fork", False),
    (3, "fork", True),
    pytest.param(2, "spawn", False, marks=pytest.mark.slow),
    pytest.param(2, "spawn", True, marks=pytest.mark.slow),
    pytest.param(2, "forkserver", True, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("workers", "method", "persistent"), WAYS)
def test_epochs_advance_once_and_can_be_set(workers: int, method: str | None, persistent: bool) -> None:
    data = Numbers()
    load = loader(data, workers, method, persistent)
    assert [epoch_of(load, workers) for _ in range(3)] == [0, 1, 2]
    data.epochs.set(Position(10))
    assert [epoch_of(load, workers) for _ in range(2)] == [10, 11]
    data.epochs.set(Position(0))
    assert epoch_of(load, workers) == 0
    assert data.epochs.next.epoch == 1


@pytest.mark.parametrize("persistent", [False, True])
def test_torch_seeded_alike_before_each_epoch(persistent: bool) -> None:
    load = loader(Numbers(), 2, "fork", persistent)
    for epoch in range(3):
        torch.manual_seed(0)
        assert epoch_of(load, 2) == epoch


@pytest.mark.parametrize("persistent", [False, True])
def test_an_iteration_left_half_way(persistent: bool) -> None:
    load = loader(Numbers(50), 2, "fork", persistent)
    for epoch in range(4):
        if epoch % 2:
            assert epoch_of(load, 2) == epoch
        else:
            iterator = iter(load)
            assert next(iterator)[0] == epoch
            del iterator


def test_two_iterations_at_once() -> None:
    data = Numbers(6)
    load = loader(data, 2, "fork")
    pairs = list(zip(load, load, strict=True))
    assert {first[0] for first, _ in pairs} == {0}
    assert {second[0] for _, second in pairs} == {1}


class Late(Numbers):
    """Its second worker begins long after the first."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        info = get_worker_info()
        if info is not None and info.id == 1:
            torch.multiprocessing.get_context().Event().wait(0.4)
        return super().__iter__()


def test_a_late_worker_joins_its_own_iteration() -> None:
    data = Late(3)
    load = loader(data, 2, "fork")
    first = iter(load)
    assert tuple(next(first)) == (0, 0)
    second = iter(load)
    assert tuple(next(second)) == (1, 0)
    data.epochs.set(Position(7))
    assert {tuple(item) for item in first} == {(0, 0), (0, 1)}
    assert {tuple(item) for item in second} == {(1, 0), (1, 1)}
    assert epoch_of(load, 2) == 7


def test_copies_count_for_themselves() -> None:
    counter = EpochCounter(3)
    others = [pickle.loads(pickle.dumps(counter)), copy.deepcopy(counter)]
    counter.begin()
    assert [other.next.epoch for other in others] == [3, 3]
    assert others[0].begin().epoch == 3
    assert counter.next.epoch == 4


@pytest.mark.parametrize("epoch", [-1, 1.5, "3", True])
def test_what_is_no_epoch_is_refused(epoch: object) -> None:
    with pytest.raises(InputError, match="number from 0 on"):
        EpochCounter().set(Position(epoch))  # type: ignore[arg-type]  # the point of the test
