"""What a writer refuses, and that an error leaves no shard."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmshards.errors import FmshardsError, InputError
from fmshards.shards import Manifest, ShardWriter, decode_field, entry_of, field_value
from tests.shards.build import small_plan, write_shard

GOOD: dict[str, Any] = {
    "keys": ["a", "b"],
    "fields": {"cls": [b"1", b"2"]},
    "theta": None,
    "members": {"base.raw": b"12345678"},
}
THETA = np.zeros((2, 1, 2, 3), np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keys": ["c", "a"]}, "'a' occurs twice"),
        ({"keys": ["c", "c"]}, "'c' occurs twice"),
        ({"keys": ["c", ""]}, "1 to 4096"),
        ({"keys": ["c", 7]}, "must be text"),
        ({"keys": []}, "0 samples|values for 0"),
        ({"keys": ["c", "d", "e"], "fields": {"cls": [b"1"] * 3}}, "all chunks but the last hold 2"),
        ({"fields": {"cls": [b"1"]}}, "'cls' has 1 values for 2"),
        ({"fields": {}}, "'cls' is in some chunks"),
        ({"fields": {"cls": [b"1", b"2"], "more": [1, 2]}}, "'more' is in some chunks"),
        ({"fields": {"cls": [b"1", object()]}}, "field 'cls': cannot store a value of type object"),
        ({"theta": THETA}, "theta of 1 views after chunks of 0"),
        ({"members": {"mirror.raw": b""}}, r"members \['mirror.raw'\]"),
        ({"members": {"../base.raw": b""}}, "letters, digits"),
    ],
)
def test_refused_chunks(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    url = str(tmp_path / "000000.tar")
    second = {**GOOD, "keys": ["c", "d"], **change}

    def write() -> None:
        with ShardWriter(url, "0" * 64, "layer2") as writer:
            writer.add(**GOOD)
            writer.add(**second)

    with pytest.raises(FmshardsError, match=words) as caught:
        write()
    assert "chunk 1" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_chunk_after_a_shorter_one(tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path / "000000.tar"), "0" * 64, "layer2") as writer:
        writer.add(["a", "b"], {}, None, {})
        writer.add(["c"], {}, None, {})
        with pytest.raises(InputError, match="1 samples after 1: all chunks but the last hold 2"):
            writer.add(["d"], {}, None, {})


@pytest.mark.parametrize(
    "theta",
    [THETA.astype(np.float64), THETA[:1], THETA[:, :, :1], np.full_like(THETA, np.nan), THETA[0]],
    ids=["dtype", "n", "shape", "nan", "ndim"],
)
def test_refused_thetas(tmp_path: Path, theta: np.ndarray) -> None:
    with (
        pytest.raises(InputError, match="theta must be finite float32"),
        ShardWriter(str(tmp_path / "000000.tar"), "0" * 64, "layer2") as writer,
    ):
        writer.add(**{**GOOD, "theta": theta})


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "plan.json", "x" * 200, "ü"])
def test_layers_that_climb_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(FmshardsError, match="layer must be"):
        ShardWriter(str(tmp_path / "000000.tar"), "0" * 64, name)


def test_two_writers_of_one_shard_are_harmless(small_set: tuple[Path, Manifest], tmp_path: Path) -> None:
    plan, url = small_plan(), str(tmp_path / "000000.tar")
    threads = [threading.Thread(target=write_shard, args=(url, plan, "layer2", 0)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert entry_of(url, plan.digest, "layer2") == small_set[1].shards["layer2"][0]


def test_values_become_plain() -> None:
    import torch

    deep: list[Any] = []
    deep.append(deep)
    assert field_value(np.float32(0.5)) == 0.5
    assert type(field_value(np.int64(3))) is int
    assert type(field_value(np.bool_(True))) is bool
    assert field_value(torch.tensor(3)) == 3
    assert field_value(torch.ones(2, 2, requires_grad=True)) == [[1.0, 1.0], [1.0, 1.0]]
    assert field_value(np.arange(3)) == [0, 1, 2]
    assert field_value({"a": (1, None, "x", b"y", bytearray(b"z"))}) == {"a": [1, None, "x", b"y", b"z"]}
    for bad in (object(), {1: 2}, 1 << 64, "\ud800", deep, {3}, np.array([object()]), 1j):
        with pytest.raises(InputError, match="sample 'k': field 'f'"):
            field_value(bad, "sample 'k': field 'f'")


def test_fields_are_read_by_their_extension() -> None:
    assert decode_field("cls", b"6") == 6
    assert decode_field("a.json", b'{"x": [1]}') == {"x": [1]}
    assert decode_field("txt", "ü".encode()) == "ü"
    assert decode_field("png", b"\x89") == b"\x89"
    assert decode_field("pickle", b"\x80\x04.") == b"\x80\x04."
    assert decode_field("cls", 3) == 3
    for name, value in (("cls", b"x"), ("json", b"{"), ("json", b"[" * 100_000), ("txt", b"\xff")):
        with pytest.raises(FmshardsError, match=f"field '{name}' cannot be read as {name}"):
            decode_field(name, value)
