"""Other processes: one that replaces the set meanwhile, workers that start anew, and a person who presses Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fmshards.errors import InputError, MismatchError
from fmshards.extraction import entry, extract, pipeline
from fmshards.shards import read_manifest

from .conftest import MODEL, ROOT, TRAIN, WEIGHTS, members_of, options, tree, write_tar
from .test_extract import Pairs


def overtaken(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, before: bool, other: Any) -> None:
    """`other` runs beside the first call of a function of ours: another process, as seen from here."""
    ours, calls = getattr(module, name), []

    def both(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) > 1:
            return ours(*args, **kwargs)
        if before:
            other()
        found = ours(*args, **kwargs)
        if not before:
            other()
        return found

    monkeypatch.setattr(module, name, both)


@pytest.mark.parametrize(
    ("module", "name", "before"),
    [(pipeline, "decoded_batches", True), (entry, "make_manifest", True), (entry, "make_manifest", False)],
)
def test_a_set_that_is_overwritten_meanwhile(
    tars: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, before: bool
) -> None:
    """Whenever another process replaces the set, this one says so, and the other's set is whole in the end."""
    out, other = tmp_path / "set", options(layers={"layer2": 2, "layer3": 2})

    def replace() -> None:
        extract(tars[:1], out, **other, overwrite=True)

    overtaken(monkeypatch, module, name, before, replace)
    with pytest.raises(
        MismatchError, match=r"another process replaced the set(.|\n)*rates.layer2: 4 here, 2 in plan.json"
    ):
        extract(tars[:1], out, **options())
    assert read_manifest(str(out)).samples == 40
    extract(tars[:1], tmp_path / "alone", **other)
    assert tree(out) == tree(tmp_path / "alone")


def test_two_with_other_options(tars: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "set"
    overtaken(monkeypatch, entry, "publish_plan", True, lambda: extract(tars[:1], out, **options()))
    with pytest.raises(MismatchError, match=r"rates\.layer2: 2 here, 4 in plan\.json"):
        extract(tars[:1], out, **options(layers={"layer2": 2}))
    assert read_manifest(str(out)).samples == 40


def test_two_of_which_one_left_the_batch_open(tars: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A default follows the set that is there, also where that comes in between."""
    out = tmp_path / "set"
    overtaken(monkeypatch, entry, "publish_plan", True, lambda: extract(tars[:1], out, **options(batch=5)))
    assert extract(tars[:1], out, **options(batch=None)).plan.options["batch"] == 5


@pytest.fixture
def spawned() -> Iterator[None]:
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("spawned")
def test_what_no_new_process_can_have_is_named(tmp_path: Path) -> None:
    class Local(Pairs):
        pass

    def turned(image: Image.Image) -> Image.Image:
        return image.rotate(90)

    for n, (given, said) in enumerate(
        (
            ({"source": Local()}, "source: data: "),
            ({"preprocess": lambda image: None}, "preprocess: function: "),
            ({"recipe": turned, "views": 2, "sensitive": 1.0}, "views: recipe: custom: "),
        )
    ):
        arguments: dict[str, Any] = {"source": Pairs(), "out": tmp_path / f"{n}", **options(workers=2), **given}
        if "preprocess" in given:
            arguments["preprocess"] = _constant(0.5)
        with pytest.raises(InputError, match=f"cannot be sent there: {said}.*workers=0"):
            extract(**arguments)
        assert not [name for name in tree(arguments["out"]) if name.endswith(".tar")]
        extract(**{**arguments, "workers": 0})


def _constant(value: float) -> Any:
    import torch

    return lambda image: torch.full((3, 32, 32), value)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_prints_no_traceback(tmp_path: Path, times: int) -> None:
    tar = str(write_tar(tmp_path / "in.tar", members_of(TRAIN[0], range(400))))
    words = ("extract", tar, tmp_path / "out", "--model", MODEL, "--weights", WEIGHTS, "--layer", "layer1:2")
    process = subprocess.Popen(
        [sys.executable, "-m", "fmshards", *map(str, words), "--preprocess", "normalize(imagenet)", "--workers", "1",
         "--batch", "1", "--chunk", "1"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    folder = tmp_path / "out" / "layer1"
    while process.poll() is None and not (folder.exists() and any(folder.iterdir())):
        time.sleep(0.01)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.02)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.rstrip().endswith("stopped")
    assert not any(folder.iterdir())
