"""Several sets in one loader, by weight."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmshards.errors import InputError, MismatchError
from fmshards.stream import FeatureMix, loader
from tests.sets import BuiltSet, build_set

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*parts of a cell", "ignore:This DataLoader will create", "ignore:.*each epoch leaves out"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> BuiltSet:
    """21 samples of the same layers as `flipped`, at other rates."""
    layers = {"layer2": "6", "layer3": "fp32"}
    path = tmp_path_factory.mktemp("sets") / "small"
    return build_set(path, layers=layers, recipe="flip+crop(pad=4, step=1)", samples=[13, 8])


def rows(batches: Any) -> list[list[tuple[int, str]]]:
    return [list(zip(b["source"].tolist(), b["__key__"], strict=True)) for b in batches]


def test_every_batch_has_its_shares_and_each_set_its_own_order(flipped: BuiltSet, small: BuiltSet) -> None:
    mixed = list(loader([(flipped.url, 0.7), (small.url, 0.3)], 10, num_workers=0, seed=5, fields=["cls"]))
    alone = [
        list(loader(url, size, num_workers=0, seed=5, fields=["cls"]))
        for url, size in ((flipped.url, 7), (small.url, 3))
    ]
    assert len(mixed) == len(alone[1]) == 7  # of 21 samples 3 a batch
    for batch, *parts in zip(mixed, *alone, strict=False):
        assert batch["source"].tolist() == [0] * 7 + [1] * 3
        assert batch["__key__"] == parts[0]["__key__"] + parts[1]["__key__"]
        for name in ("layer2", "layer3", "theta", "cls", "valid"):
            assert torch.equal(batch[name], torch.cat([part[name] for part in parts]))


def test_epochs_of_a_larger_set_show_other_samples(flipped: BuiltSet, small: BuiltSet) -> None:
    batches = loader([(flipped.url, 1), (small.url, 1)], 8, num_workers=0)
    seen = [{key for batch in rows(batches) for source, key in batch if not source} for _ in range(4)]
    assert all(len(keys) == len(batches) * 4 == 20 for keys in seen)
    assert len(set.union(*seen)) > 40


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_stopped_and_gone_on_with(flipped: BuiltSet, small: BuiltSet, data: st.DataObject) -> None:
    """Every sample at most once in an epoch, equally many batches on every rank, whatever changes at a stop."""
    sets = [(flipped.url, 2), (small.url, 1)]
    state: Any = None
    shown: Counter[tuple[int, str]] = Counter()
    done = 0
    for _ in range(data.draw(st.integers(1, 3))):
        ranks = data.draw(st.sampled_from([1, 2]))
        options = {"batch_size": data.draw(st.sampled_from([3, 6])), "num_workers": 0, "seed": 1, "ranks": ranks}
        loaders = [loader(sets, rank=rank, **options) for rank in range(ranks)]
        for each in loaders:
            if state is not None:
                each.load_state_dict(state)
        stop = data.draw(st.integers(0, len(loaders[0]) - done))
        done += stop
        parts = [[batch for _, batch in zip(range(stop), each, strict=False)] for each in loaders]
        assert len({len(part) for part in parts}) == 1
        for part in parts:
            shown.update(row for batch in rows(part) for row in batch)
        states = [each.state_dict() for each in loaders]
        assert states[0] == states[-1]
        state = states[0]
    assert not shown or max(shown.values()) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_the_rest_is_what_would_have_come(flipped: BuiltSet, small: BuiltSet, workers: int) -> None:
    sets = [(flipped.url, 2), (small.url, 1)]

    def made() -> Any:
        return loader(sets, 6, num_workers=workers, seed=2, groups=2)

    whole, after = made(), made()
    first, second = list(whole), list(whole)
    before = made()
    for _ in zip(range(4), before, strict=False):
        state = before.state_dict()
    after.load_state_dict(state)
    for batches, wanted in ((list(after), first[4:]), (list(after), second)):
        assert rows(batches) == rows(wanted)
        assert all(torch.equal(a["layer3"], b["layer3"]) for a, b in zip(batches, wanted, strict=True))


def test_counters_are_those_of_all_sets(flipped: BuiltSet, small: BuiltSet) -> None:
    batches = loader([(flipped.url, 1), (small.url, 1)], 8, num_workers=0)
    made = len(list(batches))
    assert (batches.stats()["batches"], batches.stats()["samples"]) == (made, 8 * made)


def test_memory_is_shared_out(flipped: BuiltSet, small: BuiltSet) -> None:
    mix = FeatureMix([(flipped.url, 3), (small.url, 1)], batch_size=8, memory="64MB")
    assert mix.shares == [6, 2]
    assert sum(each.memory for each in mix.sets) <= 64_000_000
    assert mix.memory_needed() <= 64_000_000


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([], r"\[\(url, weight\), ...\] for several, found none"),
        (3, "found int"),
        ([("a", 1), "b"], "number 1 is 'b'"),
        ([("a", 0)], "a: a weight is a number above 0, found 0"),
        ([("a", float("nan"))], "found nan"),
        ([("a", True)], "found True"),
        ([("a", 1), ("a", 2)], "a is named twice"),
        ([("a", 1), ("b", 0.01)], r"batch_size=8 leaves no sample for b.*a batch_size of 101 would"),
    ],
)
def test_what_is_no_mix(sets: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loader(sets, 8)


def test_what_a_mix_does_not_do(flipped: BuiltSet, small: BuiltSet, plain: BuiltSet, tmp_path: Path) -> None:
    sets = [(flipped.url, 1), (small.url, 1)]
    with pytest.raises(InputError, match="train=False: a mix is for training"):
        loader(sets, 8, train=False)
    with pytest.raises(InputError, match="decode=False"):
        loader(sets, 8, decode=False)
    with pytest.raises(MismatchError, match="differ in layers"):
        loader([(flipped.url, 1), (plain.url, 1)], 8)
    other = build_set(tmp_path / "other", layers={"layer2": "fp32", "layer3": "8"}, prefix="1" * 64)
    with pytest.raises(MismatchError, match="differ in the prefix"):
        loader([(flipped.url, 1), (other.url, 1)], 8)


def test_other_states_are_refused(flipped: BuiltSet, small: BuiltSet) -> None:
    mix = loader([(flipped.url, 1), (small.url, 1)], 8, num_workers=0)
    one = loader(flipped.url, 8, num_workers=0)
    with pytest.raises(InputError, match="expected what the state_dict of a loader over several sets gave"):
        mix.load_state_dict(one.state_dict())
    with pytest.raises(InputError, match="expected what state_dict gave"):
        one.load_state_dict(mix.state_dict())
    turned = mix.state_dict()
    turned["sets"] = turned["sets"][::-1]
    with pytest.raises(MismatchError, match="another stream"):
        mix.load_state_dict(turned)
    with pytest.raises(MismatchError, match="a mix of 1 sets, this one has 2"):
        mix.load_state_dict({**turned, "sets": turned["sets"][:1]})
    assert len(list(mix)) == len(mix)
