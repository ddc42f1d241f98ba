"""A real shard, damaged: features of real images through both ways of reading are right, or reading says it is not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import webdataset as wds

import fmshards
from fmshards.errors import FmshardsError

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "examples" / "data"

Sample = tuple[str, bool, torch.Tensor, int]


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("damage") / "set"
    fmshards.extract(
        str(DATA / "cifar10-test-000002.tar"),
        str(out),
        model=f"{ROOT}/examples/resnet20.py:resnet20",
        weights=f"{DATA}/resnet20.safetensors",
        preprocess="normalize(imagenet)",
        layers={"layer3": 4},
        recipe="flip",
        calibration=32,
        chunk=50,
    )
    return out


def stream(url: Path) -> Iterator[Sample]:
    for batch in fmshards.FeatureDataset(str(url), batch_size=50):
        for i, key in enumerate(batch["__key__"]):
            yield key, bool(batch["mirrored"][i]), batch["layer3"][i], int(batch["cls"][i])


def plugin(url: Path) -> Iterator[Sample]:
    urls = [str(url / "layer3" / "000000.tar")]
    for sample in wds.DataPipeline(wds.SimpleShardList(urls), fmshards.decode_chunks()):
        yield sample["__key__"], sample["mirrored"], sample["layer3"], sample["cls"]


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


@pytest.mark.slow
@pytest.mark.parametrize("read", [stream, plugin])
@pytest.mark.parametrize(("damage", "times"), [(flip, 300), (cut, 100)])
def test_no_wrong_sample(
    shard_set: Path,
    read: Callable[[Path], Iterator[Sample]],
    damage: Callable[[bytes, random.Random], bytes],
    times: int,
) -> None:
    samples = fmshards.open_shards(str(shard_set))
    truth = {
        (samples.sample(i)["__key__"], reference == "mirror"): samples.sample(i, reference)
        for reference in ("base", "mirror")
        for i in range(len(samples))
    }
    path = shard_set / "layer3" / "000000.tar"
    intact = path.read_bytes()
    errors = right = 0
    try:
        for seed in range(times):
            path.write_bytes(damage(intact, random.Random(seed)))
            try:
                for key, mirrored, feature, cls in read(shard_set):
                    expected = truth[key, mirrored]
                    assert torch.equal(feature, expected["layer3"])
                    assert cls == expected["cls"]
                    right += 1
            except FmshardsError as error:
                assert "000000.tar" in str(error)  # noqa: PT017  # either is right; which one, chance decides
                errors += 1
    finally:
        path.write_bytes(intact)
    # Of the rows half are the reference that is not read, so that flips may do no harm. A cut takes the index away.
    assert errors > times // 4
    assert right > 0 or damage is cut
