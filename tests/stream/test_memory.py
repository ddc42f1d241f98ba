"""Memory: stated beforehand, bounded by what is allowed, counted byte by byte."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from fmshards.codec import FeatureSpec, codec_for
from fmshards.errors import InputError
from fmshards.reader import Fetcher, open_catalog
from fmshards.stream import FeatureDataset, FeatureDecoder, dataset, decode_chunks, loader, open_shards, order
from fmshards.stream.order import Part
from fmshards.stream.order.deal import READ_AHEAD, Deal, Job, Leg, choose_deal, lane_slots, memory_needed
from fmshards.stream.window import Window
from tests.sets import BuiltSet, build_set
from tests.stream.helpers import carry_out


class Ledger:
    """Counts rows' bytes that are held: the window's, and those of chunks fetched and not yet put into it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting = self.most = 0
        put, fetch = Window.put, Fetcher.fetch
        ledger = self

        def counted_fetch(self, *args):
            fetched = fetch(self, *args)
            ledger.waiting += fetched.bytes
            ledger.sizes[fetched.where] = fetched.bytes
            return fetched

        def counted_put(self, columns, row, place, where):
            put(self, columns, row, place, where)
            ledger.most = max(ledger.most, self.bytes + ledger.waiting)
            ledger.waiting -= ledger.sizes[where]

        self.sizes: dict[str, int] = {}
        monkeypatch.setattr(Fetcher, "fetch", counted_fetch)
        monkeypatch.setattr(Window, "put", counted_put)


@pytest.fixture(scope="module", params=["stored", "stored(0.5)"])
def many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BuiltSet:
    path, layers = tmp_path_factory.mktemp("sets") / "many", {"a": "8", "b": "4"}
    how = {"recipe": "flip", "kind": "vector", "mirror": request.param}
    return build_set(path, samples=(400, 400), chunk=8, layers=layers, **how)


@pytest.mark.parametrize("memory", [60_000, 100_000, 1_000_000])
@pytest.mark.parametrize("train", [True, False])
def test_what_is_held_stays_below_what_is_stated_and_allowed(
    many: BuiltSet, memory: int, train: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = FeatureDataset(many.url, batch_size=16, memory=memory, train=train)
    ledger = Ledger(monkeypatch)
    for _ in range(3):
        for batch in data:
            assert len(batch["__key__"]) == 16
    assert 0 < ledger.most <= data.memory_needed() <= memory


def test_more_memory_shuffles_over_more_chunks(many: BuiltSet) -> None:
    small, large = (FeatureDataset(many.url, batch_size=16, memory=m).deal() for m in (60_000, 1_000_000))
    assert small.window * small.lanes < large.window * large.lanes


def test_memory_is_shared_by_the_workers(many: BuiltSet) -> None:
    data = FeatureDataset(many.url, batch_size=16, memory=100_000)
    for workers in (0, 1, 2, 3):
        assert data.memory_needed(workers) <= 100_000
    assert loader(many.url, 16, num_workers=2, memory=100_000).memory_needed <= 100_000
    assert "holds at most" in repr(data)


def test_the_window_is_no_larger_than_it_must_be(many: BuiltSet) -> None:
    """A slot is used again as soon as its row is given away."""
    deal = FeatureDataset(many.url, batch_size=16, window=2, lanes=2, groups=1).deal()
    sizes = np.full(100, 8, np.int32)
    expected = iter(carry_out(order.training([Leg(deal)], sizes, 0, 0)).rows)
    window = Window(2 * (2 * 8 + 8 + 8), 2 * deal.lane_places)
    taken = set()
    for stretch in order.training([Leg(deal)], sizes, 0, 0):
        done = 0
        for i, need in enumerate(stretch.need.tolist()):
            for f in range(done, need):
                part = slice(stretch.start[f], stretch.start[f] + stretch.count[f])
                rows = np.arange(8, dtype=np.uint8) + 8 * stretch.chunk[f]
                window.put({"row": rows.astype(np.uint8)}, stretch.row[part], stretch.place[part], "here")
                taken.add(window.bytes)
            done = need
            batch = [(8 * chunk + row) % 256 for chunk, row in next(expected)]
            assert window.take(stretch.emit[i])["row"].tolist() == batch
    assert taken == {2 * (2 * 8 + 8 + 8)}


def test_a_window_that_is_too_small_grows() -> None:
    """What a lane holds is bounded for all but one epoch of very many; then nothing is lost."""
    window = Window(2, 8)
    window.put({"row": np.arange(4)}, np.arange(3, dtype=np.int32), np.array([5, 6, 7]), "here")
    assert window.take(np.array([6]))["row"].tolist() == [1]
    window.put({"row": np.arange(4)}, np.array([3], np.int32), np.array([0]), "here")
    assert window.take(np.array([7, 0, 5]))["row"].tolist() == [2, 3, 0]


@settings(max_examples=100, deadline=None)
@given(
    samples=st.integers(1, 5000),
    chunk=st.integers(1, 64),
    batch_size=st.integers(1, 64),
    ranks=st.integers(1, 4),
    workers=st.integers(0, 4),
    memory=st.integers(1, 10**7),
)
def test_deals_that_are_chosen(
    samples: int, chunk: int, batch_size: int, ranks: int, workers: int, memory: int
) -> None:
    job = Job(samples, -(-samples // chunk), chunk, 100, batch_size, ranks, workers, memory)
    if job.batch > samples:
        with pytest.raises(InputError, match="larger than the set"):
            choose_deal(job)
        return
    least = memory_needed(_least(job), job)
    if least > memory:
        with pytest.raises(InputError, match=f"takes: {least} bytes"):
            choose_deal(job)
        return
    deal = choose_deal(job)
    assert deal.batch % deal.lanes == 0
    assert deal.lanes % ranks == 0
    assert deal.groups == max(workers, 1)
    assert deal.lanes <= max(64, ranks)
    assert deal.groups * deal.lanes <= max(job.chunks / 8, deal.groups * ranks)
    assert memory_needed(deal, job) <= memory
    sizes = np.full(job.chunks, chunk)
    sizes[-1] = samples - chunk * (job.chunks - 1)
    if samples < 1000:
        made = carry_out(order.training([Leg(deal)], sizes, 0, 0, Part(0, ranks, 0, max(workers, 1))))
        assert made.most <= deal.groups * deal.lanes // ranks // max(workers, 1) * lane_slots(deal)


def _least(job: Job) -> Deal:
    return Deal(job.samples, job.chunk, job.batch, max(job.workers, 1), job.ranks, 1)


def test_reading_ahead_is_part_of_the_statement(many: BuiltSet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert READ_AHEAD > 0
    monkeypatch.setattr(dataset, "READ_AHEAD", 0)
    batches = list(DataLoader(FeatureDataset(many.url, batch_size=16), batch_size=None))
    assert len(batches) == 50


def test_a_chunk_that_a_filter_made_small(tmp_path: Path) -> None:
    """Zeros of 16 MB in a shard of a few kB: what one chunk's rows take is bounded before it is read."""
    spec = FeatureSpec("map", (16, 64, 64))
    built = build_set(tmp_path / "set", samples=(64,), chunk=64, kind=spec, layers={"a": "fp32"}, filter="zstd", seed=1)
    url = str(built.path / "a" / "000000.tar")
    message = r"memory=16000000 does not hold a chunk of .*: 16777216 bytes, 64 samples of 262144 bytes"
    with pytest.raises(InputError, match=message):
        next(iter(decode_chunks(memory="16MB")([{"url": url}])))
    with pytest.raises(InputError, match=message):
        open_shards(built.url, memory="16MB")
    with pytest.raises(InputError, match="does not hold the least"):
        loader(built.url, 4, memory="16MB")
    sample = next(iter(decode_chunks(memory="17MB")([{"url": url}])))
    assert sample["a"].numpy().tobytes() == built.features["a"]["base"][0].tobytes()
    assert open_shards(built.url, memory="17MB")[0]["__key__"] == built.keys[0]


def test_a_feature_too_large_to_prepare_for(tmp_path: Path) -> None:
    """A feature of nearly a gigabyte: no memory is taken before there is something to decode."""
    built = build_set(tmp_path / "set", samples=(2,), chunk=2, layers={"a": "4"})
    catalog = open_catalog(built.url)
    layer = catalog.layers[0]
    codec = codec_for("4", FeatureSpec("map", (3, 9000, 9000))).config()
    plan = replace(catalog.manifest.plan, layers=(replace(layer, codec=codec),), calibration=None)
    large = replace(catalog, manifest=replace(catalog.manifest, plan=plan), layers=plan.layers)
    decoder = FeatureDecoder(large)
    tracemalloc.start()
    decoder.prepare()
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_features_that_do_not_fit_are_named(many: BuiltSet, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = next(iter(FeatureDataset(many.url, batch_size=16, decode=False)))
    decoder = FeatureDecoder(many.url)

    def empty(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(InputError, match=r"16 features of \[32\] take 2.05 kB, more than there is"):
        decoder(rows)
