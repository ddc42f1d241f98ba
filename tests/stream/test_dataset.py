"""FeatureDataset through real DataLoaders: which samples come, when, with what beside them."""

from __future__ import annotations

import functools
import operator
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fmshards.errors import FormatError, InputError
from fmshards.stream import FeatureDataset, loader
from fmshards.stream.window import Window
from tests.sets import BuiltSet, build_set
from tests.stream.helpers import error_of

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

# Fixed, so that batches do not depend on ranks, workers or memory.
ORDER = {"groups": 6, "lanes": 4, "window": 2}


def read(data: FeatureDataset, workers: int = 0) -> list[dict]:
    batches = list(DataLoader(data, batch_size=None, num_workers=workers))
    assert len(batches) == len(data)
    return batches


def keys(batches: list[dict]) -> list[list[str]]:
    return [batch["__key__"] for batch in batches]


@pytest.fixture(scope="module")
def one_process(plain: BuiltSet) -> list[dict]:
    return read(FeatureDataset(plain.url, batch_size=8, seed=3, **ORDER))


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_global_batches_are_the_same(plain: BuiltSet, one_process: list[dict], ranks: int, workers: int) -> None:
    parts = []
    for rank in range(ranks):
        data = FeatureDataset(plain.url, batch_size=8 // ranks, seed=3, rank=rank, ranks=ranks, **ORDER)
        parts.append(read(data, workers))
    for number, whole in enumerate(one_process):
        together = [part[number] for part in parts]
        assert [key for part in together for key in part["__key__"]] == whole["__key__"]
        assert torch.equal(torch.cat([part["layer2"] for part in together]), whole["layer2"])
        assert torch.equal(torch.cat([part["cls"] for part in together]), whole["cls"])


def test_an_epoch_shows_each_sample_once_with_its_own_feature(plain: BuiltSet) -> None:
    batches = read(FeatureDataset(plain.url, batch_size=8, seed=1))
    seen = [key for batch in batches for key in batch["__key__"]]
    assert len(seen) == len(set(seen)) == 72
    for batch in batches:
        rows = [plain.keys.index(key) for key in batch["__key__"]]
        assert batch["layer2"].dtype == torch.float32
        assert np.array_equal(batch["layer2"].numpy(), plain.features["layer2"]["base"][rows])
        assert batch["cls"].dtype == torch.int64
        assert batch["cls"].tolist() == [plain.classes[row] for row in rows]
        assert batch["valid"].all()
        assert not batch["view"].any()
        assert not batch["mirrored"].any()
        assert torch.equal(batch["theta"], torch.eye(2, 3).expand(8, 2, 3))


def test_epochs_differ_and_repeat_by_number(plain: BuiltSet) -> None:
    data = FeatureDataset(plain.url, batch_size=8)
    first, second = keys(read(data)), keys(read(data))
    assert first != second
    assert data.epoch == 2
    data.set_epoch(0)
    assert keys(read(data)) == first
    again = FeatureDataset(plain.url, batch_size=8, epoch=1)
    assert keys(read(again)) == second
    assert keys(read(FeatureDataset(plain.url, batch_size=8, seed=1))) != first


@pytest.mark.parametrize(
    ("method", "persistent"),
    [
        ("fork", False),
        ("fork", True),
        pytest.param("spawn", True, marks=pytest.mark.slow),
        pytest.param("spawn", False, marks=pytest.mark.slow),
    ],
)
def test_set_epoch_reaches_workers(plain: BuiltSet, method: str, persistent: bool) -> None:
    expected = [keys(read(FeatureDataset(plain.url, batch_size=8, epoch=e, groups=2))) for e in range(6)]
    data = FeatureDataset(plain.url, batch_size=8, groups=2)
    load = DataLoader(
        data, batch_size=None, num_workers=2, multiprocessing_context=method, persistent_workers=persistent
    )
    assert keys(list(load)) == expected[0]
    assert keys(list(load)) == expected[1]
    data.set_epoch(5)
    assert keys(list(load)) == expected[5]
    data.set_epoch(3)
    assert [keys(list(load)) for _ in range(2)] == expected[3:5]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_the_stored_order_once(flipped: BuiltSet, ranks: int, workers: int) -> None:
    parts = [
        read(FeatureDataset(flipped.url, batch_size=8 // ranks, train=False, rank=r, ranks=ranks), workers)
        for r in range(ranks)
    ]
    assert {len(part) for part in parts} == {10}
    seen: list[str] = []
    for number in range(10):
        for part in parts:
            batch = part[number]
            assert batch["layer2"].shape[0] == (1 if ranks == 1 and number == 9 else 8 // ranks)
            rows = [flipped.keys.index(key) for key in batch["__key__"]]
            assert np.array_equal(batch["layer2"].numpy(), flipped.features["layer2"]["base"][rows])
            assert torch.equal(batch["theta"], torch.eye(2, 3).expand(len(rows), 2, 3))
            assert ranks > 1 or batch["valid"].all()
            seen += [key for key, ok in zip(batch["__key__"], batch["valid"].tolist(), strict=True) if ok]
    assert seen == flipped.keys


def test_the_loader_is_as_long_as_it_says(plain: BuiltSet) -> None:
    for workers in (0, 1, 2, 3):
        load = loader(plain.url, batch_size=10, num_workers=workers)
        for epoch in range(2):
            assert load.epoch == epoch
            assert len(list(load)) == len(load) == 7
    assert len(list(loader(plain.url, 10, train=False))) == 8
    load.set_epoch(0)
    assert load.epoch == 0


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_plain_evaluation_loop_counts_every_sample_once(plain: BuiltSet, workers: int) -> None:
    load = loader(plain.url, 16, train=False, num_workers=workers)
    batches = list(load)
    assert [len(batch["cls"]) for batch in batches] == [16, 16, 16, 16, 9]
    assert len(load) == 5
    assert torch.cat([batch["cls"] for batch in batches]).tolist() == plain.classes
    assert all(batch["valid"].all() for batch in batches)


def test_several_ranks_count_what_is_valid(plain: BuiltSet) -> None:
    parts = [list(loader(plain.url, 8, train=False, num_workers=0, rank=r, ranks=3)) for r in range(3)]
    assert {len(part) for part in parts} == {4}
    assert {len(batch["cls"]) for part in parts for batch in part} == {8}
    classes = [batch["cls"][batch["valid"]].tolist() for batches in zip(*parts, strict=True) for batch in batches]
    assert functools.reduce(operator.iadd, classes, []) == plain.classes


def test_a_dropped_tail_is_announced(plain: BuiltSet) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        few = FeatureDataset(plain.url, batch_size=8)
        assert FeatureDataset(plain.url, batch_size=64, train=False).dropped == 0
        assert FeatureDataset(plain.url, batch_size=73).dropped == 0
    assert few.dropped == 1
    assert "drops 1 samples an epoch" in repr(few)
    with pytest.warns(UserWarning, match=r"leaves out 9 of 73 samples .*do not fill a batch of 64"):
        assert FeatureDataset(plain.url, batch_size=64).dropped == 9
    with pytest.warns(UserWarning, match="leaves out 9 of 73 samples") as told:
        loader(plain.url, 32, num_workers=0, rank=1, ranks=2)
    assert told[0].filename == __file__  # the user's own line, not one of the package


def test_augment_off_shuffles_and_nothing_else(flipped: BuiltSet) -> None:
    load = loader(flipped.url, batch_size=8, num_workers=0, augment=False)
    first, second = list(load), list(load)
    assert keys(first) != keys(second)
    for batch in first:
        rows = [flipped.keys.index(key) for key in batch["__key__"]]
        assert np.array_equal(batch["layer2"].numpy(), flipped.features["layer2"]["base"][rows])
        assert not batch["mirrored"].any()


def test_layers_side_by_side_or_some_of_them(flipped: BuiltSet) -> None:
    both = next(iter(FeatureDataset(flipped.url, batch_size=8)))
    assert {"layer2", "layer3"} <= both.keys()
    one = next(iter(FeatureDataset(flipped.url, ["layer3"], batch_size=8)))
    assert "layer2" not in one
    assert one["__key__"] == both["__key__"]
    assert torch.equal(one["layer3"], both["layer3"])


def test_other_fields_are_lists_and_never_hide_a_batchs_own(tmp_path) -> None:
    count = 12
    fields = {
        "json": [b'{"i": %d}' % i for i in range(count)],
        "boxes": [[i, [i]] for i in range(count)],
        "view": [b"mine"] * count,
        "layer2": ["theirs"] * count,
    }
    built = build_set(tmp_path / "set", samples=(7, 5), chunk=3, fields=fields)
    for batch in FeatureDataset(built.url, batch_size=4):
        rows = [built.keys.index(key) for key in batch["__key__"]]
        assert batch["json"] == [{"i": row} for row in rows]
        assert batch["boxes"] == [[row, [row]] for row in rows]
        assert batch["field.view"] == [b"mine"] * 4
        assert batch["field.layer2"] == ["theirs"] * 4
        assert isinstance(batch["view"], torch.Tensor)
        assert isinstance(batch["layer2"], torch.Tensor)


def test_dtype(plain: BuiltSet) -> None:
    assert next(iter(FeatureDataset(plain.url, dtype=torch.bfloat16)))["layer2"].dtype == torch.bfloat16
    with pytest.raises(InputError, match="floating-point"):
        FeatureDataset(plain.url, dtype=torch.int64)


REFUSED = [
    ({"layers": ["layer4"]}, "no layer 'layer4'.*layer2"),
    ({"layers": []}, "one or more different layers"),
    ({"batch_size": 74}, "batch of 74 is larger than the set, which has 73 samples"),
    ({"batch_size": 40, "rank": 0, "ranks": 2}, r"80 \(2 ranks x 40\).*batch_size 36 is the largest"),
    ({"batch_size": 0}, "batch_size is a whole number"),
    ({"batch_size": 8, "lanes": 3}, "lanes that would do: 1, 2, 4, 8"),
    ({"batch_size": 8, "lanes": 1, "rank": 1, "ranks": 2}, "lanes that would do: 2, 4, 8, 16"),
    ({"rank": 2, "ranks": 2}, "a rank is a number from 0 to 1"),
    ({"rank": 2}, "give both"),
    ({"memory": "10kB", "batch_size": 8}, r"memory=10000 does not hold the least .*: \d+ bytes"),
    ({"memory": "10kB", "batch_size": 8, "train": False}, "memory=10000 does not hold"),
    ({"memory": "lots"}, "512MB"),
    ({"epoch": -1}, "from 0 on"),
    ({"window": 0}, "window is a whole number"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refused_at_once(plain: BuiltSet, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FeatureDataset(plain.url, **options)


def test_the_least_memory_that_is_named_is_enough(plain: BuiltSet) -> None:
    with pytest.raises(InputError) as found:
        FeatureDataset(plain.url, batch_size=8, memory=1)
    least = int(str(found.value).split("takes: ")[1].split(" bytes")[0])
    assert len(list(FeatureDataset(plain.url, batch_size=8, memory=least))) == 9
    with pytest.raises(InputError):
        FeatureDataset(plain.url, batch_size=8, memory=least - 1)


@pytest.mark.parametrize("train", [True, False])
def test_workers_that_do_not_divide_or_do_not_fit_reach_the_user(plain: BuiltSet, train: bool) -> None:
    with pytest.raises(InputError, match="workers that would do: 1, 2, 4"):
        loader(plain.url, 8, groups=4, num_workers=3)
    data = FeatureDataset(plain.url, batch_size=8, groups=4)
    message = error_of(InputError, DataLoader(data, batch_size=None, num_workers=3))
    assert "workers that would do: 1, 2, 4" in message
    needed = FeatureDataset(plain.url, batch_size=8, train=train).memory_needed(1)
    tight = FeatureDataset(plain.url, batch_size=8, memory=needed, train=train)
    assert "does not hold the least" in error_of(InputError, DataLoader(tight, batch_size=None, num_workers=3))


def test_nothing_fails_before_the_first_batch(plain: BuiltSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A persistent worker that fails while it begins an epoch dies, and its error with it."""
    data = FeatureDataset(plain.url, batch_size=8, groups=4)
    info = SimpleNamespace(id=0, num_workers=3, seed=1)
    monkeypatch.setattr("fmshards.stream.dataset.get_worker_info", lambda: info)
    batches = iter(data)
    with pytest.raises(InputError, match="do not divide"):
        next(batches)


def test_no_set_or_half_a_set(tmp_path) -> None:
    with pytest.raises(FormatError, match="no shard set here"):
        FeatureDataset(str(tmp_path / "nothing"))
    built = build_set(tmp_path / "half", whole=False)
    with pytest.raises(FormatError, match="not whole"):
        FeatureDataset(built.url)


def test_options_that_would_undo_the_order(plain: BuiltSet) -> None:
    with pytest.raises(InputError, match="shuffle is not for a loader over shards"):
        loader(plain.url, 8, shuffle=True)


def test_rank_from_the_environment(plain: BuiltSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    data = FeatureDataset(plain.url, batch_size=4, **ORDER)
    assert len(data) == 9  # how many ranks there are is known
    with pytest.raises(InputError, match="neither RANK nor"):
        list(data)
    data.set_epoch(0)
    monkeypatch.setenv("RANK", "1")
    expected = keys(read(FeatureDataset(plain.url, batch_size=4, rank=1, ranks=2, **ORDER)))
    assert keys(read(data)) == expected
    data.set_epoch(0)
    assert keys(read(data, 2)) == expected
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(InputError, match="RANK is a number"):
        list(data)


def test_rank_from_torch_distributed(plain: BuiltSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Initialised after the data set was made; a spawned worker, which inherits nothing, is told by pickling."""
    data = FeatureDataset(plain.url, batch_size=4, **ORDER)
    expected = keys(read(FeatureDataset(plain.url, batch_size=4, rank=1, ranks=2, **ORDER)))
    for name, value in {"is_initialized": True, "get_rank": 1, "get_world_size": 2}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    assert len(data) == 9
    sent = pickle.dumps(data)
    assert keys(read(data)) == expected
    monkeypatch.undo()
    info = SimpleNamespace(id=0, num_workers=1, seed=1)
    monkeypatch.setattr("fmshards.stream.dataset.get_worker_info", lambda: info)
    assert keys(list(pickle.loads(sent))) == expected


def test_chunks_with_other_fields_are_named() -> None:
    window, rows = Window(2, 2), np.arange(2, dtype=np.int32)
    window.put({"a": np.zeros(2), "field:x": np.zeros(2)}, rows, np.arange(2), "chunk 0")
    window.take(np.arange(2))
    with pytest.raises(FormatError, match="chunk 1: it lacks the field 'x'"):
        window.put({"a": np.zeros(2)}, rows, np.arange(2), "chunk 1")
