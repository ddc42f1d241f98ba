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

from fmshards import store
from fmshards.errors import CorruptError, FmshardsError, FormatError, InputError, MismatchError
from fmshards.shards import (
    Manifest,
    Plan,
    ShardEntry,
    check_index,
    chunk_from_members,
    layer_url,
    read_calibration,
    read_chunk,
    read_index,
    read_manifest,
    read_plan,
    write_calibration,
    write_plan,
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
FEW = settings(max_examples=300, deadline=None)


@given(mutations(json.loads(PLAN.to_bytes())))
@FEW
def test_mutated_plans(value: Any) -> None:
    plan = _accepted(lambda: Plan.from_bytes(json.dumps(value).encode(), "plan.json"), "plan.json")
    assert plan is None or Plan.from_bytes(plan.to_bytes(), "again") == plan


@pytest.fixture(scope="module")
def parts(small_set: tuple[Path, Manifest]) -> dict[str, Any]:
    url = layer_url(str(small_set[0]), "layer2", "000000.tar")
    entry = small_set[1].shards["layer2"][0]
    index = read_index(url, entry)
    raw = store.read(url, entry.index_offset, entry.index_length)
    offset, length, _ = index.chunks[0].members["meta"]
    return {"index": unseal(raw, ""), "offset": entry.index_offset, "meta": unseal(store.read(url, offset, length), "")}


@given(st.data())
@FEW
def test_mutated_manifests(small_set: tuple[Path, Manifest], data: st.DataObject) -> None:
    good = small_set[1].to_json()
    value = data.draw(mutations(good))
    manifest = _accepted(lambda: Manifest.from_bytes(json.dumps(value).encode(), "manifest.json"), "manifest.json")
    assert manifest is None or Manifest.from_bytes(manifest.to_bytes(), "again") == manifest


def _sealed(value: Any) -> bytes:
    body = b"\x92" + msgpack.packb(value, default=str)
    return body + b"\xce" + struct.pack(">I", zlib.crc32(body))


@given(st.data())
@FEW
def test_mutated_indices(parts: dict[str, Any], data: st.DataObject) -> None:
    sealed = _sealed(data.draw(mutations(parts["index"])))
    index = _accepted(lambda: parse_index(sealed, parts["offset"], "index"), "index")
    if index is not None:
        _accepted(lambda: check_index(index, PLAN, "layer2", "index"), "index")


@given(st.data())
@FEW
def test_mutated_metas(parts: dict[str, Any], data: st.DataObject) -> None:
    sealed = _sealed(data.draw(mutations(parts["meta"])))
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


def _layer(plan: Plan, **changes: Any) -> Callable[[], Plan]:
    def make() -> Plan:
        layers = tuple(replace(layer, **changes) for layer in plan.layers)
        return Plan(**{**_fields(plan), "layers": layers})

    return make


def _fields(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in Plan.__dataclass_fields__}


def _with(**changes: Any) -> Callable[[], Plan]:
    return lambda: small_plan(**changes)


HUGE = {"codec": "zfp", "spec": {"kind": "map", "shape": [65536, 1 << 20, 1 << 20], "grid": None, "class_tokens": 0},
        "order": None, "block_bits": 256}  # fmt: skip
LARGE = {**HUGE, "spec": {**HUGE["spec"], "shape": [8, 8192, 8192]}}  # type: ignore[dict-item]  # a dict


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_with(chunk=0), "chunk must be a whole number from 1"),
        (_with(chunk=-8), "chunk must be"),
        (_with(chunk=1 << 40), "chunk must be"),
        (_with(base_size=(0, 16)), "base_size"),
        (_with(layers=()), "layers is empty"),
        (_with(inputs=()), "inputs is empty"),
        (_with(layers=PLAN.layers * 2), "'layer2' twice"),
        (_with(inputs=PLAN.inputs * 2), "'000000' twice"),
        (_with(references=("mirror",)), "references must be"),
        (_with(members=("base",)), "members must be base"),
        (_with(references=("base",)), "mirror is stored but"),
        (_with(calibration={"file": "../x", "sha256": "0" * 64}), "calibration-<"),
        (_with(calibration={"file": "calibration-" + "1" * 16 + ".safetensors", "sha256": "0" * 64}), "calibration-<"),
        (_layer(PLAN, name=".."), "name must be"),
        (_layer(PLAN, name="a/b"), "name must be"),
        (_layer(PLAN, codec=HUGE), "2\\*\\*31|shape|values"),
        (_layer(PLAN, sensitive=(3, 1)), "rising"),
        (_layer(PLAN, sensitive=(1, 99)), "rising"),
        (_layer(PLAN, sensitive=(-1, 1)), "rising"),
        (_layer(PLAN, view_codec=None), "view_codec"),
        (_layer(PLAN, view_codec=PLAN.layers[0].codec), "a view of 2 channels"),
    ],
)  # fmt: skip
def test_plans_that_contradict_themselves_are_neither_read_nor_written(
    make: Callable[[], Plan], words: str, tmp_path: Path
) -> None:
    plan = make()
    with pytest.raises(FormatError, match=words):
        write_plan(str(tmp_path), plan)
    assert list(tmp_path.iterdir()) == []


def test_rows_larger_than_a_tar_member() -> None:
    plan = small_plan(views=0, chunk=65536)
    with pytest.raises(FormatError, match="exceed a tar member"):
        _layer(plan, codec=LARGE, similarity=None)().to_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_json_cannot_hold(value: Any) -> None:
    with pytest.raises(InputError, match="options cannot be written as JSON"):
        small_plan(options={"x": value})


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    root = str(tmp_path)
    with pytest.raises(FormatError, match="no shard set here"):
        read_plan(root)
    with pytest.raises(FormatError, match="no shard set here"):
        read_manifest(root)
    write_plan(root, PLAN)
    with pytest.raises(FormatError, match=r"not whole: (\d+) of its \1 shards are missing; run the same extract again"):
        read_manifest(root)
    (tmp_path / "manifest.json").write_text('{"half":')
    with pytest.raises(CorruptError, match=r"not valid JSON: .* remove it and run the same extract, which makes it"):
        read_manifest(root)
    with pytest.raises(InputError, match="no layer 'layer3'; it has layer2"):
        read_plan(root).layer("layer3")
    with pytest.raises(FormatError, match="shard must be"):
        layer_url(root, "layer2", "../../x.tar")


def test_files_too_large_are_not_read(tmp_path: Path) -> None:
    for name, read in (("plan.json", read_plan), ("manifest.json", read_manifest)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(FormatError, match="at most"):
            read(str(tmp_path))


def _entries(manifest: Manifest, layer: str, change: Callable[[list[dict[str, Any]]], Any]) -> bytes:
    value = copy.deepcopy(manifest.to_json())
    change(value["layers"][layer]["shards"])
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop(), "1 shards, the plan 2"),
        (lambda s: s.reverse(), "expected shard 000000.tar"),
        (lambda s: s[0].update(name="../000000.tar"), "name must be"),
        (lambda s: s[0].update(name="/000000.tar"), "name must be"),
        (lambda s: s[0].update(samples=19), "19 samples, its input 20"),
        (lambda s: s[0].update(samples=-20), "samples must be"),
        (lambda s: s[0].update(bytes=1 << 60), "bytes must be"),
        (lambda s: s[0].update(index_offset=1 << 40), "does not lie within"),
        (lambda s: s[0].update(index_length=1 << 30), "index_length must be"),
        (lambda s: s[0].update(sha256="Z" * 64), "hexadecimal"),
    ],
)
def test_manifests_that_do_not_fit(
    small_set: tuple[Path, Manifest], change: Callable[[list[dict[str, Any]]], Any], words: str
) -> None:
    with pytest.raises(FormatError, match=words):
        Manifest.from_bytes(_entries(small_set[1], "head", change), "manifest.json")


def test_layers_of_one_set_have_the_same_samples(small_set: tuple[Path, Manifest]) -> None:
    value = copy.deepcopy(small_set[1].to_json())
    for source in value["plan"]["inputs"]:
        source["samples"] = None
    value["plan_digest"] = Plan.from_json(value["plan"], "plan").digest
    Manifest.from_bytes(json.dumps(value).encode(), "manifest.json")
    value["layers"]["head"]["shards"][0]["samples"] = 21
    with pytest.raises(FormatError, match="21 samples in layer head, 20 in layer layer2"):
        Manifest.from_bytes(json.dumps(value).encode(), "manifest.json")


def test_an_edited_plan_is_noticed(small_set: tuple[Path, Manifest]) -> None:
    value = copy.deepcopy(small_set[1].to_json())
    value["plan"]["options"]["batch"] = 65
    with pytest.raises(FormatError, match="plan_digest"):
        Manifest.from_bytes(json.dumps(value).encode(), "manifest.json")
    value = copy.deepcopy(small_set[1].to_json())
    value["plan"]["provenance"]["torch"] = "9"
    assert Manifest.from_bytes(json.dumps(value).encode(), "manifest.json").plan.digest == small_set[1].plan.digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate": 3.5}, "a rate of 3.5, the plan's codec has 4"),
        ({"rate": float("nan")}, "NaN is not a JSON number"),
        ({"rate": -1}, "rate must be"),
        ({"error": {"db": 1.0, "worst_channel_db": 1.0, "worst_channel": 8, "samples": 1}}, "from 0 to 7"),
    ],
)
def test_rates_and_errors_that_cannot_be(small_set: tuple[Path, Manifest], change: dict[str, Any], words: str) -> None:
    value = copy.deepcopy(small_set[1].to_json())
    value["layers"]["layer2"].update(change)
    with pytest.raises(FormatError, match=words):
        Manifest.from_bytes(json.dumps(value).encode(), "manifest.json")


def test_an_entry_beyond_the_file(small_set: tuple[Path, Manifest]) -> None:
    entry = small_set[1].shards["layer2"][0]
    url = layer_url(str(small_set[0]), "layer2", entry.name)
    for change in ({"index_offset": 1 << 40, "bytes": 1 << 41}, {"index_length": 1 << 26}, {"index_offset": 0}):
        with pytest.raises(CorruptError, match=r"000000.tar"):
            read_index(url, ShardEntry(**{**entry.__dict__, **change}))


def test_an_index_of_other_places(small_set: tuple[Path, Manifest], parts: dict[str, Any]) -> None:
    def index(change: Callable[[dict[str, Any]], Any]) -> bytes:
        value = copy.deepcopy(parts["index"])
        change(value)
        return _sealed(value)

    for change, words in (
        (lambda v: v["chunks"][1][1][0].__setitem__(0, v["chunks"][0][1][0][0]), "cannot be"),
        (lambda v: v["chunks"][0][1][1].__setitem__(1, -8), "cannot be"),
        (lambda v: v["chunks"][0][1][1].__setitem__(1, 1 << 40), "cannot be"),
        (lambda v: v["chunks"].pop(), "index would begin"),
        (lambda v: v.update(samples=21), "20 samples, stated are 21"),
        (lambda v: v["chunks"][0].__setitem__(0, 1 << 20), "cannot hold"),
        (lambda v: v["chunks"][2].__setitem__(0, 9), "cannot hold"),
        (lambda v: v["members"].__setitem__(1, "../x"), "letters"),
        (lambda v: v["errors"]["error"].__setitem__(0, float("nan")), "finite"),
    ):
        with pytest.raises(FormatError, match=words):
            parse_index(index(change), parts["offset"], "index")
    small = parse_index(_sealed(parts["index"]), parts["offset"], "index")
    other = small_plan(chunk=16)
    with pytest.raises(FormatError, match="the plan's chunk is 16"):
        check_index(type(small)(**{**small.__dict__, "plan": other.digest}), other, "layer2", "index")


def test_a_meta_of_another_chunk_is_refused(small_set: tuple[Path, Manifest], parts: dict[str, Any]) -> None:
    """A sound meta in a sound place, but not the one that belongs there."""
    url = layer_url(str(small_set[0]), "layer2", "000000.tar")
    index = read_index(url)
    first, second, rest = index.chunks[0], index.chunks[1], index.chunks[2:]
    swapped = type(index)(**{**index.__dict__, "chunks": (second, first, *rest)})
    with pytest.raises(MismatchError, match="belongs to another shard"):
        read_chunk(url, swapped, 0, ["base.zfp"])
    with pytest.raises(CorruptError, match=r"no member meta.msgpack"):
        chunk_from_members({}, url)


def test_calibration_is_bound_to_the_plan(tmp_path: Path) -> None:
    import numpy as np

    root = str(tmp_path)
    where = write_calibration(root, {"layer2/fill": np.ones((2, 3), np.float32)})
    plan = small_plan(calibration=where)
    assert read_calibration(root, plan)["layer2/fill"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert read_calibration(root, PLAN) == {}
    path = tmp_path / where["file"]
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(CorruptError, match="the plan says"):
        read_calibration(root, plan)
