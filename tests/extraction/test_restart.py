"""Stopped, killed, run twice, run side by side, run with something else: the set is whole and the same, or refused."""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from fmshards.errors import FormatError, InputError, MismatchError, StoreError
from fmshards.extraction import entry, extract, request, work
from fmshards.extraction.sources import WebDatasetSource
from fmshards.shards import read_manifest, read_plan, verify

from .child import finish, start
from .conftest import TRAIN, members_of, options, tree, write_tar


@pytest.fixture(scope="module")
def made(tars: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole set, never changed by a test; made in a child, as those that are compared with it."""
    folder = tmp_path_factory.mktemp("made")
    finish(start(tars, folder / "set", folder / "log", **RECIPE), folder / "log")
    return folder / "set"


RECIPE = options(layers={"layer1": 2, "layer2": 4}, recipe="flip+crop(pad=4)")


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("nothing may be read or run")

    monkeypatch.setattr(entry, "draft_plan", never)
    monkeypatch.setattr(request, "multi_prefix", never)
    monkeypatch.setattr(work, "entry_of", never)
    monkeypatch.setattr(WebDatasetSource, "items", never)
    monkeypatch.setattr(WebDatasetSource, "content", never)


def test_a_whole_set_is_returned_at_once(tars: list[str], made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(made)
    forbid(monkeypatch)
    assert extract(tars, made, **RECIPE) == read_manifest(str(made))
    assert extract(tars, made, **RECIPE, workers=3) == read_manifest(str(made))
    assert tree(made) == before


def test_what_is_whole_is_kept(tars: list[str], made: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(made, out)
    (out / "manifest.json").unlink()
    (out / "layer2" / "000001.tar").unlink()
    data = (out / "layer1" / "000002.tar").read_bytes()
    (out / "layer1" / "000002.tar").write_bytes(data[:-512])
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    finish(start(tars, out, tmp_path / "log", **RECIPE), tmp_path / "log")
    assert tree(out) == tree(made)
    kept = {path for path, at in times.items() if path.stat().st_mtime_ns == at}
    assert {str(path.relative_to(out)) for path in times.keys() - kept} == {"layer1/000002.tar"}
    assert len(kept) == 4


def test_shards_that_are_there_are_known_by_their_ends(
    tars: list[str], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    shutil.copytree(made, out)
    (out / "manifest.json").unlink()

    def never(*args: Any) -> Any:
        raise AssertionError("no shard may be read whole")

    monkeypatch.setattr(verify, "_walk", never)
    assert extract(tars, out, **RECIPE) == read_manifest(str(made))
    assert tree(out) == tree(made)


def test_a_shard_missing_from_a_whole_set_is_made_again(tars: list[str], made: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(made, out)
    (out / "layer2" / "000001.tar").unlink()
    with pytest.warns(UserWarning, match="missing or cut short"):
        extract(tars, out, **RECIPE)
    same = {name: data for name, data in tree(out).items() if name.endswith(".tar")}
    assert same.keys() == {name for name in tree(made) if name.endswith(".tar")}
    assert read_manifest(str(out)).samples == 104


def test_a_shard_that_cannot_be_looked_for_is_not_missing(
    tars: list[str], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    shutil.copytree(made, out)
    before, real = tree(out), os.stat

    def fail(path: Any, *more: Any, **also: Any) -> os.stat_result:
        if str(path).startswith(str(out / "layer2")):
            raise OSError(errno.ESTALE, "Stale file handle", path)
        return real(path, *more, **also)

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", fail)
        with pytest.raises(StoreError, match="Stale file handle"):
            extract(tars, out, **RECIPE)
    assert tree(out) == before
    assert read_manifest(str(out)).samples == 104


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"batch": 8}, ["batch: 8 here, 16 in plan.json"]),
        ({"seed": 1, "chunk": None}, ["seed: 1 here, 0 in plan.json", "chunk: None here, 10 in plan.json"]),
        ({"layers": {"layer1": 2, "layer2": 5}}, ["rates.layer2: 5 here, 4 in plan.json"]),
        ({"layers": {"layer2": 4}}, ["layer1"]),
        ({"recipe": "flip+crop(pad=2)"}, ["recipe"]),
        ({"mirror": "none"}, ["mirror: none here, stored in plan.json"]),
        ({"preprocess": "resize(32)+normalize(imagenet)"}, ["preprocess"]),
        ({"weights": None}, ["written by other weights"]),
        ({"precision": "bf16"}, ["dtype: bf16 here, float32 in plan.json"]),
        ({"calibration": 32}, ["calibration: 32 here, 16 in plan.json"]),
        ({"views": 1, "sensitive": 0.5}, ["views: 1 here, 0 in plan.json", "sensitive: 0.5 here"]),
    ],
)
def test_other_options_are_refused(tars: list[str], made: Path, change: dict[str, Any], lines: list[str]) -> None:
    before = tree(made)
    with pytest.raises(MismatchError) as caught:
        extract(tars, made, **{**RECIPE, **change})
    for line in lines:
        assert line in str(caught.value)
    assert "overwrite" in str(caught.value)
    assert tree(made) == before


def test_an_unfinished_set_is_refused_too(tars: list[str], made: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(made, out)
    (out / "manifest.json").unlink()
    with pytest.raises(MismatchError, match="batch: 8 here"):
        extract(tars, out, **{**RECIPE, "batch": 8})


def test_other_input_is_refused(tars: list[str], made: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="inputs 000002"):
        extract(tars[:2], made, **RECIPE)
    with pytest.raises(MismatchError, match=r"inputs 000000\.bytes"):
        extract([tars[1], *tars[1:]], made, **RECIPE)
    moved = [shutil.copy(tar, tmp_path) for tar in tars]
    assert extract(moved, made, **RECIPE).samples == 104


def test_a_damaged_plan_is_refused(tars: list[str], made: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(made, out)
    (out / "manifest.json").unlink()
    (out / "plan.json").write_bytes((out / "plan.json").read_bytes()[:-100])
    with pytest.raises(FormatError, match=r"plan\.json"):
        extract(tars, out, **RECIPE)


def test_overwrite_replaces_everything(tars: list[str], made: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "set", tmp_path / "log"
    finish(start(tars, out, log, **options(layers={"layer3": 4}, recipe="flip", mirror="mapped")), log)
    (out / "notes.txt").write_text("mine")
    (out / "layer3" / "mine.tar").write_text("mine")
    finish(start(tars, out, log, **RECIPE, overwrite=True), log)
    assert tree(out) == {**tree(made), "notes.txt": b"mine", "layer3/mine.tar": b"mine"}


def test_overwrite_that_cannot_begin_leaves_the_old_set(tars: list[str], made: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(made, out)
    with pytest.raises(InputError):
        extract(tars, out, **{**RECIPE, "layers": {"layer2": 1000}}, overwrite=True)
    assert tree(out) == tree(made)


def sound(out: Path, wanted: dict[str, bytes]) -> None:
    """What is there after a kill: no manifest, or the whole set; and no shard that is not what it must be."""
    found = {name: data for name, data in tree(out).items() if not Path(name).name.startswith(".")}
    for name, data in found.items():
        assert wanted[name] == data, name
    if "manifest.json" in found:
        assert found == wanted


def kill_when(process: Any, out: Path, files: int, delay: float) -> None:
    """Kill -9 once `files` files, temporary ones too, are at `out`, after a moment more; or let it end."""
    while process.is_alive() and sum(1 for path in out.rglob("*") if path.is_file()) < files:
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.join(60)


@pytest.mark.slow
def test_killed_at_ten_moments(tars: list[str], made: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "set", tmp_path / "log"
    wanted, moment = tree(made), random.Random(0)
    for i in range(10):
        workers = 2 if i % 3 == 2 else 0
        process = start(tars, out, log, **RECIPE, workers=workers)
        kill_when(process, out, files=i, delay=moment.random() * 0.1)
        sound(out, wanted)
    finish(start(tars, out, log, **RECIPE), log)
    assert tree(out) == wanted


@pytest.mark.slow
def test_killed_while_overwriting(tars: list[str], made: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "set", tmp_path / "log"
    wanted, moment = tree(made), random.Random(1)
    other = {**RECIPE, "batch": 8, "layers": {"layer2": 2}}
    reference = tmp_path / "other"
    finish(start(tars, reference, log, **other), log)
    for i in range(6):
        if i % 2 == 0:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(made, out)
        process = start(tars, out, log, **other, overwrite=True)
        while process.is_alive() and (out / "manifest.json").exists():
            time.sleep(0.0002)
        time.sleep(moment.random() * (0.02 if i % 2 == 0 else 1.0))
        process.kill()
        process.join(60)
        found = {name: data for name, data in tree(out).items() if not Path(name).name.startswith(".")}
        if "manifest.json" in found:
            assert found in (wanted, tree(reference))
    finish(start(tars, out, log, **other, overwrite=True), log)
    assert tree(out) == tree(reference)


@pytest.mark.slow
def test_two_at_once(tars: list[str], made: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    both = [start(tars, out, tmp_path / f"log{i}", **RECIPE, workers=i) for i in range(2)]
    for i, process in enumerate(both):
        finish(process, tmp_path / f"log{i}")
    assert tree(out) == tree(made)


def test_a_write_that_fails(tmp_path: Path) -> None:
    """The system refuses to let a file grow, as a full disk does: a clear error, and nothing half written."""
    tar = str(write_tar(tmp_path / "a.tar", members_of(TRAIN[0], range(64))))
    out, log = tmp_path / "set", tmp_path / "log"
    more = options(layers={"layer1": 32})
    process = start(tar, out, log, **more, file_size_limit=1_000_000)
    process.join(120)
    assert process.exitcode == 1
    assert "StoreError: cannot write" in log.read_text()
    assert "layer1/000000.tar: the file is too large (writing" in log.read_text()
    left = read_plan(str(out)).calibration
    assert set(tree(out)) == {"plan.json", left["file"]}
    finish(start(tar, out, log, **more), log)
    assert os.path.exists(out / "manifest.json")
