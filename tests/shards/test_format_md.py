"""FORMAT.md says what the code does: the worked example, the keys and the limits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fmshards.shards import Manifest, limits
from fmshards.shards.envelope import unseal
from tests.shards import reader40
from tests.shards.example import BEGIN, END, FORMAT, example_features, rendered, write_example

TEXT = FORMAT.read_text()


def test_the_worked_example_is_what_is_written() -> None:
    assert TEXT.split(BEGIN)[1].split(END)[0] == rendered(), "run python -m tests.shards.example"


def test_the_reader_reads_the_example(tmp_path: Path) -> None:
    write_example(tmp_path)
    ((keys, fields, x),) = reader40.read(tmp_path, "out")
    assert keys == ["a", "b"]
    assert fields == {"cls": [b"0", b"1"]}
    assert np.abs(x - example_features()).max() < 0.2


def test_it_names_the_reader() -> None:
    assert "tests/shards/reader40.py" in TEXT


def test_every_key_is_explained(small_set: tuple[Path, Manifest]) -> None:
    folder, manifest = small_set
    value = manifest.to_json()
    (layer, *_), plan = value["layers"].values(), value["plan"]
    shard = (folder / "layer2" / "000000.tar").read_bytes()
    entry = manifest.shards["layer2"][0]
    index = unseal(shard[entry.index_offset :][: entry.index_length], "")
    offset, length, _ = index["chunks"][0][1][0]
    objects = [
        value, plan, layer, layer["shards"][0], layer["error"], plan["inputs"][0], plan["layers"][0],
        plan["layers"][0]["codec"], plan["layers"][0]["codec"]["spec"], plan["layers"][0]["similarity"],
        plan["layers"][0]["grid"], index, index["errors"], unseal(shard[offset : offset + length], ""),
    ]  # fmt: skip
    for key in sorted({key for each in objects for key in each}):
        assert f"`{key}`" in TEXT or f'"{key}"' in TEXT, f"FORMAT.md does not explain {key}"


def test_the_limits_are_the_code_s() -> None:
    table = TEXT.split("## Limits")[1].split("##")[0]
    named = {name: value for name, value in vars(limits).items() if name.isupper() and name not in ("VERSION", "MIB")}
    for name, value in named.items():
        assert f"{value:,}" in table, f"FORMAT.md does not list {name} = {value:,}"


def test_canonical_json(small_set: tuple[Path, Manifest]) -> None:
    for name in ("plan.json", "manifest.json"):
        data = (small_set[0] / name).read_bytes()
        again = json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert data == again.encode() + b"\n"
