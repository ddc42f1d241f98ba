"""The trainers' examples, as their own text says: stopped in mid-epoch and gone on with, every sample once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import fmshards

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "examples" / "data"
EXAMPLES = ROOT / "examples" / "trainers"

SAMPLES, BATCH, EPOCHS, STOP = 1000, 50, 2, 7
TRAINERS = [
    "ddp",
    "with_accelerate",
    "with_lightning",
    "with_transformers",
    "with_stateful_dataloader",
    "with_webdataset",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trainers") / "set"
    fmshards.extract(
        [str(DATA / f"cifar10-train-00000{i}.tar") for i in range(2)],
        out,
        model=f"{ROOT}/examples/resnet20.py:resnet20",
        weights=str(DATA / "resnet20.safetensors"),
        preprocess="normalize(imagenet)",
        layers={"layer2": 4},
        recipe="flip+crop(pad=4)",
    )
    return out


def train(name: str, shards: Path, ranks: int, folder: Path, *words: object) -> None:
    """Runs an example on so many ranks; its checkpoint and what its ranks were given are in `folder`."""
    own = EXAMPLES / f"{name}.py"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks, own]
    if name == "with_lightning":
        command = [own, "--devices", ranks]
    checkpoint = {"ddp": "run.pt", "with_lightning": "run.ckpt", "with_webdataset": "run.pt"}.get(name, "run")
    words = (shards, "--checkpoint", folder / checkpoint, "--seen", folder / "seen", "--epochs", EPOCHS, *words)
    done = subprocess.run(
        [sys.executable, *map(str, command), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def given(folder: Path) -> dict[int, list[list[list[str]]]]:
    """By epoch and rank, the keys of each batch."""
    found: dict[int, list[list[list[str]]]] = {epoch: [] for epoch in range(EPOCHS)}
    for path in sorted((folder / "seen").glob("rank*.jsonl")):
        for own in found.values():
            own.append([])
        for line in path.read_text().splitlines():
            epoch, keys = json.loads(line)
            found[epoch][-1].append(keys)
    return found


def counted(ranks: list[list[list[str]]]) -> Counter[str]:
    return Counter(key for batches in ranks for keys in batches for key in keys)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", TRAINERS)
def test_stopped_and_gone_on_with(name: str, workers: int, shards: Path, tmp_path: Path) -> None:
    def run(ranks: int, folder: Path, *words: object) -> None:
        train(name, shards, ranks, folder, "--workers", workers, *words)

    run(2, tmp_path / "a", "--batch-size", BATCH, "--stop-after", STOP)
    first = given(tmp_path / "a")[0]
    assert [len(batches) for batches in first] == [STOP, STOP]
    shutil.copytree(tmp_path / "a", tmp_path / "b")

    run(2, tmp_path / "a", "--batch-size", BATCH)
    every = given(tmp_path / "a")
    assert [len(batches) for batches in every[0] + every[1]] == [SAMPLES // BATCH // 2] * 4
    assert all(set(counted(every[epoch]).values()) == {1} and len(counted(every[epoch])) == SAMPLES for epoch in (0, 1))

    # Another number of ranks, and as many samples a rank: what is left is dealt anew.
    run(1, tmp_path / "b", "--batch-size", BATCH)
    other = given(tmp_path / "b")
    assert [len(batches) for batches in other[0]] == [SAMPLES // BATCH - STOP, STOP]
    assert set(counted(other[0]).values()) == {1}
    assert len(counted(other[0])) == SAMPLES


@pytest.mark.parametrize("name", ["ddp", "with_lightning"])
def test_gone_on_with_in_larger_batches(name: str, shards: Path, tmp_path: Path) -> None:
    """A trainer that took the epoch's length for that of an epoch of larger batches would end it early."""
    train(name, shards, 1, tmp_path, "--batch-size", BATCH, "--stop-after", STOP)
    train(name, shards, 2, tmp_path, "--batch-size", BATCH)
    own = counted(given(tmp_path)[0])
    assert set(own.values()) == {1}
    assert len(own) == STOP * BATCH + (SAMPLES - STOP * BATCH) // (2 * BATCH) * 2 * BATCH
