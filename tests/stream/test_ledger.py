"""Chunks that are bad and left out: what batches hold then, and what the state carries."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fmshards.errors import CorruptError, InputError
from fmshards.shards import read_index
from fmshards.stream import loader
from tests.sets import BuiltSet

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture
def damaged(plain: BuiltSet, tmp_path: Path) -> str:
    """`plain`, with a byte of its second chunk's rows changed."""
    shutil.copytree(plain.path, tmp_path / "set")
    shard = tmp_path / "set" / "layer2" / "000000.tar"
    offset, length, _ = next(v for k, v in read_index(str(shard)).chunks[1].members.items() if k.startswith("base"))
    data = bytearray(shard.read_bytes())
    data[offset + length // 2] ^= 1
    shard.write_bytes(data)
    return str(tmp_path / "set")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_chunk_is_left_out_and_named(damaged: str, workers: int) -> None:
    with pytest.raises(CorruptError, match=r"000000\.tar.*000001\.base"):
        list(loader(damaged, 8, num_workers=workers))
    batches = loader(damaged, 8, num_workers=workers, on_bad="skip")
    made = list(batches)
    assert len(made) == len(batches) == 9
    counted = [
        key for batch in made for key, valid in zip(batch["__key__"], batch["valid"].tolist(), strict=True) if valid
    ]
    assert len(set(counted)) == len(counted) >= 72 - 8
    (entry,) = batches.ledger
    assert (entry["chunk"], entry["shard"], entry["samples"]) == (1, "000000.tar", [8, 16])
    assert "000001.base" in entry["error"]
    assert batches.stats()["quarantined"] > 0


def test_the_state_carries_the_ledger(damaged: str) -> None:
    before = loader(damaged, 8, num_workers=0, on_bad="skip")
    assert "ledger" not in before.state_dict()
    list(before)
    state = json.loads(json.dumps(before.state_dict()))
    assert state["ledger"] == before.ledger
    after = loader(damaged, 8, num_workers=0, on_bad="skip")
    after.load_state_dict(state)
    assert after.ledger == before.ledger
    assert after.state_dict() == state
    # Where bad chunks are not left out there is no ledger to go on with; the samples are the same.
    strict = loader(damaged, 8, num_workers=0)
    strict.load_state_dict(state)
    assert strict.ledger == []


@pytest.mark.parametrize("entries", [3, [3], [{}], [{"chunk": "1", "shard": "a", "samples": [0, 1], "error": "b"}]])
def test_a_ledger_that_is_none(plain: BuiltSet, entries: Any) -> None:
    batches = loader(plain.url, 8, num_workers=0, on_bad="skip")
    with pytest.raises(InputError, match="the state's ledger is a list of entries"):
        batches.load_state_dict({**batches.state_dict(), "ledger": entries})
    assert len(list(batches)) == 9
