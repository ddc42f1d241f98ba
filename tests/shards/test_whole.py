"""A set is declared whole where its layers hold the same samples, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmshards.errors import MismatchError
from fmshards.shards import (
    ShardEntry,
    ShardWriter,
    check_layers_agree,
    entry_of,
    layer_url,
    make_manifest,
    remove_set,
    still_ours,
    write_plan,
)
from tests.shards.build import chunk_args, layer_plan, small_plan, write_set, write_shard

Change = Callable[[dict[str, Any]], None]


def key(args: dict[str, Any]) -> None:
    args["keys"][2] = "another"


def field(args: dict[str, Any]) -> None:
    args["fields"]["n"][3] = {"i": [77]}


def label(args: dict[str, Any]) -> None:
    args["fields"]["cls"][1] = b"8"


def order(args: dict[str, Any]) -> None:
    args["keys"][:2] = args["keys"][1::-1]


def more(args: dict[str, Any]) -> None:
    args["fields"]["extra"] = args["fields"]["cls"]


def theta(args: dict[str, Any]) -> None:
    args["theta"][0, 0, 0, 0] += np.float32(1)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (key, "sample 2 has the key 's1-2' and 'another'"),
        (field, "sample 's1-3': the field 'n' is"),
        (label, "sample 's1-1': the field 'cls' is"),
        (order, "sample 0 has the key 's1-0' and 's1-1'"),
        (more, "one has the field 'extra', the other has not"),
        (theta, "their thetas differ"),
    ],
)
def test_layers_of_different_samples_are_no_set(tmp_path: Path, change: Change, words: str, known: bool) -> None:
    plan, root = small_plan(), str(tmp_path / "set")
    write_set(tmp_path / "set", plan)
    url = layer_url(root, "head", "000001.tar")
    channels = plan.layer_members("head")["base.zfp"].spec.channels
    with ShardWriter(url, plan.digest, "head") as writer:
        for start in (0, 8):
            args = chunk_args(plan, "head", 1, start, 8)
            change(args) if not start or change is more else None
            writer.add(**args)
        writer.errors({"samples": 8, "error": [1.0] * channels, "energy": [2.0] * channels})
        entry = writer.close()
    found = {name: [_entry(root, plan, name, i) for i in (0, 1)] for name in ("layer2", "head")}
    assert found["head"][1] == entry
    assert found["head"][1].samples_digest == entry.samples_digest
    if not known:  # as entries of a manifest are
        found = {name: [ShardEntry.from_json(e.to_json(), "") for e in entries] for name, entries in found.items()}
    for check in (check_layers_agree, make_manifest):
        with pytest.raises(MismatchError, match=r"000001\.tar: the layers layer2 and head .*delete") as caught:
            check(root, plan, found)
        assert words in str(caught.value)


def _entry(root: str, plan: Any, layer: str, shard: int) -> ShardEntry:
    found = entry_of(layer_url(root, layer, f"{shard:06d}.tar"), plan.digest, layer)
    assert found is not None
    return found


def test_a_shard_written_and_read_has_one_digest_of_samples(tmp_path: Path) -> None:
    plan = small_plan()
    written = {name: write_shard(str(tmp_path / name / "000000.tar"), plan, name, 0) for name in ("layer2", "head")}
    read = {name: entry_of(str(tmp_path / name / "000000.tar"), plan.digest, name) for name in written}
    assert len({entry.samples_digest for entry in (*written.values(), *read.values()) if entry}) == 1
    assert written["layer2"].samples_digest is not None
    assert "samples_digest" not in written["layer2"].to_json()


def test_whether_a_set_is_still_ours(tmp_path: Path) -> None:
    root, plan = str(tmp_path / "set"), small_plan()
    write_set(tmp_path / "set", plan)
    assert still_ours(root, plan)
    remove_set(root, [])
    assert not still_ours(root, plan)
    write_plan(root, small_plan(options={"batch": 32}))
    assert not still_ours(root, plan)
    (tmp_path / "set" / "plan.json").write_bytes(b"{}")
    assert not still_ours(root, plan)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cls": [b"1"] * 2, "more": [1, 2]}, "its samples have the field 'more', unlike those of 000000.tar"),
        ({}, "its samples lack the field 'cls'"),
        ({"cls": ["cat", "dog"]}, "its field 'cls' is no number, that of 000000.tar one whole number"),
    ],
)
def test_shards_of_other_fields_are_no_set(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    plan = small_plan(views=0, layers=(layer_plan("layer2", (8, 8, 8), views=0),))
    write_plan(str(tmp_path), plan)
    entries = []
    for shard, own in enumerate(({"cls": [b"1", b"2"]}, fields)):
        url = layer_url(str(tmp_path), "layer2", f"{shard:06d}.tar")
        with ShardWriter(url, plan.digest, "layer2") as writer:
            writer.add(**{**chunk_args(plan, "layer2", shard, 0, 2), "fields": own})
            entries.append(writer.close())
        # Read again it says the same of itself as when it was written.
        read = entry_of(url, plan.digest, "layer2")
        assert read is not None
        assert read.kinds == entries[-1].kinds
    with pytest.raises(MismatchError, match=words):
        make_manifest(str(tmp_path), plan, {"layer2": entries})
