"""Filtered sets give what unfiltered ones give, in the same memory; damaged, they give an error or what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
import zstandard

from fmshards.codec import FeatureSpec, codec_from_config, members
from fmshards.errors import CorruptError, FmshardsError, FormatError
from fmshards.shards import check_index, entry_of, read_chunk, read_index, verify_shard
from fmshards.stream import FeatureDataset, decode_chunks, loader
from tests.sets import BuiltSet, build_set
from tests.stream.helpers import error_of

LAYERS = {"layer2": "int4", "layer3": "3", "layer4": "bf16"}
TINY = FeatureSpec("map", (2, 4, 4))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[BuiltSet, BuiltSet]:
    """The same set without and with the filter: three layers, mirror, views."""
    folder = tmp_path_factory.mktemp("sets")
    made = [
        build_set(folder / str(filter), layers=LAYERS, recipe="flip+crop(pad=8, step=1)", views=4, filter=filter)
        for filter in (None, "zstd")
    ]
    return made[0], made[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_set_without_a_filter(pair: tuple[BuiltSet, BuiltSet], workers: int) -> None:
    plain, filtered = (loader(built.url, batch_size=10, num_workers=workers, groups=2) for built in pair)
    assert plain.memory_needed == filtered.memory_needed
    for ours, theirs in zip(filtered, plain, strict=True):
        assert ours["__key__"] == theirs["__key__"]
        for layer in LAYERS:
            assert torch.equal(ours[layer], theirs[layer])


def test_undecoded_batches_hold_rows(pair: tuple[BuiltSet, BuiltSet]) -> None:
    plain, filtered = (FeatureDataset(built.url, batch_size=10, decode=False) for built in pair)
    for ours, theirs in zip(filtered, plain, strict=True):
        for layer in LAYERS:
            assert torch.equal(ours[f"{layer}.rows"], theirs[f"{layer}.rows"])
            assert torch.equal(ours[f"{layer}.view_rows"], theirs[f"{layer}.view_rows"])


def test_plans_differ_in_the_filter_alone(pair: tuple[BuiltSet, BuiltSet]) -> None:
    plain, filtered = (built.plan.layers for built in pair)
    for ours, theirs in zip(filtered, plain, strict=True):
        assert ours.codec == {**theirs.codec, "filter": "zstd"}
        assert ours.view_codec == {**theirs.view_codec, "filter": "zstd"}
        assert "filter" not in theirs.codec


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BuiltSet:
    """Two chunks of small rows, so that each of their bytes can be tried."""
    path = tmp_path_factory.mktemp("sets") / "tiny"
    return build_set(path, samples=(6,), chunk=3, layers={"layer2": "int3"}, kind=TINY, filter="zstd")


def chunks(built: BuiltSet) -> Iterator[tuple[str, np.ndarray]]:
    url = str(built.path / "layer2" / "000000.tar")
    codec = codec_from_config(built.plan.layers[0].codec)
    index = read_index(url)
    for j in range(len(index.chunks)):
        found = read_chunk(url, index, j, ["base.int"])
        yield from zip(found.keys, codec.decode(codec.rows(found.members["base.int"], found.n)), strict=True)


def stream(built: BuiltSet) -> Iterator[tuple[str, Any]]:
    for batch in FeatureDataset(built.url, batch_size=2, train=False):
        yield from zip(batch["__key__"], batch["layer2"], strict=True)


def plugin(built: BuiltSet) -> Iterator[tuple[str, Any]]:
    urls = [str(built.path / "layer2" / "000000.tar")]
    for sample in wds.DataPipeline(wds.SimpleShardList(urls), decode_chunks()):
        yield sample["__key__"], sample["layer2"]


@pytest.mark.parametrize("read", [chunks, stream, plugin])
def test_a_flip_in_any_byte_of_a_filtered_member_is_found(tiny: BuiltSet, read: Callable[..., Any]) -> None:
    path = tiny.path / "layer2" / "000000.tar"
    intact = path.read_bytes()
    truth = dict(chunks(tiny))
    members = [chunk.members["base.int"] for chunk in read_index(str(path)).chunks]
    assert len(truth) == 6
    try:
        for offset, length, _ in members:
            for at in range(offset, offset + length):
                data = bytearray(intact)
                data[at] ^= 1 << at % 8
                path.write_bytes(data)
                found: list[tuple[str, Any]] = []
                with pytest.raises(FmshardsError, match=r"000000\.tar"):
                    found.extend(read(tiny))
                assert len(found) < 6
                assert all(torch.equal(torch.as_tensor(x), torch.as_tensor(truth[key])) for key, x in found)
    finally:
        path.write_bytes(intact)
    assert [key for key, _ in read(tiny)] == list(truth)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (lambda data: zstandard.compress(bytes(200 << 20)), "209715200"),
        (lambda data: zstandard.ZstdCompressor(write_content_size=False).compress(data), "length"),
        (lambda data: zstandard.compress(data) + b"more", "zstd frame"),
        (lambda data: zstandard.compress(data)[:-3], "zstd frame"),
        (lambda data: b"no frame at all, but sealed", "zstd frame"),
    ],
    ids=["bomb", "unstated", "more", "cut", "none"],
)
def test_sealed_members_that_are_no_frame_of_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: Callable[[bytes], bytes], said: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(members, "member", lambda codec, rows: stored(rows.tobytes()))
        spec = FeatureSpec("map", (8, 32, 32))  # so that its members may be longer than the bomb
        built = build_set(tmp_path / "set", samples=(8,), layers={"layer2": "int3"}, kind=spec, filter="zstd")
    for read in (stream, plugin):
        assert said in error_of(CorruptError, read(built))


def test_a_member_longer_than_a_filter_makes_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(members, "member", lambda codec, rows: zstandard.compress(rows.tobytes()) + bytes(5000))
        built = build_set(
            tmp_path / "set", samples=(9,), layers={"layer2": "int3"}, kind=TINY, filter="zstd", whole=False
        )
    url = str(built.path / "layer2" / "000000.tar")
    with pytest.raises(FormatError, match=r"base\.int has \d+ bytes"):
        check_index(read_index(url), built.plan, "layer2", url)
    entry = entry_of(url, built.plan.digest, "layer2")
    assert entry is not None
    problem = verify_shard(url, entry, built.plan.layer_members("layer2"))
    assert problem is not None
    assert problem.member == "000000.base.int"
