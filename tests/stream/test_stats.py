"""Counters by stage: what was counted is what was done, over all workers, and waits go to whom they belong."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fmshards import store, tally
from fmshards.errors import InputError
from fmshards.stream import bench, loader, stats
from fmshards.stream.trial import LIMITS
from tests.sets import BuiltSet

PAUSE = 0.01


class Slow(store.Backend):
    """Another backend, after a pause, and a request that failed once."""

    def __init__(self, inner: store.Backend) -> None:
        self.inner = inner

    def info(self, url: str) -> Any:
        return self.inner.info(url)

    def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        time.sleep(PAUSE)
        tally.count("retries")
        return self.inner.read(url, start, length)


@pytest.fixture
def slow() -> Iterator[None]:
    with store.wrapped(Slow):
        yield


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("persistent", [True, False])
def test_what_is_counted_is_what_was_done(plain: BuiltSet, workers: int, persistent: bool) -> None:
    load = loader(plain.url, 8, num_workers=workers, persistent_workers=persistent and workers > 0)
    assert set(load.stats().values()) == {0}
    for epoch in (1, 2):
        assert len(list(load)) == 9
        found = load.stats()
        assert list(found) == list(stats.COUNTED)
        assert (found["batches"], found["samples"]) == (9 * epoch, 72 * epoch)
        assert found["chunks"] >= epoch * load.dataset.catalog.chunks
        assert found["bytes"] > 72 * epoch * load.dataset.catalog.layers[0].base_codec.row_bytes
        assert found["requests"] >= 2 * found["chunks"]  # a local file's members are read one by one
        assert found["retries"] == found["cache_hits"] == found["quarantined"] == 0
    assert min(found.values()) >= 0
    assert all(isinstance(value, float) == name.endswith("_s") for name, value in found.items())


@pytest.mark.slow
def test_workers_that_are_spawned_count_too(plain: BuiltSet) -> None:
    load = loader(plain.url, 8, num_workers=1, multiprocessing_context="spawn")
    assert len(list(load)) == 9
    assert load.stats()["batches"] == 9


def test_a_copy_counts_for_itself(plain: BuiltSet) -> None:
    load = loader(plain.url, 8, num_workers=0)
    list(load)
    copy = pickle.loads(pickle.dumps(load.dataset))
    assert set(copy.stats().values()) == {0}
    assert len(list(copy)) == 9
    assert copy.stats()["batches"] == load.stats()["batches"] == 9


def test_stages_are_no_more_than_the_time_there_was(plain: BuiltSet) -> None:
    load = loader(plain.url, 8, num_workers=0)
    began = time.perf_counter()
    list(load)
    took = time.perf_counter() - began
    found = load.stats()
    assert all(found[stage] > 0 for stage in stats.STAGES)
    assert sum(found[stage] for stage in stats.STAGES) <= took
    assert found["loader_s"] + found["loop_s"] <= took


@pytest.mark.parametrize("workers", [0, 1])
def test_a_slow_store_is_waited_for_and_what_it_counts_arrives(plain: BuiltSet, slow: None, workers: int) -> None:
    load = loader(plain.url, 8, num_workers=workers)
    before = load.stats()
    assert len(list(load)) == 9
    found = load.stats()
    assert before["requests"] == 0  # opening the set is not streaming
    assert found["retries"] == found["requests"] > 0
    assert found["fetch_s"] >= PAUSE * found["requests"]
    assert found["loader_s"] >= found["store_s"] >= PAUSE


def test_a_slow_loop_is_the_consumers_time(plain: BuiltSet) -> None:
    load = loader(plain.url, 8, num_workers=0)
    for _ in load:
        time.sleep(PAUSE)
    found = load.stats()
    assert found["consumer_s"] >= 9 * PAUSE
    assert found["loop_s"] >= 9 * PAUSE


def test_a_line_in_the_log_every_so_many_batches(plain: BuiltSet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fmshards")
    list(loader(plain.url, 8, num_workers=0))
    assert not caplog.records
    list(loader(plain.url, 8, num_workers=0, log_every=4))
    first, second = (record.getMessage() for record in caplog.records)
    for line in (first, second):
        assert "32 samples in" in line
        assert "decode" in line
    with pytest.raises(InputError, match="log_every"):
        loader(plain.url, 8, log_every=0)


def test_a_first_chunk_that_is_long_in_coming_is_said(
    plain: BuiltSet, slow: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "_SLOW", PAUSE / 10)
    list(loader(plain.url, 8, num_workers=0))
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"{plain.url}: still waiting for the first chunk" in line


def test_a_quick_one_is_not(plain: BuiltSet, caplog: pytest.LogCaptureFixture) -> None:
    list(loader(plain.url, 8, num_workers=0))
    assert not caplog.records


@pytest.mark.parametrize("workers", [0, 1])
def test_bench_names_the_stage_that_limits(plain: BuiltSet, slow: None, workers: int) -> None:
    found = bench(plain.url, 0.2, batch_size=8, num_workers=workers)
    # On a crowded machine that may be another than the store, which is made slow.
    assert found["limit"] == LIMITS[max(found["shares"], key=found["shares"].__getitem__)]
    assert found["shares"]["store_s"] > 0
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["samples"] == pytest.approx(found["samples_s"] * found["seconds"])
    assert found["advice"]


@pytest.mark.parametrize("seconds", [0, -1, True, "10", float("nan"), float("inf")])
def test_bench_takes_a_positive_number_of_seconds(plain: BuiltSet, seconds: object) -> None:
    with pytest.raises(InputError, match="seconds is a positive number"):
        bench(plain.url, seconds)  # type: ignore[arg-type]  # a user's mistake
