"""Verified chunks: the rows asked for, whatever goes wrong named, and read ahead in order."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fmshards import store
from fmshards.codec import FeatureSpec
from fmshards.errors import CorruptError, InputError, MismatchError, StoreError
from fmshards.reader import PLAIN, Combination, Fetcher, fetch, open_catalog, read_ahead
from tests.sets import BuiltSet, build_set


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltSet:
    path = tmp_path_factory.mktemp("sets") / "set"
    fields = {"json": [b"{}"] * 17, "caption.txt": [b"x"] * 17}
    layers = {"a": "fp32", "b": "int4"}
    return build_set(path, samples=(9, 8), chunk=4, layers=layers, recipe="flip+crop(pad=4)", views=2, fields=fields)


@pytest.mark.parametrize("shown", [PLAIN, Combination("mirror", 0), Combination("base", 1), Combination("mirror", 2)])
def test_rows_are_what_was_encoded(built: BuiltSet, shown: Combination) -> None:
    catalog = open_catalog(built.url)
    fetcher = Fetcher(catalog)
    for chunk in range(catalog.chunks):
        found = fetcher.fetch(chunk, shown)
        samples = catalog.samples_of(chunk)
        part = slice(samples.start, samples.stop)
        assert (found.n, found.first, found.keys) == (len(samples), samples.start, built.keys[part])
        for layer in catalog.layers:
            streams = catalog.streams(layer, shown)
            assert list(found.rows[layer.name]) == [stream.name for stream in streams]
            for stream in streams:
                expected = stream.codec.encode(built.features[layer.name][stream.name][part])
                assert np.array_equal(found.rows[layer.name][stream.name], expected)
        if shown.view:
            assert built.theta is not None
            assert np.array_equal(found.theta, built.theta[part, shown.view - 1])
        else:
            assert found.theta is None


def test_fields_that_are_kept(built: BuiltSet) -> None:
    catalog = open_catalog(built.url)
    kept = {
        names: list(Fetcher(catalog, names).fetch(0).fields) for names in (None, (), ("json",), ("caption.txt", "cls"))
    }
    assert kept == {
        None: ["caption.txt", "cls", "json"],
        (): [],
        ("json",): ["json"],
        ("caption.txt", "cls"): ["caption.txt", "cls"],
    }
    other = Fetcher(catalog, ("txt",))
    for call in (other.check_fields, lambda: other.fetch(0)):
        with pytest.raises(InputError, match=r"no field 'txt'; they have caption.txt, cls, json"):
            call()


def test_every_error_is_ours(built: BuiltSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not pickle, in a DataLoader worker, would end the epoch early without a word."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr(fetch, "read_chunk", fail)
    with pytest.raises(StoreError, match=r"a/000000.tar: chunk 1 cannot be read: ZeroDivisionError: unforeseen"):
        Fetcher(open_catalog(built.url)).fetch(1)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_chunks_come_in_the_order_asked_for(built: BuiltSet, ahead: int) -> None:
    asked: list[int] = []

    def wanted():
        for chunk in (3, 0, 4, 0, 1):
            asked.append(chunk)
            yield chunk, PLAIN

    fetched = read_ahead(Fetcher(open_catalog(built.url)), wanted(), ahead)
    first = next(fetched)
    assert len(asked) == ahead + 1
    assert [first.first, *(chunk.first for chunk in fetched)] == [9 + 0, 0, 13, 0, 4]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_local_bytes_are_expected_before_they_are_read(built: BuiltSet, ahead: int) -> None:
    """The system reads them meanwhile, and no thread of ours takes turns with the caller."""
    asked: list[tuple[str, str, int, int]] = []

    class Noting(store.Passing):
        def expect(self, url: str, spans: Sequence[tuple[int, int]]) -> None:
            asked.extend(("expect", url, start, end) for start, end in spans)
            super().expect(url, spans)

        def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
            if length is not None:
                asked.append(("read", url, start, start + length))
            return super().read(url, start, length)

    catalog = open_catalog(built.url)
    order = [0, 3, 1, 4, 2]
    for chunk in range(catalog.chunks):
        Fetcher(catalog).fetch(chunk)
    with store.wrapped(Noting):
        fetcher = Fetcher(catalog)
        for chunk in order:
            fetcher.fetch(chunk)  # indices are kept from here on
        before = threading.active_count()
        asked.clear()
        for _ in read_ahead(fetcher, ((chunk, PLAIN) for chunk in order), ahead):
            assert threading.active_count() == before
    reads = [what for what in asked if what[0] == "read"]
    assert len(reads) >= 2 * len(order)
    if not ahead:
        assert reads == asked
        return
    for what in reads:
        assert ("expect", *what[1:]) in asked[: asked.index(what)]
    first = asked.index(reads[0])
    assert len(set(asked[:first])) == (1 + ahead) * len(reads) // len(order)


def test_an_error_ends_reading_ahead(tmp_path: Path) -> None:
    built = build_set(tmp_path / "set", samples=(9, 8), chunk=4)
    (built.path / "layer2" / "000001.tar").write_bytes(b"")
    fetched = read_ahead(Fetcher(open_catalog(built.url)), iter([(0, PLAIN), (4, PLAIN), (1, PLAIN)]), 2)
    assert next(fetched).first == 0
    with pytest.raises(CorruptError, match=r"000001.tar"):
        next(fetched)


def test_indices_that_are_kept_are_small(tmp_path: Path) -> None:
    """A reader keeps the index of every shard that it has seen: of a large set, of millions of chunks."""
    spec = FeatureSpec("vector", (32,))
    built = build_set(tmp_path / "set", samples=(600,), chunk=1, kind=spec, recipe="flip", layers={"a": "4"})
    fetcher = Fetcher(open_catalog(built.url))
    tracemalloc.start()
    found = [fetcher.fetch(chunk).keys[0] for chunk in (0, 599, 300)]
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert found == [built.keys[i] for i in (0, 599, 300)]
    assert kept < 600 * 150


@pytest.mark.parametrize("whole", [False, True])
def test_a_set_that_is_replaced_meanwhile_is_not_called_damaged(tmp_path: Path, whole: bool) -> None:
    ours, other = (build_set(tmp_path / name, samples=(8,), chunk=4, seed=i) for i, name in enumerate("ab"))
    fetcher = Fetcher(open_catalog(ours.url))
    fetcher.fetch(0)
    shard = ours.path / "layer2" / "000000.tar"
    shard.write_bytes((other.path / "layer2" / "000000.tar").read_bytes())
    with pytest.raises(CorruptError):
        fetcher.fetch(1)  # the manifest stands: the shard is damaged
    (ours.path / "manifest.json").unlink()
    if whole:
        (ours.path / "manifest.json").write_bytes((other.path / "manifest.json").read_bytes())
    for call in (lambda: fetcher.fetch(1), Fetcher(fetcher.catalog, ("cls",)).check_fields):
        with pytest.raises(MismatchError, match="another process replaced or removed the set while it was read"):
            call()
