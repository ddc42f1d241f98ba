"""`verify`: a set against its bytes, its model and its images."""

from __future__ import annotations

import importlib
import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fmshards
from fmshards.errors import FmshardsError, FormatError, InputError
from fmshards.extraction.verify import verify
from fmshards.shards import read_manifest

ROOT = Path(__file__).resolve().parents[2]
TAR = ROOT / "examples" / "data" / "cifar10-test-000001.tar"
MODEL = {"model": f"{ROOT}/examples/resnet20.py:resnet20", "weights": f"{ROOT}/examples/data/resnet20.safetensors"}
NORMALIZE = "normalize(imagenet)"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    shutil.copy(TAR, folder / "images.tar")
    return folder / "images.tar"


@pytest.fixture(scope="module")
def shard_set(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("check") / "set")
    fmshards.extract(str(source), out, layers={"layer3": 4, "layer2": "fp16"}, preprocess=NORMALIZE, **MODEL)
    return out


def test_a_sound_set_has_no_problem(shard_set: str) -> None:
    report = verify(shard_set, **MODEL)
    assert report.problems == ()
    assert (report.samples, report.shards, report.recomputed) == (500, 2, 8)


def test_features_that_the_model_does_not_give_are_found(shard_set: str) -> None:
    report = verify(shard_set, preprocess="normalize(mean=(0.4, 0.4, 0.4), std=(0.25, 0.25, 0.25))", **MODEL)
    assert len(report.problems) == 16
    assert "computed again it differs" in report.problems[0]
    assert "layer3, sample 31 of shard 000000" in report.problems[0]


def test_images_that_moved_are_named_by_source(shard_set: str, source: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.tar"
    source.rename(moved)
    try:
        with pytest.raises(FmshardsError, match=r"images\.tar"):
            verify(shard_set, **MODEL)
        assert verify(shard_set, source=str(moved), **MODEL).problems == ()
        with pytest.raises(InputError, match="differ"):
            verify(shard_set, source=str(TAR.with_name("cifar10-test-000003.tar")), **MODEL)
    finally:
        moved.rename(source)


def test_every_damaged_shard_is_named_and_nothing_recomputed(shard_set: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shard_set, copy)
    for layer in ("layer2", "layer3"):
        path = copy / layer / "000000.tar"
        data = bytearray(path.read_bytes())
        data[5000] ^= 4
        path.write_bytes(data)
    report = verify(str(copy), **MODEL)
    assert len(report.problems) == 2
    assert report.recomputed == 0
    assert all("bytes" in problem for problem in report.problems)


def test_labels_that_the_input_has_otherwise_are_found(shard_set: str, source: Path, tmp_path: Path) -> None:
    changed = tmp_path / "images.tar"
    with tarfile.open(source) as old, tarfile.open(changed, "w", format=tarfile.USTAR_FORMAT) as new:
        for member in old.getmembers():
            data = old.extractfile(member).read()  # type: ignore[union-attr]  # every member is a file
            if member.name.endswith(".cls"):
                data = b"9" if data != b"9" else b"8"
            new.addfile(member, io.BytesIO(data))
    assert changed.stat().st_size == source.stat().st_size
    report = verify(shard_set, source=str(changed), **MODEL)
    assert len(report.problems) == 16
    assert "the field 'cls' is" in report.problems[0]


def test_what_the_report_says_mends_the_set(shard_set: str, source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shard_set, copy)
    (copy / "plan.json").write_bytes(b"")
    (copy / "layer2" / "000000.tar").write_bytes(b"damaged")
    (copy / "layer3" / "000000.tar").unlink()
    problems = verify(str(copy)).problems
    assert len(problems) == 3
    for problem in problems:
        place, _, rest = problem.partition(": ")
        if "delete it and run the same extract" in rest:
            Path(place).unlink()
        else:
            assert rest == "is missing; run the same extract"
    with pytest.warns(UserWarning, match="made again"):
        fmshards.extract(str(source), copy, layers={"layer3": 4, "layer2": "fp16"}, preprocess=NORMALIZE, **MODEL)
    assert verify(str(copy)).problems == ()


def test_views_the_mirror_and_dropped_fields_are_computed_again_too(source: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {"recipe": "flip+crop(pad=4)", "views": 2, "sensitive": 0.5, "calibration": 16}
    out = str(tmp_path / "set")
    fmshards.extract(str(source), out, layers={"layer3": 4}, preprocess=NORMALIZE, drop_fields="cls", **more, **MODEL)
    assert verify(out, **MODEL).problems == ()
    other = "normalize(mean=(0.4, 0.4, 0.4), std=(0.25, 0.25, 0.25))"
    problems = verify(out, preprocess=other, **MODEL).problems
    for stream in ("", ", mirror", ", view1", ", view2"):
        assert sum(f"){stream}: computed again it differs" in problem for problem in problems) == 8


def with_identity(url: str, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    """`verify` finds the set at `url` sound, and its identity another one."""
    manifest = read_manifest(url)
    plan = replace(manifest.plan, identity={**manifest.plan.identity, **change})
    module = importlib.import_module("fmshards.extraction.verify")
    monkeypatch.setattr(module, "read_manifest", lambda url: replace(manifest, plan=plan))
    monkeypatch.setattr(module, "set_problems", lambda url, manifest: ())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": None}, "as its dtype, expected one of float32"),
        ({"dtype": "int3"}, "'int3' as its dtype"),
        ({"dtype": ["float32"]}, "as its dtype"),
        ({"preprocess": 7}, "'7' as its preprocess, expected text"),
        ({"seed": "x"}, "the plan's seed is 'x', no int"),
    ],
)
def test_an_odd_identity_is_a_clear_error(
    shard_set: str, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    with_identity(shard_set, monkeypatch, change)
    with pytest.raises(InputError, match=words):
        verify(shard_set, **MODEL)


@pytest.mark.parametrize("layers", [None, {}, [], {"layer3": None, "layer2": {}}, {"layer3": {"prefix": 7}}])
def test_an_identity_without_weights_is_a_problem(shard_set: str, monkeypatch: pytest.MonkeyPatch, layers: Any) -> None:
    with_identity(shard_set, monkeypatch, {"layers": layers})
    report = verify(shard_set, **MODEL)
    assert len(report.problems) == 2
    assert report.recomputed == 0


def test_a_set_that_is_not_whole_is_refused(shard_set: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shard_set, copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(FormatError, match="not whole"):
        verify(str(copy))
