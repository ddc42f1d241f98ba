"""The examples run as their own text says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import save_file

import fmshards
from fmshards.cli.extract import command
from fmshards.codec import FeatureSpec
from fmshards.extraction.part import part_of
from fmshards.model import load_model

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


def test_plain_loop_trains_and_evaluates(shard_set: Path) -> None:
    # 500 samples and batches of 64: the last one is no whole batch, and evaluation counts its samples once.
    words = ("--test", shard_set, "--epochs", 2, "--batch-size", 64, "--recipe", "flip+crop(pad=2)")
    lines = run("examples/plain_loop.py", shard_set, *words).splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 0", "  test set", "epoch 1", "  test set"]
    assert all("448 samples" in line for line in lines[::2])
    # The suffix is a trained one: from correct features it is far above chance from the first step.
    assert float(lines[2].split()[-1]) > 0.6
    right = float(lines[3].split()[-1]) * 500
    assert abs(right - round(right)) <= 0.25  # three digits of a share of 500
    assert right > 300


@pytest.mark.slow
def test_plain_loop_is_stopped_and_goes_on(shard_set: Path, tmp_path: Path) -> None:
    """Two runs that were stopped, in the middle of an epoch and at its last batch, end as one that was not."""
    words = ("examples/plain_loop.py", shard_set, "--test", shard_set, "--epochs", 2, "--batch-size", 64)
    whole = run(*words).splitlines()
    saved = ("--checkpoint", tmp_path / "run.pt", "--every", 2)
    assert run(*words, *saved, "--stop", 3) == ""
    assert run(*words, *saved, "--stop", 4, "--workers", 0) == ""
    lines = run(*words, *saved).splitlines()
    assert lines[0] == whole[1]
    assert lines[1:] == whole[2:]


def test_webdataset_pipeline(shard_set: Path) -> None:
    lines = run("examples/webdataset_pipeline.py", shard_set / "layer2").splitlines()
    assert len(lines) == 2
    assert all("500 samples" in line for line in lines)


def test_the_small_transformer_is_cut_at_its_blocks_and_trained(tmp_path: Path) -> None:
    names = ("examples/vit_tiny.py:vit_tiny", str(DATA / "vit_tiny.safetensors"))
    run(
        *("-m", "fmshards", "extract", DATA / "cifar10-test-000000.tar", tmp_path / "set"),
        *("--model", names[0], "--weights", names[1], "--layer", "blocks.1:int8", "--layer", "blocks.3:int8"),
    )
    model = load_model(f"{ROOT}/{names[0]}", names[1])
    right = dict.fromkeys(("blocks.1", "blocks.3"), 0)
    suffixes = {layer: fmshards.split(model, layer, torch.zeros(1, 3, 32, 32))[1].eval() for layer in right}
    cuts = {cut.name: cut for cut in fmshards.cuts(model, torch.zeros(1, 3, 32, 32))}
    assert all(cuts[layer].spec == FeatureSpec("tokens", (65, 96), (8, 8), 1) for layer in right)
    with torch.no_grad():
        for batch in fmshards.loader(str(tmp_path / "set"), batch_size=100, num_workers=0, model=model, train=False):
            for layer, suffix in suffixes.items():
                right[layer] += int((suffix(batch[layer]).argmax(1) == batch["cls"]).sum())
    assert min(right.values()) > 325  # of 500; 71% of the whole test set are right


@pytest.mark.slow
def test_rates_are_measured_once(tmp_path: Path) -> None:
    words = ("tools/check_rates.py", "--quick", "--out", tmp_path / "rates.md")
    first, page = run(*words), (tmp_path / "rates.md").read_text()
    assert "layer1 int4:" in first
    ElementTree.parse(tmp_path / "rates.svg")
    again = run(*words)
    assert "layer1 int4:" not in again
    assert (tmp_path / "rates.md").read_text() == page
    kept = json.loads((tmp_path / "rates.json").read_text())
    next(iter(kept.values())).pop("layer1 int4")
    (tmp_path / "rates.json").write_text(json.dumps(kept))
    assert run(*words).count(" int4:") == 1


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 photos in three class folders."""
    folder = tmp_path_factory.mktemp("photos")
    with tarfile.open(DATA / "cifar10-train-000001.tar") as tar:
        fields = {m.name: tar.extractfile(m).read() for m in tar}
    for name in sorted(fields)[:192]:
        if name.endswith("jpg"):
            own = folder / f"class{int(fields[name[:-3] + 'cls']) % 3}"
            own.mkdir(exist_ok=True)
            (own / name).write_bytes(fields[name])
    return folder


def own_photos(photos: Path, out: Path, *more: object) -> str:
    small = "resize(64)+center_crop(64)+normalize(imagenet)"
    return run(
        *("examples/own_photos.py", photos, out, "--epochs", 1, "--preprocess", small, "--recipe", "flip+crop(pad=16)"),
        *("--batch-size", 16, "--workers", 1, *more),
    )


@pytest.mark.slow
def test_own_photos(photos: Path, tmp_path: Path) -> None:
    from torchvision.models import resnet18

    save_file(resnet18().state_dict(), tmp_path / "resnet18.safetensors")
    out = own_photos(photos, tmp_path / "set", "--weights", tmp_path / "resnet18.safetensors")
    assert "96 photos of 3 classes" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layer"), [("torchvision:squeezenet1_1", "features.7:4"), ("timm:resnet10t", "layer2:4")]
)
def test_own_photos_without_weights_and_again_with_test_photos(
    photos: Path, tmp_path: Path, model: str, layer: str
) -> None:
    words = ("--model", model, "--layer", layer)
    assert "96 photos of 3 classes" in own_photos(photos, tmp_path / "set", *words)
    # The same again goes on with the set that is there. The test photos lack a class.
    fewer = tmp_path / "fewer"
    shutil.copytree(photos, fewer)
    shutil.rmtree(fewer / "class0")
    out = own_photos(photos, tmp_path / "set", *words, "--test", fewer)
    assert "test photos: accuracy" in out
    sets = [json.loads((tmp_path / name / "plan.json").read_text()) for name in ("set", "set-test")]
    assert sets[0]["classes"] == sets[1]["classes"] == ["class0", "class1", "class2"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("resnet18", "Linear"), ("squeezenet1_1", "Conv2d"), ("densenet121", "Linear"), ("convnext_tiny", "Linear")],
)
def test_a_head_is_replaced_whatever_it_is(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from own_photos import replace_head
    from torchvision import models

    model, example = models.get_model(name).eval(), torch.zeros(1, 3, 64, 64)
    before = dict(model.named_modules())
    replace_head(model, 3, example)
    assert model(example).shape == (1, 3)
    new = [m for n, m in model.named_modules() if before.get(n) is not m]
    assert [type(m).__name__ for m in new] == [kind]


def test_a_model_without_a_head_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from own_photos import replace_head

    with pytest.raises(SystemExit, match="15 outputs"):
        replace_head(torch.nn.Flatten(), 3, torch.zeros(1, 3, 1, 5))


def test_the_kubernetes_job_says_what_extract_understands() -> None:
    """And tells its exit codes as they are meant."""
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((ROOT / "examples" / "cluster" / "kubernetes.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"] == ["fmshards", "extract"]
    with command.make_context("extract", list(container["args"])) as context:
        assert context.params["grace"] < job["template"]["spec"]["terminationGracePeriodSeconds"]
    environ = {each["name"]: each["value"] for each in container["env"]}
    last = part_of(None, {**environ, "JOB_COMPLETION_INDEX": str(job["completions"] - 1)})
    assert (last.index, last.count) == (job["completions"] - 1, job["completions"])
    ignored, failed = job["podFailurePolicy"]["rules"]
    assert (ignored["action"], failed["action"]) == ("Ignore", "FailIndex")
    assert set(failed["onExitCodes"]["values"]) == {2, os.EX_DATAERR, os.EX_SOFTWARE, os.EX_IOERR}
