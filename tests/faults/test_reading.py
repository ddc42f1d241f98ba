"""What is asked of a store, and how much is held: as little as an epoch needs, however slow either side is."""

from __future__ import annotations

import re
import time

import pytest

from fmshards.reader import Combination, Fetcher, open_catalog
from fmshards.shards import read_index
from fmshards.store import Access
from fmshards.stream import FeatureDataset
from tests.servers import BUCKET, S3
from tests.sets import BuiltSet, build_set
from tests.stream.test_memory import Ledger

URL = f"s3://{BUCKET}/set"


@pytest.fixture
def built(s3: S3) -> BuiltSet:
    return build_set(s3.root / BUCKET / "set", samples=(40, 40), chunk=4, recipe="flip+crop(pad=4)", views=3)


def ranges(s3: S3) -> list[tuple[int, int]]:
    """[start, end) of what was read of shards, in order; nothing else may have been asked of them."""
    asked = [asked for asked, _ in s3.log() if ".tar" in asked]
    found = [re.fullmatch(r"GET \S*\.tar\S* bytes=(\d+)-(\d+)", each) for each in asked]
    assert all(found), asked
    return [(int(each[1]), int(each[2]) + 1) for each in found if each]


def test_one_request_a_chunk_and_one_an_index(s3: S3, built: BuiltSet) -> None:
    fetcher = Fetcher(open_catalog(URL), access=Access())
    s3.log()
    index = read_index(str(built.path / "layer2" / "000000.tar"))
    for chunk in (3, 4, 5):
        fetcher.fetch(chunk, Combination("base", 0))
    first, *chunks = ranges(s3)
    assert first[0] > max(offset for offset, _, _ in index.chunks[-1].members.values())
    for chunk, (start, end) in zip((3, 4, 5), chunks, strict=True):
        members = index.chunks[chunk].members
        base = next(place for name, place in members.items() if name.startswith("base"))
        assert (start, end) == (members["meta"][0], base[0] + base[1])


def test_only_the_view_that_is_drawn(s3: S3, built: BuiltSet) -> None:
    fetcher = Fetcher(open_catalog(URL), access=Access())
    fetcher.fetch(0)
    s3.log()
    shown = next(each for each in fetcher.catalog.combinations if each.view == 1)
    found = fetcher.fetch(1, shown)
    assert found.bytes > 0
    assert len(ranges(s3)) == 1  # the gap between is smaller than what a request costs


@pytest.mark.parametrize("latency", [0.0, 0.02])
def test_memory_is_bounded_however_slow_either_side_is(
    s3: S3, built: BuiltSet, latency: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.faults(latency=latency)
    data = FeatureDataset(URL, batch_size=4, memory=500_000, rank=0, ranks=1)
    ledger = Ledger(monkeypatch)
    for _ in data:
        time.sleep(0.0 if latency else 0.02)
    assert 0 < ledger.most <= data.memory_needed() <= 500_000


def test_more_is_read_ahead_from_a_store_and_stated(s3: S3, built: BuiltSet) -> None:
    far = FeatureDataset(URL, batch_size=4, rank=0, ranks=1, groups=1, lanes=4, window=1)
    near = FeatureDataset(built.url, batch_size=4, rank=0, ranks=1, groups=1, lanes=4, window=1)
    assert far.memory_needed() > near.memory_needed()
    tight = FeatureDataset(URL, batch_size=4, rank=0, ranks=1, groups=1, lanes=4, window=1, memory=near.memory_needed())
    assert tight.memory_needed() == near.memory_needed()
