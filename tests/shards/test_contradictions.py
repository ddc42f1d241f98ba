"""Plans, manifests, indices and metas that contradict themselves or each other: neither written nor read."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fmshards.errors import CorruptError, FormatError, InputError, MismatchError
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
from fmshards.shards.index import parse_index
from tests.shards.build import small_plan
from tests.shards.test_hostile import PART, PLAN, sealed_anew


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
        (_layer(PART, mirror_channels=(2, 0)), "mirror_channels must be rising"),
        (_layer(PART, mirror_channels=(2, 8)), "mirror_channels must be rising"),
        (_layer(PART, mirror_channels=()), "a mirror of 0 channels"),
        (_layer(PART, mirror_channels=(1,)), "a mirror of 1 channels"),
        (_layer(PART, mirror_codec=PLAN.layers[0].codec), "a mirror of 2 channels"),
        (_layer(PART, mirror_codec=HUGE), "mirror_codec: .*(2\\*\\*31|shape|values)"),
        (lambda: replace(PART, members=("base", "view1")), "a mirror_codec is there, but no mirror"),
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
        (lambda s: s[0].update(index_sha256="Z" * 64), "index_sha256 must be 64 hexadecimal"),
        (lambda s: s[0].update(sha256="0" * 64), "expected index_sha256, or sha256 in its place"),
        (lambda s: s[0].pop("index_sha256"), "expected index_sha256, or sha256 in its place"),
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
        return sealed_anew(value)

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
    small = parse_index(sealed_anew(parts["index"]), parts["offset"], "index")
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
