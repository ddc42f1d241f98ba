"""Files that somebody made to do harm: one clear FormatError each, and no memory spent on them."""

from __future__ import annotations

import copy
import json
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmshards.codec import codec_for
from fmshards.errors import FmshardsError, FormatError, InputError, MismatchError
from fmshards.shards import (
    Manifest,
    Plan,
    check_index,
)
from fmshards.shards.envelope import seal, unseal
from fmshards.shards.index import parse_index
from fmshards.shards.meta import parse_meta
from tests.shards.build import small_plan

HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 3, 1 << 31, 1 << 62, (1 << 64) - 1, -(1 << 63), 0.5, 1e308, -1e-300, "", "..", "../../x",
    "/etc/passwd", "base", "mirror", "x" * 5000, "\x00", "a\\b", [], [[]], [1], ["base", "base"], {}, {"a": 1}, [{}],
]  # fmt: skip


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*path, key))


def _mutate(value: Any, path: tuple[Any, ...], how: str, what: Any) -> Any:
    if not path:
        return what
    value = copy.deepcopy(value)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    if how == "drop":
        del holder[path[-1]]
    elif how == "add" and isinstance(holder, dict):
        holder["another"] = what
    elif how == "add":
        holder.append(what)
    else:
        holder[path[-1]] = what
    return value


def mutations(good: Any) -> st.SearchStrategy[Any]:
    paths = list(_paths(good))
    step = st.tuples(st.sampled_from(paths), st.sampled_from(["set", "set", "drop", "add"]), st.sampled_from(HOSTILE))
    return step.map(lambda args: _mutate(good, *args))


def _accepted(read: Callable[[], T], where: str) -> T | None:
    """What `read` gives, None where it refuses in one line that begins with `where`; anything else is a failure."""
    try:
        return read()
    except (FormatError, MismatchError) as error:
        message = str(error)
    assert message.startswith(where)
    assert len(message) < 1000
    return None


T = TypeVar("T")
PLAN = small_plan()
PART = replace(
    PLAN,
    mirror={"way": "stored", "fraction": 0.3, "rest": "flip"},
    layers=tuple(
        replace(layer, mirror_channels=(0, 2), mirror_codec=codec_for("int4", layer.spec.select(2)).config())
        for layer in PLAN.layers
    ),
)
"""A plan of a mirror that is stored in part."""
FEW = settings(max_examples=300, deadline=None)


@given(st.one_of(mutations(json.loads(PLAN.to_bytes())), mutations(json.loads(PART.to_bytes()))))
@FEW
def test_mutated_plans(value: Any) -> None:
    plan = _accepted(lambda: Plan.from_bytes(json.dumps(value).encode(), "plan.json"), "plan.json")
    assert plan is None or Plan.from_bytes(plan.to_bytes(), "again") == plan


@given(st.data())
@FEW
def test_mutated_manifests(small_set: tuple[Path, Manifest], data: st.DataObject) -> None:
    good = small_set[1].to_json()
    value = data.draw(mutations(good))
    manifest = _accepted(lambda: Manifest.from_bytes(json.dumps(value).encode(), "manifest.json"), "manifest.json")
    assert manifest is None or Manifest.from_bytes(manifest.to_bytes(), "again") == manifest


def sealed_anew(value: Any) -> bytes:
    body = b"\x92" + msgpack.packb(value, default=str)
    return body + b"\xce" + struct.pack(">I", zlib.crc32(body))


@given(st.data())
@FEW
def test_mutated_indices(parts: dict[str, Any], data: st.DataObject) -> None:
    sealed = sealed_anew(data.draw(mutations(parts["index"])))
    index = _accepted(lambda: parse_index(sealed, parts["offset"], "index"), "index")
    if index is not None:
        _accepted(lambda: check_index(index, PLAN, "layer2", "index"), "index")


@given(st.data())
@FEW
def test_mutated_metas(parts: dict[str, Any], data: st.DataObject) -> None:
    sealed = sealed_anew(data.draw(mutations(parts["meta"])))
    meta = _accepted(lambda: parse_meta(sealed, "meta"), "meta")
    if meta is not None:
        assert len(meta.keys) == meta.n
        assert all(len(column) == meta.n for column in meta.fields.values())


@given(st.binary(max_size=200))
@FEW
def test_any_bytes_under_a_right_checksum(data: bytes) -> None:
    body = b"\x92" + data
    sealed = body + b"\xce" + struct.pack(">I", zlib.crc32(body))
    for parse in (parse_meta, lambda d, w: parse_index(d, 512, w)):
        with pytest.raises(FormatError):
            parse(sealed, "here")
    for load in (Plan.from_bytes, Manifest.from_bytes):
        with pytest.raises(FormatError):
            load(data, "here")


BOMBS: dict[str, bytes] = {
    "array of 4 G": b"\xdd\xff\xff\xff\xff",
    "map of 4 G": b"\xdf\xff\xff\xff\xff",
    "bytes of 4 G": b"\xc6\xff\xff\xff\xff",
    "text of 4 G": b"\xdb\xff\xff\xff\xff",
    "arrays in arrays": b"\xdd\x00\x00\x10\x00" * 5000,
    "deep": b"\x91" * 100_000,
    "many empty maps": b"\xdd\x00\x0f\xff\xff" + b"\x9f" * 10 + b"\x80" * 100,
    "five million values": b"\x9f" + 5 * (b"\xdd\x00\x0f\xff\xff" + b"\xc0" * ((1 << 20) - 1)) + b"\xc0" * 10,
    "extension": b"\x81\xa1a\xd4\x01\x00",
    "timestamp": b"\x81\xa1a\xd6\xff\x00\x00\x00\x00",
    "a key twice": b"\x82\xa1a\x01\xa1a\x02",
    "number as key": b"\x81\x01\x02",
    "bytes as key": b"\x81\xc4\x01a\x02",
    "two values": b"\x80\x80",
    "no map": b"\x90",
}


@pytest.mark.parametrize("name", BOMBS)
def test_msgpack_bombs(name: str) -> None:
    body = b"\x92" + BOMBS[name]
    sealed = body + b"\xce" + struct.pack(">I", zlib.crc32(body))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"^here: "):
            unseal(sealed, "here")
        assert tracemalloc.get_traced_memory()[1] < (300 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b'{"a":1e999}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1,"a":2}',
        b'{"a":' + b"9" * 100_000 + b"}",
        b"\xff\xfe",
        b"",
        b"null",
        b"[]",
        b'{"format":"fmshards plan"}',
        b'"\\ud800"',
    ],
    ids=lambda d: repr(d[:12]),
)
def test_json_bombs(data: bytes) -> None:
    for load in (Plan.from_bytes, Manifest.from_bytes):
        with pytest.raises(FormatError, match=r"^here"):
            load(data, "here")


EMPTY = {
    "lists": b"[],",
    "objects": b"{},",
    "zeros": b"0,",
    "text": b'"",',
    "pairs": b'{"a":[0]},',
    "spread": b"[ ] , ",
}


@pytest.mark.parametrize("name", EMPTY)
def test_json_of_too_many_values_takes_no_memory(name: str) -> None:
    unit = EMPTY[name]
    data = b'{"shards":[' + unit * ((60 << 20) // len(unit)) + b"0]}"
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="here: not valid JSON: it holds more than 8,388,608 values"):
            Manifest.from_bytes(data, "here")
        assert tracemalloc.get_traced_memory()[1] < (130 << 20)
    finally:
        tracemalloc.stop()


def test_commas_and_brackets_in_text_are_no_values() -> None:
    plan = replace(PLAN, options={"note": '",[{\\"' * 2_000_000})
    assert Plan.from_bytes(plan.to_bytes(), "here") == plan


def test_open_objects_are_not_nested_without_end() -> None:
    deep: Any = 0
    for _ in range(40):
        deep = {"a": [deep]}
    with pytest.raises(InputError, match="plan: provenance is nested more than 32 deep"):
        replace(PLAN, provenance=deep)
    data = PLAN.to_bytes().replace(b'"provenance":{', b'"provenance":{"a":' + b"[" * 500 + b"]" * 500 + b",")
    with pytest.raises(FmshardsError, match="nested"):
        Plan.from_bytes(data, "here")
    data = PLAN.to_bytes().replace(b'"chunk":8', b'"chunk":' + b"[" * 900 + b"]" * 900)
    with pytest.raises(FormatError, match=r"here: chunk must be a whole number.*found \[\["):
        Plan.from_bytes(data, "here")


@pytest.mark.timeout(60)
def test_a_name_twice_among_many_is_found_at_once() -> None:
    many = tuple(replace(PLAN.inputs[0], name=f"{i:06d}") for i in range(40_000))
    with pytest.raises(FormatError, match="inputs name '000007' twice"):
        replace(PLAN, inputs=(*many, many[7])).to_bytes()


def test_lone_surrogates_in_free_objects() -> None:
    data = PLAN.to_bytes().replace(b'"resnet20"', b'"\\ud800"')
    with pytest.raises(FormatError, match=r"^here"):
        Plan.from_bytes(data, "here")


@pytest.mark.parametrize("version", [2, 0, "1", None, True, 1 << 70])
def test_another_version_says_which_is_read(version: Any) -> None:
    value = {**PLAN.to_json(), "version": version}
    with pytest.raises(FormatError, match=r"plan.json: format version .*; this fmshards reads version 1: use"):
        Plan.from_json(value, "plan.json")
    sealed = seal({"version": version if version != 1 << 70 else 9, "anything": 1})
    with pytest.raises(FormatError, match="reads version 1"):
        parse_meta(sealed, "meta")
