"""`verify` opens a set as its readers do, and tells every fault, each with what mends it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from fmshards.augment import Recipe
from fmshards.errors import FmshardsError
from fmshards.extraction.verify import verify
from fmshards.shards import (
    Manifest,
    ShardWriter,
    field_value,
    layer_url,
    read_manifest,
    write_calibration,
    write_manifest,
)
from fmshards.stream import FeatureDataset
from tests import sets
from tests.sets import BuiltSet, build_set

LAYERS = {"layer2": "8", "layer3": "fp16"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> BuiltSet:
    path = tmp_path_factory.mktemp("sound") / "set"
    return build_set(path, samples=(10, 6), chunk=4, layers=LAYERS, recipe="flip+crop(pad=4)")


@pytest.fixture
def copied(whole: BuiltSet, tmp_path: Path) -> Path:
    shutil.copytree(whole.path, tmp_path / "set")
    return tmp_path / "set"


def refused_by_readers(url: str) -> bool:
    try:
        for _ in FeatureDataset(url, batch_size=4):
            pass
    except FmshardsError:
        return True
    return False


def test_sound_sets_have_no_problem(whole: BuiltSet, tmp_path: Path) -> None:
    assert verify(whole.url).problems == ()
    for i, more in enumerate(
        (
            {"views": 2, "recipe": "flip+crop(pad=4)", "filter": "zstd"},
            {"recipe": "flip", "mirror": "mapped(kernel=3)", "kind": "tokens"},
            {"recipe": None, "kind": "vector", "filter": "zstd"},
            {"samples": (4, 0)},
        )
    ):
        built = build_set(tmp_path / str(i), **{"samples": (9,), "chunk": 4, "layers": LAYERS, **more})
        assert verify(built.url).problems == ()


def test_all_faults_are_told_with_what_mends_them(copied: Path) -> None:
    (copied / "plan.json").unlink()
    (copied / "layer2" / "000000.tar").unlink()
    damaged = copied / "layer2" / "000001.tar"
    data = bytearray(damaged.read_bytes())
    data[700] ^= 1
    damaged.write_bytes(data)
    shutil.copy(copied / "layer3" / "000001.tar", copied / "layer3" / "000000.tar")
    problems = verify(str(copied)).problems
    assert [problem.partition(": ")[0].removeprefix(f"{copied}/") for problem in problems] == [
        "plan.json",
        "layer2/000000.tar",
        "layer3/000000.tar",
        "layer2/000001.tar",
    ]
    assert "is missing; run the same extract, which takes it from the manifest" in problems[0]
    assert problems[1].endswith("is missing; run the same extract")
    assert problems[2].endswith("delete it and run the same extract")
    assert problems[3].endswith("delete it and run the same extract")
    assert "000000.meta.msgpack, bytes 512 to" in problems[3]


@pytest.mark.parametrize(
    "change",
    [
        lambda data, other: b"",
        lambda data, other: bytes(len(data)),
        lambda data, other: data[:-40],
        lambda data, other: other,
        lambda data, other: data.replace(b'"chunk":4', b'"chunk":5'),
    ],
    ids=["empty", "zeros", "cut", "another set's", "edited"],
)
def test_a_plan_that_is_not_the_manifest_s(
    copied: Path, tmp_path: Path, change: Callable[[bytes, bytes], bytes]
) -> None:
    other = build_set(tmp_path / "other", samples=(4,), chunk=4)
    plan = copied / "plan.json"
    plan.write_bytes(change(plan.read_bytes(), (other.path / "plan.json").read_bytes()))
    (problem,) = verify(str(copied)).problems
    assert str(plan) in problem
    assert "delete it and run the same extract" in problem


FORGED: dict[str, Callable[[bytes], bytes]] = {
    "no frame": lambda member: bytes(len(member)),
    "a frame cut short": lambda member: member[:-1],
    "bytes after it": lambda member: member + b"x",
    "two frames": lambda member: member + zstandard.compress(b""),
    "another length": lambda member: zstandard.compress(b"x" * 100),
    "one byte more": lambda member: zstandard.compress(zstandard.decompress(member) + b"x"),
    "no length stated": lambda member: zstandard.ZstdCompressor(write_content_size=False).compress(
        zstandard.decompress(member)
    ),
    "a skippable frame first": lambda member: b"\x50\x2a\x4d\x18\x01\x00\x00\x00x" + member,
    "changed content": lambda member: member[:20] + bytes([member[20] ^ 255]) + member[21:],
    "a magic number alone": lambda member: member[:4] + bytes(8),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_filtered_member_that_is_no_frame_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    class Forger(ShardWriter):
        def add(self, keys: Any, fields: Any, theta: Any, members: Mapping[str, bytes]) -> None:
            super().add(keys, fields, theta, {member: FORGED[name](data) for member, data in members.items()})

    monkeypatch.setattr(sets, "ShardWriter", Forger)
    built = build_set(tmp_path / "set", samples=(4,), chunk=4, layers={"layer2": "fp16"}, filter="zstd")
    problems = verify(built.url).problems
    assert bool(problems) == refused_by_readers(built.url)
    assert problems or name == "changed content"
    for problem in problems:
        assert "000000.base.raw" in problem
        assert problem.endswith("delete it and run the same extract")


def spoil(name: str, how: Callable[[np.ndarray], Any]) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    def change(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        out = dict(arrays)
        out[name] = how(out[name])
        return {key: array for key, array in out.items() if array is not None}

    return change


def with_nan(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flat[3] = np.nan
    return array


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoil("layer2/fill", with_nan), "layer layer2: fill must be finite"),
        (spoil("layer2/fill", lambda array: None), "layer layer2: there is no fill"),
        (spoil("layer2/fill", lambda array: array[:, :4]), "layer layer2: fill must be"),
        (spoil("layer2/fill", lambda array: array.astype(np.float64)), "layer layer2: fill must be"),
        (spoil("layer2/mirror_weight", with_nan), "layer layer2: mirror map: expected finite"),
        (spoil("layer2/mirror_bias", lambda array: None), "layer layer2: mirror map: expected finite mirror_bias"),
    ],
    ids=range(6),
)
def test_arrays_that_no_reader_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[..., Any], words: str
) -> None:
    monkeypatch.setattr(sets, "write_calibration", lambda url, arrays: write_calibration(url, change(arrays)))
    built = build_set(tmp_path / "set", samples=(4,), chunk=4, recipe="flip+crop(pad=4)", mirror="mapped(kernel=3)")
    (problem,) = verify(built.url).problems
    assert words in problem
    assert "overwrite" in problem
    assert refused_by_readers(built.url)


def test_a_calibration_file_that_is_missing_or_changed(copied: Path) -> None:
    (file,) = copied.glob("calibration-*")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert "SHA-256" in verify(str(copied)).problems[0]
    file.unlink()
    (problem,) = verify(str(copied)).problems
    assert str(file) in problem


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"name": "warp"}, "no term 'warp'"),
        ({"name": "flip", "p": 0.25}, "base and mirror are drawn evenly"),
        ({"name": "crop", "pad": 32, "step": 1}, "would shift a base image of 32x32 out of sight"),
    ],
)
def test_a_recipe_that_no_reader_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(Recipe, "to_json", lambda self: {"steps": [step]})
    built = build_set(tmp_path / "set", samples=(4,), chunk=4, recipe="flip")
    monkeypatch.undo()
    assert refused_by_readers(built.url)
    (problem,) = verify(built.url).problems
    assert words in problem
    assert "extract it with overwrite" in problem


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"json": [b"{}", b"{", b"{}", b"{}"]}, "sample 's0_0001': field 'json' cannot be read as json"),
        ({"cls": [b"1", b"2", b"cat", b"4"]}, "sample 's0_0002': field 'cls' cannot be read"),
        ({"theta": [1] * 4, "field.theta": [1] * 4}, "would be 'field.theta' in a batch"),
    ],
)
def test_fields_that_no_reader_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, list[Any]], words: str
) -> None:
    monkeypatch.setattr("fmshards.shards.writer.readable_value", lambda name, value, where: field_value(value))
    monkeypatch.setattr("fmshards.shards.writer.check_served", lambda names, layers, prefix: None)
    if "cls" in fields:
        monkeypatch.setattr("fmshards.shards.writer.ShardWriter._check_labels", lambda *args: None)
    built = build_set(tmp_path / "set", samples=(4,), chunk=4, fields=fields)
    assert refused_by_readers(built.url)
    (problem,) = verify(built.url).problems
    assert words in problem


def test_layers_of_different_samples(whole: BuiltSet, copied: Path) -> None:
    manifest = read_manifest(str(copied))
    (member, codec), *others = whole.plan.layer_members("layer3").items()
    with ShardWriter(layer_url(str(copied), "layer3", "000001.tar"), whole.plan.digest, "layer3") as writer:
        for start in (10, 14):
            part = slice(start, min(start + 4, 16))
            n = part.stop - part.start
            members = {
                name: codec.member(codec.encode(whole.features["layer3"][name.split(".")[0]][part]))
                for name in (member, *(name for name, _ in others))
            }
            writer.add(whole.keys[part], {"cls": [b"77"] * n}, None, members)
        entry = writer.close()
    shards = {**manifest.shards, "layer3": (manifest.shards["layer3"][0], entry)}
    write_manifest(str(copied), Manifest(manifest.plan, shards, {}, manifest.samples))
    (problem,) = verify(str(copied)).problems
    assert "000001.tar: the layers layer2 and layer3 were made from different input" in problem
    assert "the field 'cls' is" in problem
