"""Every kind of damage to a shard: an error, or the right rows; never others, no crash and no hang."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from fmshards.errors import FmshardsError
from fmshards.reader import Combination, Fetched, Fetcher, open_catalog
from fmshards.store import Access
from tests.sets import BuiltSet, build_set


@pytest.fixture
def built(tmp_path: Path) -> BuiltSet:
    return build_set(tmp_path / "set", samples=(60,), chunk=8, recipe="flip+crop(pad=4)", layers={"layer2": "4"})


def read(url: str, cache: Path | None = None) -> dict[tuple[int, str], Fetched | None]:
    """Each chunk by each reference, read by a reader that knows nothing yet; None where that is an error."""
    fetcher = Fetcher(open_catalog(url), access=Access(None if cache is None else str(cache)))
    found: dict[tuple[int, str], Fetched | None] = {}
    for chunk in range(fetcher.catalog.chunks):
        for reference in ("base", "mirror"):
            try:
                found[chunk, reference] = fetcher.fetch(chunk, Combination(reference, 0))
            except FmshardsError:
                found[chunk, reference] = None
    return found


def assert_right(found: dict[tuple[int, str], Fetched | None], truth: dict[tuple[int, str], Fetched | None]) -> int:
    """Whatever was read is what was written; how much was not."""
    for place, chunk in found.items():
        expected = truth[place]
        assert expected is not None
        if chunk is not None:
            assert (chunk.keys, chunk.fields) == (expected.keys, expected.fields)
            assert np.array_equal(chunk.rows["layer2"][place[1]], expected.rows["layer2"][place[1]])
    return sum(chunk is None for chunk in found.values())


@pytest.mark.parametrize("flips", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_flipped_bits(built: BuiltSet, flips: int) -> None:
    truth, shard, chance = read(built.url), built.path / "layer2" / "000000.tar", random.Random(0)
    lost = 0
    with open(shard, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        for _ in range(flips):
            at, bit = chance.randrange(size), 1 << chance.randrange(8)
            (byte,) = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([byte ^ bit]), at)
            lost += assert_right(read(built.url), truth) > 0
            os.pwrite(file.fileno(), bytes([byte]), at)
    assert lost > flips / 2
    assert assert_right(read(built.url), truth) == 0


@pytest.mark.parametrize("step", [8192, pytest.param(512, marks=pytest.mark.slow)])
def test_cuts(built: BuiltSet, step: int) -> None:
    truth, shard = read(built.url), built.path / "layer2" / "000000.tar"
    data = shard.read_bytes()
    for left in range(0, len(data) - 2048, step):
        shard.write_bytes(data[:left])
        assert assert_right(read(built.url), truth) > 0


def test_a_damaged_cache(built: BuiltSet, tmp_path: Path) -> None:
    """What is kept may be damaged in any way: it is read again."""
    truth, cache, chance = read(built.url), tmp_path / "cache", random.Random(0)
    for _ in range(10):
        assert assert_right(read(built.url, cache), truth) == 0
        for path in cache.rglob("*"):
            if path.is_file() and chance.random() < 0.5:
                data = bytearray(path.read_bytes())
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                path.write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
