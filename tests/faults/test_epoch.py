"""An epoch from a store that fails has the bytes of one from disk: every batch, on every rank, and all samples."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fmshards.errors import CorruptError, FormatError, MismatchError, StoreError
from fmshards.shards import read_manifest
from fmshards.stream import loader
from tests.servers import BUCKET, S3
from tests.sets import BuiltSet, build_set
from tests.stream.helpers import error_of

URL = f"s3://{BUCKET}/set"
SHAPE: dict[str, Any] = {"groups": 2, "lanes": 4, "window": 2, "memory": 400_000}
FAILING = {"rate": 0.2, "stall": 3.0, "seed": 1}


@pytest.fixture
def built(s3: S3) -> BuiltSet:
    layers = {"layer2": "4", "layer3": "int4"}
    return build_set(s3.root / BUCKET / "set", samples=(75, 61), chunk=4, recipe="flip+crop(pad=4)", layers=layers)


def epoch(url: str, ranks: int = 2, workers: int = 2, **options: Any) -> list[list[dict[str, Any]]]:
    """The batches of each rank."""
    out = []
    for rank in range(ranks):
        load = loader(url, 8, num_workers=workers, rank=rank, ranks=ranks, **SHAPE, **options)
        out.append(list(load))
        close(load)
    return out


def close(load: Any) -> None:
    """End the workers, which persist."""
    load._iterator = None


def assert_same(found: list[list[dict[str, Any]]], expected: list[list[dict[str, Any]]]) -> None:
    assert [len(batches) for batches in found] == [len(batches) for batches in expected]
    for batches, others in zip(found, expected, strict=True):
        for batch, other in zip(batches, others, strict=True):
            assert batch.keys() == other.keys()
            for name, value in batch.items():
                assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]


def keys(ranks: list[list[dict[str, Any]]]) -> list[str]:
    return sorted(key for batches in ranks for batch in batches for key in batch["__key__"])


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(["status"], id="status"),
        pytest.param(["reset", "reset_body", "short"], id="broken"),
        pytest.param(["flip"], id="flipped"),
        pytest.param(["stall", "stall_body"], id="stalled", marks=pytest.mark.slow),
    ],
)
def test_an_epoch_has_the_bytes_of_one_from_disk(s3: S3, built: BuiltSet, kinds: list[str]) -> None:
    expected = epoch(built.url)
    s3.faults(**FAILING, kinds=kinds)
    found = epoch(URL, patience=8)
    fates = [fate for _, fate in s3.log()]
    assert_same(found, expected)
    assert len(set(keys(found))) == len(keys(found)) == 128
    assert sum(fate != "" for fate in fates) > len(fates) / 10


def test_a_digit_of_the_manifest_that_changed_on_its_way_is_not_believed(s3: S3, built: BuiltSet) -> None:
    """Its entries, where indices lie among them, have no checksum of their own."""
    expected = read_manifest(built.url)
    for seed in range(100):
        s3.faults(rate=1.0, kinds=["flip"], only="manifest", seed=seed)
        assert read_manifest(URL) == expected
    s3.faults(rate=1.0, kinds=["flip"], only="manifest", most=9)
    with pytest.raises(FormatError, match=r"manifest\.json"):
        read_manifest(URL)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("used", [False, True])
def test_every_way_to_start_workers(s3: S3, built: BuiltSet, context: str, used: bool) -> None:
    """Also where the parent has streamed from the store itself before."""
    expected = epoch(built.url, ranks=1)
    s3.faults(**FAILING)
    if used:
        assert_same(epoch(URL, ranks=1, workers=0, patience=8), expected)
    assert_same(epoch(URL, ranks=1, patience=8, multiprocessing_context=context), expected)


def test_workers_forked_from_a_process_that_has_used_the_store(s3: S3, built: BuiltSet) -> None:
    expected = epoch(built.url, ranks=1)
    assert_same(epoch(URL, ranks=1, workers=0), expected)
    assert_same(epoch(URL, ranks=1, multiprocessing_context="fork"), expected)


@pytest.mark.parametrize("away", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_a_server_that_is_killed_and_started_again(s3: S3, built: BuiltSet, away: int) -> None:
    expected = epoch(built.url, ranks=1)
    s3.faults(latency=0.02)
    load = loader(URL, 8, num_workers=2, rank=0, ranks=1, prefetch_factor=1, **SHAPE)
    batches = iter(load)
    found = [next(batches) for _ in range(4)]
    s3.kill()
    back = threading.Timer(away, s3.start)
    back.start()
    found += batches
    back.join()
    close(load)
    assert_same([found], expected)


def test_a_server_that_stays_away_is_given_up(s3: S3, built: BuiltSet) -> None:
    s3.faults(latency=0.02)
    load = loader(URL, 8, num_workers=2, rank=0, ranks=1, prefetch_factor=1, patience=1, **SHAPE)
    batches = iter(load)
    next(batches)
    s3.kill()
    assert "given up after" in error_of(StoreError, batches)
    close(load)


def test_waiting_ends_with_the_iteration(s3: S3, built: BuiltSet) -> None:
    """Nobody waits for a store whose answer is not wanted any more."""
    load = loader(URL, 8, num_workers=0, rank=0, ranks=1, **SHAPE)
    batches = iter(load)
    next(batches)
    s3.kill()
    time.sleep(0.5)
    del batches  # the fixture sees to it that no thread is left


def test_what_listings_say_does_not_matter(s3: S3, built: BuiltSet) -> None:
    expected = epoch(built.url, ranks=1)
    s3.faults(hidden=["manifest.json", "plan.json", "000000.tar", "000001.tar"])
    assert_same(epoch(URL, ranks=1, workers=0), expected)


def test_refusals_are_said_at_once(s3: S3, built: BuiltSet) -> None:
    load = loader(URL, 8, num_workers=0, rank=0, ranks=1, **SHAPE)
    s3.faults(rate=1, kinds=["status"], statuses=[403], most=100)
    message = error_of(StoreError, load)
    assert "403" in message or "Forbidden" in message
    assert "given up" not in message


def test_an_object_that_is_written_anew_is_an_error(s3: S3, built: BuiltSet) -> None:
    pytest.importorskip("obstore")
    load = loader(URL, 8, num_workers=0, rank=0, ranks=1, **SHAPE)
    batches = iter(load)
    next(batches)
    for shard in (built.path / "layer2").iterdir():
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1  # nothing that a checksum of a member covers
        anew = shard.with_suffix(".new")
        anew.write_bytes(data)
        anew.replace(shard)  # at once, as in a store
    assert "written anew while it was read" in error_of(MismatchError, batches)


def damage(built: BuiltSet) -> str:
    """Flip a bit of a chunk's rows, base and mirror, for good; the name of its shard."""
    from fmshards.shards import read_index

    shard = built.path / "layer3" / "000000.tar"
    data = bytearray(shard.read_bytes())
    for name, (offset, _, _) in read_index(str(shard)).chunks[5].members.items():
        if name != "meta":
            data[offset + 10] ^= 4
    shard.write_bytes(data)
    return "layer3/000000.tar"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_chunk_that_stays_bad_is_named(s3: S3, built: BuiltSet, workers: int) -> None:
    shard = damage(built)
    load = loader(URL, 8, num_workers=workers, rank=0, ranks=1, **SHAPE)
    message = error_of(CorruptError, load)
    close(load)
    for said in (shard, "000005.", "bytes ", "checksum"):
        assert said in message


def test_a_bad_chunk_is_left_out(s3: S3, built: BuiltSet) -> None:
    """Every rank has as many batches of the same shapes, and all else has the same bytes."""
    expected = epoch(built.url)
    shard = damage(built)
    ledgers, found = [], []
    for rank in range(2):
        load = loader(URL, 8, num_workers=2, rank=rank, ranks=2, on_bad="skip", **SHAPE)
        found.append(list(load))
        ledgers.append(load.ledger)
        close(load)
    bad = set(built.keys[20:24])
    seen = 0
    for batches, others in zip(found, expected, strict=True):
        assert len(batches) == len(others)
        for batch, other in zip(batches, others, strict=True):
            lost = torch.tensor([key in bad for key in other["__key__"]])
            assert torch.equal(batch["valid"], ~lost)
            seen += int(lost.sum())
            for name, value in batch.items():
                if isinstance(value, torch.Tensor) and name != "valid":
                    assert torch.equal(value[~lost], other[name][~lost])
                    assert (value.shape, value.dtype) == (other[name].shape, other[name].dtype)
    assert seen >= 1
    (entry,) = {str(entry): entry for ledger in ledgers for entry in ledger}.values()
    assert (entry["chunk"], entry["shard"], entry["samples"]) == (5, "000000.tar", [20, 24])
    assert shard in entry["error"]


def test_a_set_that_is_all_bad_is_an_error(s3: S3, built: BuiltSet) -> None:
    for shard in (built.path / "layer2").iterdir():
        shard.write_bytes(bytes(len(shard.read_bytes())))
    load = loader(URL, 8, num_workers=0, rank=0, ranks=1, on_bad="skip", **SHAPE)
    assert "nor can any of the chunks be read" in error_of(CorruptError, load)


def test_a_cache_serves_epochs_and_other_processes(s3: S3, built: BuiltSet, tmp_path: Path) -> None:
    """Also where what came first was damaged on its way: it is asked for again, and that is kept."""
    expected = epoch(built.url, ranks=1)
    s3.faults(rate=0.3, kinds=["flip"])
    assert_same(epoch(URL, ranks=1, cache=tmp_path / "cache"), expected)
    s3.faults()
    s3.log()
    for workers in (2, 0):
        assert_same(epoch(URL, ranks=1, workers=workers, cache=tmp_path / "cache"), expected)
    asked = [asked for asked, _ in s3.log() if ".tar" in asked]
    assert asked
    assert all(each.startswith("HEAD") for each in asked)
    assert not [name for _, _, names in os.walk(tmp_path / "cache") for name in names if name.endswith(".tmp")]
