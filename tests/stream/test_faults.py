"""Damaged shards, through the stream and through the WebDataset stage: an error or the right samples, never others."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from torch.utils.data import DataLoader

from fmshards.errors import CorruptError, FmshardsError, MismatchError, StoreError
from fmshards.shards import Manifest, layer_url, make_manifest, read_index, read_manifest, write_manifest
from fmshards.stream import FeatureDataset, decode_chunks, loader
from tests.sets import BuiltSet, build_set, write_shard
from tests.stream.helpers import error_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> BuiltSet:
    return build_set(
        tmp_path_factory.mktemp("faults") / "set", samples=(12, 7), chunk=4, recipe="flip", layers={"layer2": "8"}
    )


@pytest.fixture(scope="module")
def truth(whole: BuiltSet) -> dict[str, dict[str, np.ndarray]]:
    """Decoded features of the undamaged set: stream -> key -> array."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for stream, member in (("base", "base.zfp"), ("mirror", "mirror.zfp")):
        codec = whole.plan.layer_members("layer2")[member]
        features = codec.decode(codec.encode(whole.features["layer2"][stream])).numpy()
        found[stream] = dict(zip(whole.keys, features, strict=True))
    return found


@pytest.fixture
def damaged(whole: BuiltSet, tmp_path: Path) -> tuple[str, Path]:
    """(url of a copy, its first shard)."""
    shutil.copytree(whole.path, tmp_path / "set")
    return str(tmp_path / "set"), tmp_path / "set" / "layer2" / "000000.tar"


def stream_samples(url: str) -> Iterator[tuple[str, bool, np.ndarray, int]]:
    for batch in FeatureDataset(url, batch_size=4, augment=True):
        for i, key in enumerate(batch["__key__"]):
            yield key, bool(batch["mirrored"][i]), batch["layer2"][i].numpy(), int(batch["cls"][i])


def stage_samples(url: str) -> Iterator[tuple[str, bool, np.ndarray, int]]:
    urls = [f"{url}/layer2/00000{shard}.tar" for shard in (0, 1)]
    for sample in wds.DataPipeline(wds.SimpleShardList(urls), decode_chunks()):
        yield sample["__key__"], sample["mirrored"], sample["layer2"].numpy(), sample["cls"]


WAYS = [stream_samples, stage_samples]


def read_damaged(samples, url: str, whole: BuiltSet, truth) -> bool:
    """Whether reading ended in an error; every sample that came was right."""
    message = None
    try:
        for key, mirrored, feature, cls in samples(url):
            assert np.array_equal(feature, truth["mirror" if mirrored else "base"][key])
            assert cls == whole.classes[whole.keys.index(key)]
    except FmshardsError as error:
        message = str(error)
    assert message is None or "000000.tar" in message
    return message is not None


def flip(path: Path, rng: random.Random) -> bool | None:
    """Change one bit. Whether that must be an error; None where it depends on the reference that is read."""
    index = read_index(str(path))
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    if data.find(b"__fmshards__") + 512 <= at < len(data) - 1024:
        return None  # the index or the padding after it
    for chunk in index.chunks:
        for name, (offset, length, _) in chunk.members.items():
            if offset <= at < offset + length:
                return True if name == "meta" else None
    return False


def cut(path: Path, rng: random.Random) -> bool | None:
    """Cut the file. Only its two last blocks, of zeros, can be missing without harm; the padding before may be."""
    size = path.stat().st_size
    left = rng.randrange(size)
    path.write_bytes(path.read_bytes()[:left])
    return True if left < size - 1024 - 512 else None


@pytest.mark.parametrize("samples", WAYS)
@pytest.mark.parametrize(
    ("damage", "times"),
    [
        (flip, 40),
        (cut, 20),
        pytest.param(flip, 300, marks=pytest.mark.slow),
        pytest.param(cut, 100, marks=pytest.mark.slow),
    ],
)
def test_no_wrong_sample(samples, damage, times: int, damaged, whole, truth) -> None:
    url, shard = damaged
    intact = shard.read_bytes()
    assert not read_damaged(samples, url, whole, truth)
    found = {True: 0, False: 0}
    for seed in range(times):
        shard.write_bytes(intact)
        must = damage(shard, random.Random(seed))
        error = read_damaged(samples, url, whole, truth)
        assert must is None or error is must
        found[error] += 1
    assert found[True] > times // 4


@pytest.mark.parametrize("samples", WAYS)
def test_a_swapped_shard_is_found(samples, damaged, whole, truth) -> None:
    url, shard = damaged
    shutil.copy(shard.with_name("000001.tar"), shard)
    assert read_damaged(samples, url, whole, truth)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_error_reaches_the_user(damaged, workers: int) -> None:
    url, shard = damaged
    data = bytearray(shard.read_bytes())
    data[600] ^= 1  # the first chunk's meta
    shard.write_bytes(data)
    message = error_of(CorruptError, loader(url, 4, num_workers=workers, persistent_workers=False))
    assert "000000.tar" in message
    assert "meta" in message


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_shard_is_named(damaged, workers: int) -> None:
    url, shard = damaged
    shard.unlink()
    message = error_of(StoreError, DataLoader(FeatureDataset(url, batch_size=4), None, num_workers=workers))
    assert "layer2/000000.tar" in message


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_cut_short_while_it_is_read(tmp_path: Path, workers: int) -> None:
    built = build_set(tmp_path / "set", samples=(120,), chunk=4)
    iterator = iter(loader(built.url, 2, num_workers=workers, prefetch_factor=1 if workers else None, train=False))
    next(iterator)
    with (built.path / "layer2" / "000000.tar").open("r+b") as file:
        file.truncate(700)
    assert "000000.tar" in error_of(CorruptError, iterator)


def test_layers_that_do_not_belong_together(tmp_path: Path) -> None:
    layers = {"layer2": "4", "layer3": "4"}
    built = build_set(tmp_path / "a", samples=(8,), chunk=4, layers=layers)
    codec = built.plan.layer_members("layer3")["base.zfp"]

    def others(layer: str, shard: int, start: int, n: int) -> dict[str, Any]:
        rows = codec.encode(built.features[layer]["base"][start : start + n])
        return {
            "keys": [f"x{i}" for i in range(start, start + n)],
            "fields": {"cls": [b"1"] * n},
            "theta": None,
            "members": {"base.zfp": codec.member(rows)},
        }

    entry = write_shard(layer_url(built.url, "layer3", "000000.tar"), built.plan, "layer3", 0, others)
    shards = dict(read_manifest(built.url).shards) | {"layer3": (entry,)}
    with pytest.raises(MismatchError, match="sample 0 has the key 's0_0000' and 'x0'"):
        make_manifest(built.url, built.plan, shards)
    write_manifest(built.url, Manifest(built.plan, shards, {}, 8))
    assert "its keys are not those of" in error_of(CorruptError, FeatureDataset(built.url, batch_size=4))
