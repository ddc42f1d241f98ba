"""The examples run as their own text says."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "examples" / "data"


def run(*words: object) -> str:
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("examples") / "set"
    run(
        *("-m", "fmshards", "extract", DATA / "cifar10-train-000000.tar", out),
        *("--model", "examples/resnet20.py:resnet20", "--weights", DATA / "resnet20.safetensors"),
        *("--preprocess", "normalize(imagenet)", "--layer", "layer2:4", "--recipe", "flip+crop(pad=4)"),
    )
    return out


def test_plain_loop(shard_set: Path) -> None:
    lines = run("examples/plain_loop.py", shard_set, "--epochs", 2).splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 0", "epoch 1"]
    assert all("500 samples" in line for line in lines)
    # The suffix is a trained one: from correct features it is far above chance from the first step.
    assert float(lines[-1].split()[-1]) > 0.6


def test_webdataset_pipeline(shard_set: Path) -> None:
    lines = run("examples/webdataset_pipeline.py", shard_set / "layer2").splitlines()
    assert len(lines) == 2
    assert all("500 samples" in line for line in lines)


@pytest.mark.slow
def test_own_photos(tmp_path: Path) -> None:
    with tarfile.open(DATA / "cifar10-train-000001.tar") as tar:
        fields = {m.name: tar.extractfile(m).read() for m in tar}
    for name in sorted(fields)[:192]:
        if name.endswith("jpg"):
            folder = tmp_path / "photos" / f"class{int(fields[name[:-3] + 'cls']) % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(fields[name])
    from torchvision.models import resnet18

    save_file(resnet18().state_dict(), tmp_path / "resnet18.safetensors")
    out = run(
        *(
            "examples/own_photos.py",
            tmp_path / "photos",
            tmp_path / "set",
            "--weights",
            tmp_path / "resnet18.safetensors",
        ),
        *(
            "--epochs",
            1,
            "--preprocess",
            "resize(64)+center_crop(64)+normalize(imagenet)",
            "--recipe",
            "flip+crop(pad=4)",
        ),
        *("--batch-size", 16, "--workers", 1),
    )
    assert "96 photos of 3 classes" in out
