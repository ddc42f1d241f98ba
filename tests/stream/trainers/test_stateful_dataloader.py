"""torchdata's StatefulDataLoader over a FeatureDataset."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from fmshards.errors import InputError, MismatchError
from fmshards.stream import FeatureDataset
from tests.sets import BuiltSet

pytestmark = pytest.mark.filterwarnings("ignore:.*parts of a cell", "ignore:.*set_vital", "ignore:This DataLoader will")


def made(built: BuiltSet, workers: int, **options: Any) -> StatefulDataLoader[Any]:
    data = FeatureDataset(built.url, batch_size=8, seed=3, **options)
    return StatefulDataLoader(data, batch_size=None, num_workers=workers)


def same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    return [b["__key__"] for b in left] == [b["__key__"] for b in right] and all(
        torch.equal(a[name], b[name]) for a, b in zip(left, right, strict=True) for name in ("layer2", "theta")
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("train", [True, False])
def test_it_goes_on_from_every_step(flipped: BuiltSet, workers: int, train: bool) -> None:
    whole = list(made(flipped, workers, train=train))
    for stop in range(1, len(whole) + 1, 1 if workers == 0 else 4):
        before = made(flipped, workers, train=train)
        batches = iter(before)
        for _ in range(stop):
            next(batches)
        state = before.state_dict()
        del batches
        after = made(flipped, workers, train=train)
        after.load_state_dict(state)
        assert same(list(after), whole[stop:])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_epoch_follows(flipped: BuiltSet, workers: int) -> None:
    unstopped = made(flipped, workers)
    first, second = list(unstopped), list(unstopped)
    assert not same(first, second)
    before = made(flipped, workers)
    for _ in zip(range(3), before, strict=False):
        state = before.state_dict()
    after = made(flipped, workers)
    after.load_state_dict(state)
    assert same(list(after), first[3:])
    assert same(list(after), second)


def test_what_the_data_set_says_goes_on_with_other_workers(flipped: BuiltSet) -> None:
    data = FeatureDataset(flipped.url, batch_size=8, seed=3)
    batches = StatefulDataLoader(data, batch_size=None, num_workers=2)
    before = [batch for _, batch in zip(range(3), batches, strict=False)]
    state = data.state_dict(3)
    other = FeatureDataset(flipped.url, batch_size=8, seed=3)
    other.load_state_dict(state, workers=3)
    after = list(StatefulDataLoader(other, batch_size=None, num_workers=3))
    keys = [key for batch in [*before, *after] for key in batch["__key__"]]
    assert len(set(keys)) == len(keys) == 72


def test_a_count_is_not_forgotten_by_others(flipped: BuiltSet) -> None:
    data = FeatureDataset(flipped.url, batch_size=8)
    with pytest.raises(InputError, match="batches"):
        data.state_dict()
    with pytest.raises(InputError, match="expected what state_dict gave"):
        data.load_state_dict({})


def test_another_worker_is_refused(flipped: BuiltSet) -> None:
    data = FeatureDataset(flipped.url, batch_size=8)
    own = iter(data)
    state = own.state_dict()
    with pytest.raises(MismatchError, match=r"worker 0 of 2, this is worker 0 of 0"):
        iter(data).load_state_dict({**state, "workers": 2})
    next(own)
    with pytest.raises(InputError, match="before the first batch"):
        own.load_state_dict(state)
