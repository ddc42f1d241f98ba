"""What is known of a set before a shard is read: where chunks and samples lie, and which claims are refused."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fmshards import store
from fmshards.errors import FormatError, InputError
from fmshards.reader import PLAIN, Combination, open_catalog
from fmshards.shards import read_manifest, write_manifest
from fmshards.stream import FeatureDataset, loader, open_shards
from tests.sets import BuiltSet, build_set


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltSet:
    """Shards of 9, 0, 8 and 1 samples in chunks of 4, two views of three channels, the mirror stored."""
    path = tmp_path_factory.mktemp("sets") / "set"
    return build_set(path, samples=(9, 0, 8, 1), chunk=4, recipe="flip+crop(pad=4)", views=2)


def test_chunks_and_samples_are_found(built: BuiltSet) -> None:
    catalog = open_catalog(built.url)
    sizes = [4, 4, 1, 4, 4, 1]
    assert catalog.sizes.tolist() == sizes
    assert (catalog.chunks, catalog.largest) == (6, 4)
    assert [catalog.place(c) for c in range(6)] == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (3, 0)]
    assert [list(catalog.chunks_of(s)) for s in range(4)] == [[0, 1, 2], [], [3, 4], [5]]
    ends = np.cumsum(sizes).tolist()
    assert [catalog.samples_of(c) for c in range(6)] == [range(e - n, e) for n, e in zip(sizes, ends, strict=True)]
    places = [(chunk, row) for chunk, n in enumerate(sizes) for row in range(n)]
    assert [catalog.find(i) for i in range(18)] == places


def test_streams_of_a_combination(built: BuiltSet) -> None:
    catalog = open_catalog(built.url)
    layer = catalog.layers[0]
    shown = {c: [s.name for s in catalog.streams(layer, c)] for c in (PLAIN, *catalog.combinations)}
    assert shown == {
        PLAIN: ["base"],
        Combination("base", 1): ["base", "view1"],
        Combination("mirror", 2): ["mirror", "view2"],
    }


def claiming(built: BuiltSet, path: Path, **claims: int) -> str:
    """A copy of the set whose manifest claims other numbers of the first shard."""
    shutil.copytree(built.path, path)
    manifest = read_manifest(built.url)
    more = claims.get("samples", 9) - 9
    shards = {
        name: (dataclasses.replace(entries[0], **claims), *entries[1:]) for name, entries in manifest.shards.items()
    }
    inputs = (dataclasses.replace(manifest.plan.inputs[0], samples=9 + more), *manifest.plan.inputs[1:])
    plan = dataclasses.replace(manifest.plan, inputs=inputs)
    write_manifest(str(path), dataclasses.replace(manifest, plan=plan, shards=shards, samples=manifest.samples + more))
    return str(path)


@pytest.mark.parametrize("filter", [None, "zstd"])
@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"samples": 2**35}, "samples of 2048 bytes in a shard of"),
        ({"samples": 2**32, "bytes": 2**44}, "chunks, more than the 10000000"),
        ({"samples": 30_000_000, "bytes": 2**42}, r"30000000 samples of 2048 bytes in a shard of \d+ bytes"),
    ],
)
def test_claims_are_refused_before_memory_is_spent(
    tmp_path: Path, filter: str | None, claims: dict[str, int], message: str
) -> None:
    """The last is one that the manifest itself does not contradict: the file is looked at."""
    built = build_set(tmp_path / "set", samples=(9, 8), chunk=4, filter=filter)
    url = claiming(built, tmp_path / "claims", **claims)
    for read in (FeatureDataset, open_shards, loader):
        tracemalloc.start()
        with pytest.raises(FormatError, match=message):
            read(url)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()


def test_ordinary_sets_cost_no_request(built: BuiltSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "size", lambda url: pytest.fail(f"asked for the size of {url}"))
    open_catalog(built.url)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_relative_path_outlives_chdir(built: BuiltSet, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.chdir(built.path.parent)
    load = loader(built.path.name, 6, num_workers=workers, persistent_workers=False)
    samples, expected = open_shards(Path(built.path.name)), len(list(load))
    monkeypatch.chdir("/")
    assert len(list(load)) == expected
    assert samples[0]["__key__"] == built.keys[0]
    assert load.dataset.catalog.url == os.fspath(built.path)


@pytest.mark.parametrize("url", ["", None, 3, b"set", ["set"]])
def test_what_is_no_url(url: object) -> None:
    with pytest.raises(InputError, match="url: expected"):
        open_catalog(url)  # type: ignore[arg-type]  # a user's mistake


@pytest.mark.parametrize("layers", [[], ["layer2", "layer2"], 3, [3], {"layer2": 4, "x": 5}.items()])
def test_what_are_no_layers(built: BuiltSet, layers: object) -> None:
    with pytest.raises(InputError, match="layers="):
        open_catalog(built.url, layers)  # type: ignore[arg-type]  # a user's mistake


def test_a_set_without_samples(tmp_path: Path) -> None:
    built = build_set(tmp_path / "set", samples=(0, 0), chunk=4)
    with pytest.raises(InputError, match="no samples"):
        open_catalog(built.url)
