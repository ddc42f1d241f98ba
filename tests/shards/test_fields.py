"""The reader's rule for fields: what it cannot serve is refused when written, key and field named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fmshards.errors import FormatError, InputError
from fmshards.shards import (
    ShardWriter,
    batch_names,
    check_layer_names,
    check_readable,
    column,
    decode_field,
    read_index,
    served_names,
)
from fmshards.shards.envelope import seal
from fmshards.shards.meta import parse_meta


def nested(depth: int) -> list[Any]:
    out: list[Any] = []
    for _ in range(depth - 1):
        out = [out]
    return out


DEEP = b"[" * 33 + b"]" * 33
UNREADABLE = [
    ("cls", b"cat", "cannot be read as cls"),
    ("cls", b"1_0", "cannot be read as cls"),
    ("cls", b"", "cannot be read as cls"),
    ("cls", b"1.5", "cannot be read as cls"),
    ("cls", None, "a label cannot be nothing"),
    ("cls", 1 << 63, "does not fit 64 bits"),
    ("cls", [1, 1 << 63], "does not fit 64 bits"),
    ("cls", 1e300, "does not fit float32"),
    ("id", b"n01440764_10026", "cannot be read as id"),
    ("a.index", b"?", "cannot be read as index"),
    ("json", b"{", "cannot be read as json"),
    ("json", DEEP, "nested too deeply"),
    ("json", b"[" * 600 + b"]" * 600, "nested too deeply"),
    ("json", b"[" * 100_000, "nested too deeply"),
    ("json", b"[" + b"[]," * 3_000_000 + b"[]]", "more than 4,194,304 values"),
    ("txt", b"\xff", "cannot be read as txt"),
    ("f", nested(33), "nested more than 32 deep"),
    ("f", {"a": nested(32)}, "nested more than 32 deep"),
    ("f", object(), "cannot store a value of type object"),
    ("__key__", b"", "does not begin with '__'"),
]


@pytest.mark.parametrize(("name", "value", "words"), UNREADABLE, ids=range(len(UNREADABLE)))
def test_what_no_reader_can_serve_is_not_written(tmp_path: Path, name: str, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as first:
        check_readable({name: value}, ["layer2"], "in.tar: key 'b'")
    assert str(first.value).startswith("in.tar: key 'b'")
    good = {"cls": 1}.get(name, None if name != "__key__" else 1)
    with (
        pytest.raises(InputError, match=words) as second,
        ShardWriter(str(tmp_path / "000000.tar"), "0" * 64, "layer2") as writer,
    ):
        writer.add(["a", "b"], {name: [good, value]}, None, {})
    assert name == "__key__" or ("'b'" in str(second.value) and repr(name) in str(second.value))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cls", b"7\n"), ("cls", -1), ("cls", True), ("cls", 0.5), ("cls", np.float32(2)), ("cls", torch.arange(40)),
        ("cls", "cat"), ("id", b"123456789012345678901234567890"), ("json", b"[" * 32 + b"]" * 32), ("f", nested(32)),
        ("png", b"\xff"), ("f", None), ("json", b'{"text": "' + b",[{" * 2_000_000 + b'"}'),
    ],
)  # fmt: skip
def test_what_a_reader_serves_is_written(tmp_path: Path, name: str, value: Any) -> None:
    check_readable({name: value}, ["layer2"], "here")
    with ShardWriter(str(tmp_path / "000000.tar"), "0" * 64, "layer2") as writer:
        writer.add(["a"], {name: [value]}, None, {})


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([1, 0.5], "is one number, in the samples before it one whole number"),
        ([[1, 2], [1, 2, 3]], "is a vector of 3 whole numbers, in the samples before it a vector of 2 whole numbers"),
        (["cat", 3], "is one whole number, in the samples before it no number"),
        ([b"3", [3]], "is a vector of 1 whole number"),
    ],
)
def test_labels_of_a_shard_are_of_one_kind(tmp_path: Path, labels: list[Any], found: str) -> None:
    with ShardWriter(str(tmp_path / "000000.tar"), "0" * 64, "layer2") as writer:
        writer.add(["a"], {"cls": labels[:1]}, None, {})
        with pytest.raises(InputError, match=f"key 'b': field 'cls' {found}"):
            writer.add(["b"], {"cls": labels[1:]}, None, {})


def test_labels_become_tensors() -> None:
    for values, dtype, shape in (
        ([3, True, -1], np.int64, (3,)),
        ([0.5, 1.0], np.float32, (2,)),
        ([1, 0.5], np.float32, (2,)),
        ([[0, 1], [1, 0]], np.int64, (2, 2)),
        ([[0.0, 1.0], [1, 0]], np.float32, (2, 2)),
    ):
        found = column("cls", values)
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.shape, found.tolist()) == (dtype, shape, np.array(values, dtype).tolist())
        assert column("field.cls", values).tolist() == found.tolist()  # type: ignore[union-attr]  # an array too
        assert column("weight", values) == values
    for values in (["a", "b"], [1, None], [[1], [1, 2]], [1, [1]], [[], []], [[[1]], [[2]]], [1 << 63, 1], []):
        assert column("cls", values) == values


@pytest.mark.parametrize(
    "fields",
    [
        ["theta", "field.theta"],
        ["layer2.rows", "field.layer2.rows", "x"],
        ["field.layer2", "layer2"],
        ["field.valid", "valid"],
    ],
)
def test_names_that_collide_in_a_batch_are_refused(tmp_path: Path, fields: list[str]) -> None:
    with pytest.raises(FormatError, match=r"the field 'field\..*leave one of them out"):
        served_names(sorted(fields, reverse=True), ["layer2"])
    with pytest.raises(InputError, match="in a batch"):
        check_readable(dict.fromkeys(fields, 1), ["layer2"], "here")
    with (
        pytest.raises(InputError, match="in a batch"),
        ShardWriter(str(tmp_path / "000000.tar"), "0" * 64, "layer1", ["layer1", "layer2"]) as writer,
    ):
        writer.add(["a"], {name: [1] for name in fields}, None, {})


def test_a_renamed_field_does_not_hide_a_layer() -> None:
    with pytest.raises(FormatError, match="as what a batch has of its own is"):
        served_names(["x"], ["x", "field.x"])


def test_every_name_of_a_batch_is_taken() -> None:
    names = ("a", "a.rows", "a.mirror_rows", "a.view_rows", "a.view", "theta", "view", "mirrored", "valid")
    assert batch_names(["a"]) == {*names, "__key__", "__url__"}
    assert served_names(["theta", "b.rows", "a.rows"], ["a"]) == {
        "theta": "field.theta",
        "b.rows": "b.rows",
        "a.rows": "field.a.rows",
    }


@pytest.mark.parametrize("layers", [["a", "view"], ["theta"], ["valid", "a"], ["a", "a.rows"], ["a.view", "a"]])
def test_a_layer_with_a_name_of_the_batch_is_refused(layers: list[str]) -> None:
    with pytest.raises(InputError, match="a batch has that name for something else"):
        check_layer_names(layers)
    check_layer_names(["a", "b", "views", "a.row"])


def test_a_stored_field_that_is_nested_too_deep_is_not_read() -> None:
    meta = {
        "version": 1, "plan": "0" * 64, "layer": "layer2", "chunk": 0, "n": 1, "keys": ["a"],
        "fields": {"f": [nested(32)]}, "views": 0, "theta": None, "members": [],
    }  # fmt: skip
    assert parse_meta(seal(meta), "here").fields["f"] == [nested(32)]
    for deep in (nested(33), [{"a": nested(31)}, {"a": nested(32)}], nested(400)):
        with pytest.raises(FormatError, match="here: a value of field 'f' is nested too deeply"):
            parse_meta(seal({**meta, "fields": {"f": [deep]}}), "here")
    with pytest.raises(FormatError, match="nested too deeply"):
        decode_field("json", DEEP)


def test_the_input_s_content_is_in_the_index(tmp_path: Path) -> None:
    for i, given in enumerate(({"bytes": 10240, "digest": "sha256:" + "a" * 64}, {"bytes": None, "digest": "x"}, None)):
        url = str(tmp_path / f"{i:06d}.tar")
        with ShardWriter(url, "0" * 64, "layer2") as writer:
            writer.add(["a"], {}, None, {})
            if given is not None:
                writer.input(**given)
        assert read_index(url, writer.entry).input == given
    with ShardWriter(str(tmp_path / "x.tar"), "0" * 64, "layer2") as writer:
        for size, digest in ((-1, "x"), (1, ""), (1, "x" * 300), (1.5, "x"), (1, None)):
            with pytest.raises(InputError, match="input: "):
                writer.input(size, digest)  # type: ignore[arg-type]  # as a caller may
