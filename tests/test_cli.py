"""The command line, end to end, as a user types it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "examples" / "data"
MODEL = f"{ROOT}/examples/resnet20.py:resnet20"
WEIGHTS = f"{DATA}/resnet20.safetensors"


def fmshards(*words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fmshards", *map(str, words)], capture_output=True, text=True, cwd=cwd, check=False
    )


def extract(source: object, out: object, *more: object) -> subprocess.CompletedProcess[str]:
    return fmshards(
        *("extract", source, out, "--model", MODEL, "--weights", WEIGHTS, "--preprocess", "normalize(imagenet)"),
        *("--recipe", "flip+crop(pad=4)", "--calibration", 64, *more),
    )


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "set"
    done = extract(DATA / "cifar10-test-000000.tar", out, "--layer", "layer2:4", "--layer", "layer3:2", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["samples"] == 500
    assert set(summary["bytes"]) == {"layer2", "layer3"}
    return out


def test_channels_are_stored_as_they_are_on_demand(shard_set: Path, tmp_path: Path) -> None:
    done = extract(
        *(DATA / "cifar10-test-000000.tar", tmp_path / "set", "--layer", "layer3:2", "--channel-order", "none"),
        *("--json",),
    )
    assert done.returncode == 0, done.stderr
    found = [
        json.loads((each / "plan.json").read_text())["layers"][-1]["codec"] for each in (tmp_path / "set", shard_set)
    ]
    assert found[0]["order"] is None
    assert sorted(found[1]["order"]) == list(range(64))


def test_cuts_shows_bytes_at_a_rate() -> None:
    done = fmshards("cuts", MODEL, "--weights", WEIGHTS, "--size", 32, "--rate", "4")
    assert done.returncode == 0, done.stderr
    header, first = done.stdout.splitlines()[:2]
    assert "bytes at 4" in header
    assert "65.5 kB" in first
    assert "8.19 kB" in first
    assert "expected" in fmshards("cuts", MODEL, "--weights", WEIGHTS, "--size", 32, "--rate", "much").stderr


def test_a_layer_that_is_none_names_the_nearest(shard_set: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "new", shard_set):
        done = extract(DATA / "cifar10-test-000000.tar", out, "--layer", "layer22:4")
        assert done.returncode == 65
        assert "no cut 'layer22'; nearest: 'layer2" in done.stderr


def test_help_loads_no_heavy_module() -> None:
    code = (
        "import sys\nfrom fmshards.cli import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'webdataset', 'torchvision', 'fsspec'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("cuts", "doctor", "extract", "inspect", "verify"):
        assert command in done.stdout


def test_doctor_says_which_engine_runs_and_how_fast() -> None:
    text = fmshards("doctor")
    assert text.returncode == 0, text.stderr
    assert "equal to zfpy's, bit for bit" in text.stdout
    found = json.loads(fmshards("doctor", "--json").stdout)
    assert found["equal"] is True
    assert found["engine"] in text.stdout
    assert set(found["speed"]) == {"decode", "encode", "zfpy_decode", "zfpy_encode"}
    assert min(found["speed"].values()) > 0


def test_doctor_refuses_an_engine_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMSHARDS_ENGINE", "turbo")
    done = fmshards("doctor")
    assert done.returncode == 65
    assert done.stderr.strip() == "error: FMSHARDS_ENGINE=turbo: expected bmi2, avx2, portable or zfpy"


def test_cuts_prints_the_sensible_ones_and_json() -> None:
    text = fmshards("cuts", MODEL, "--size", 32)
    assert text.returncode == 0, text.stderr
    assert "layer2" in text.stdout
    found = json.loads(fmshards("cuts", MODEL, "--size", 32, "--json").stdout)
    assert re.search(r"layer2  .* 68\.\d% +0\.6% / 5\.8%", text.stdout)
    layer2 = next(c for c in found if c["name"] == "layer2")
    assert layer2["mirror_multiplications"] == {"1": 32 * 32 * 16 * 16, "3": 9 * 32 * 32 * 16 * 16}
    assert layer2["shape"] == [32, 16, 16]
    assert layer2["bytes"] == 32 * 16 * 16 * 4
    assert layer2["flops_before"] > 0
    assert layer2["flops_after"] > 0


def test_inspect_says_what_the_set_holds(shard_set: Path) -> None:
    text = fmshards("inspect", shard_set)
    assert text.returncode == 0, text.stderr
    for word in ("layer2", "layer3", "500", "flip", "crop(pad=4", "mirror"):
        assert word in text.stdout
    found = json.loads(fmshards("inspect", shard_set, "--json").stdout)
    assert found["samples"] == 500
    assert [layer["name"] for layer in found["layers"]] == ["layer2", "layer3"]


def test_inspect_says_which_recipes_the_set_serves(shard_set: Path) -> None:
    text = fmshards("inspect", shard_set).stdout
    assert "recipe: flip(p=0.5)+crop(pad=4, step=4); loader(recipe=...) can be given others" in text
    assert "  flip: the mirror stored\n" in text
    assert "  crop: by default in steps of 4 pixels, whole cells of every layer\n" in text
    found = json.loads(fmshards("inspect", shard_set, "--json").stdout)
    assert list(found["serves"]) == ["none", "flip", "crop", "resized_crop"]
    assert found["refuses"] == {}


def test_inspect_says_which_recipes_a_set_cannot_serve_and_what_to_do(tmp_path: Path) -> None:
    photo = tmp_path / "photos" / "a" / "1.png"
    photo.parent.mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(photo)
    words = ("extract", tmp_path / "photos", tmp_path / "set", "--model", MODEL, "--weights", WEIGHTS)
    assert fmshards(*words, "--layer", "layer3:4").returncode == 0
    assert "\n  not flip: it keeps no mirror" in fmshards("inspect", tmp_path / "set").stdout
    found = json.loads(fmshards("inspect", tmp_path / "set", "--json").stdout)
    assert (found["recipe"], list(found["serves"])) == ("none", ["none", "crop", "resized_crop"])
    assert "extract with a flip in the recipe" in found["refuses"]["flip"]


def test_inspect_names_units_and_no_digest_of_64_digits(shard_set: Path) -> None:
    text = fmshards("inspect", shard_set).stdout
    assert "worst channel dB" in text
    assert "mirror dB" in text
    assert not re.search(r"[0-9a-f]{64}", text)
    prefix = json.loads(fmshards("inspect", shard_set, "--json").stdout)["identity"]["layers"]["layer2"]["prefix"]
    assert len(prefix) == 64
    assert prefix[:16] in text
    assert len(text.splitlines()) < 60  # the marks of every module are for programs


def test_a_whole_set_is_said_to_be_there(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(folder / "1.png")
    words = ("extract", tmp_path / "photos", tmp_path / "set", "--model", f"{ROOT}/examples/resnet20.py:resnet20")
    words += ("--weights", f"{ROOT}/examples/data/resnet20.safetensors", "--layer", "layer3:4")
    first, again = fmshards(*words), fmshards(*words)
    assert "1 sample in" not in again.stderr
    assert "whole already" in again.stderr
    assert "whole already" not in first.stderr
    assert again.stdout == first.stdout
    assert ": 1 sample\n" in first.stdout
    assert " in 1 shard, " in first.stdout


def test_inspect_says_what_an_unfinished_set_lacks(tmp_path: Path) -> None:
    copy = tmp_path / "set"
    shutil.copytree(ROOT / "tests" / "fixtures" / "set-mirror", copy)
    whole = json.loads(fmshards("inspect", copy, "--json").stdout)
    assert (whole["whole"], whole["missing"]) == (True, None)

    (copy / "manifest.json").unlink()
    text = fmshards("inspect", copy)
    assert text.returncode == 0, text.stderr
    assert "unfinished, 2 shards a layer" in text.stdout
    assert "nothing but manifest.json" in text.stdout

    (copy / "1" / "000001.tar").unlink()
    shutil.rmtree(copy / "3")
    text = fmshards("inspect", copy)
    assert "missing: 1 of 2 shards of 1, 2 of 2 shards of 3; the same extract goes on" in text.stdout
    found = json.loads(fmshards("inspect", copy, "--json").stdout)
    assert (found["whole"], found["missing"], found["samples"]) == (False, {"1": 1, "3": 2}, None)
    assert [layer["row_bytes"] for layer in found["layers"]] == [layer["row_bytes"] for layer in whole["layers"]]


def test_inspect_one_sample(shard_set: Path) -> None:
    found = json.loads(fmshards("inspect", shard_set, "--sample", 7, "--json").stdout)
    assert found["key"]
    assert found["layers"]["layer2"]["shape"] == [32, 16, 16]
    beyond = fmshards("inspect", shard_set, "--sample", 500)
    assert beyond.returncode == 65
    assert "0 to 499" in beyond.stderr


def test_verify_passes_and_names_the_first_bad_byte(shard_set: Path, tmp_path: Path) -> None:
    good = fmshards("verify", shard_set, "--model", MODEL, "--weights", WEIGHTS)
    assert good.returncode == 0, good.stderr
    assert "8 samples" in good.stdout

    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", shard_set, copy], check=True)
    tar = copy / "layer2" / "000000.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    bad = fmshards("verify", copy)
    assert bad.returncode == 1
    assert "layer2/000000.tar" in bad.stderr
    assert "byte" in bad.stderr
    found = json.loads(fmshards("verify", copy, "--json").stdout)
    assert found["ok"] is False
    assert found["problems"]


def test_verify_refuses_other_weights(shard_set: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(WEIGHTS)
    state["conv1.weight"][0, 0, 0, 0] += 1e-3
    save_file(state, tmp_path / "other.safetensors")
    done = fmshards("verify", shard_set, "--model", MODEL, "--weights", tmp_path / "other.safetensors")
    assert done.returncode == 1
    assert "was written by other weights than this model's before the cut layer2: the tensors of conv1" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--layer", "layer2:40"), "40"),
        (("--layer", "layer9:4"), "layer3"),
        (("--layer", "layer2"), "NAME:RATE"),
        (("--layer", "layer2:4", "--mirror", "sideways"), "stored"),
        (("--layer", "layer2:4", "--shard-size", "100"), "shard"),
        (("--layer", "layer2:4", "--channel-order", "sorted"), "auto"),
        (("--layer", "layer2:int9"), "int2 to int8"),
        (("--layer", "layer2:4", "--filter", "lz4"), "zstd"),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = extract(DATA / "cifar10-test-000000.tar", tmp_path / "out", *words)
    assert done.returncode in (2, 65)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_place_that_cannot_be_written_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = extract(DATA / "cifar10-test-000000.tar", tmp_path / "file" / "set", "--layer", "layer2:4")
    assert done.returncode == 74, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot ")


def test_int_and_a_filter(tmp_path: Path) -> None:
    out = tmp_path / "set"
    layers = ("--layer", "layer2:int4-channel", "--layer", "layer3:int3")
    done = extract(DATA / "cifar10-test-000000.tar", out, *layers, "--filter", "zstd", "--mirror", "none", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["error_db"]["layer2"] < -15
    assert found["error_db"]["layer3"] < -18
    assert found["bytes"]["layer2"] < 0.7 * 500 * 32 * 16 * 16 / 2
    text = fmshards("inspect", out)
    assert text.returncode == 0, text.stderr
    assert "int 4 + zstd" in text.stdout
    good = fmshards("verify", out, "--model", MODEL, "--weights", WEIGHTS)
    assert good.returncode == 0, good.stderr
    assert "8 samples computed again" in good.stdout


def test_verify_always_prints_json(tmp_path: Path) -> None:
    done = fmshards("verify", tmp_path / "nothing", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert "nothing" in found["problems"][0]


def test_impatient_ctrl_c_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "set"
    command = [sys.executable, "-m", "fmshards", "extract", f"{DATA}/cifar10-train-{{000000..000004}}.tar", str(out)]
    command += ["--model", MODEL, "--weights", WEIGHTS, "--layer", "layer2:4", "--calibration", "64", "--workers", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as running:
        while not (out / "plan.json").exists():
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.02)
        for _ in range(2):  # a terminal sends them to the workers too
            os.killpg(running.pid, signal.SIGINT)
        said = running.stderr.read()
        assert running.wait() == 130, said
    assert "Traceback" not in said
    assert said.rstrip().endswith("stopped")
    assert not (out / "manifest.json").exists()


def test_missing_source_and_missing_set(tmp_path: Path) -> None:
    done = extract(tmp_path / "no-{0..3}.tar", tmp_path / "out", "--layer", "layer2:4")
    assert done.returncode == 65
    assert "no-0.tar" in done.stderr
    for command in ("inspect", "verify"):
        done = fmshards(command, tmp_path / "nothing")
        assert done.returncode == 65
        assert "nothing" in done.stderr
        assert "Traceback" not in done.stderr


def readme_options() -> str:
    text = (ROOT / "README.md").read_text()
    return text[text.index("### Options") : text.index("## What it gives")]


def test_every_option_that_the_readme_names_is_one() -> None:
    known = fmshards("extract", "--help").stdout
    named = set(re.findall(r"`(--[a-z-]+)", readme_options()))
    assert len(named) > 10
    assert not [option for option in sorted(named) if option not in known]


def test_every_term_that_the_readme_names_is_read() -> None:
    from fmshards.augment import parse_mirror, parse_recipe
    from fmshards.calibration import parse_sensitive
    from fmshards.extraction import layer_rates
    from fmshards.model import parse_preprocess

    readers = {
        "--recipe": parse_recipe,
        "--mirror": parse_mirror,
        "--views": parse_sensitive,
        "--preprocess": parse_preprocess,
        "--layer": lambda text: layer_rates(text if ":" in text else f"layer3:{text}"),
    }
    read, found = None, 0
    for line in readme_options().splitlines():
        cells = line.split(" | ")
        if len(cells) < 3 or line.startswith(("| option", "|---")):
            continue
        named = re.match(r"\| `(--[a-z]+)", line)
        read = readers.get(named[1]) if named else read
        for term in re.findall(r"`([^`]+)`", cells[-2]):
            if read is None or term in ("timm", "torchvision"):
                continue
            # What a table leaves open, filled in; options of a term, inside one.
            term = term.replace("(H, W)", "(8, 9)").replace("(..)", "(0.5, 0.5, 0.5)")
            read(term)
            found += 1
    assert found > 20


def test_plan_prints_a_table_and_writes_its_answer(tmp_path: Path) -> None:
    from fmshards.cli.plan import command

    source = str(DATA / "cifar10-test-{000000..000000}.tar")
    asked = [source, "--model", MODEL, "--weights", WEIGHTS, "--layer", "layer3", "--samples", "32"]
    done = CliRunner().invoke(
        command, [*asked, "--max-drop", "3%", "--recipe", "flip", "--out", f"{tmp_path}/plan.json"]
    )
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert re.match(r"32 photos of about \d+, \d+ B an image, looked at in ", lines[0])
    row = next(line for line in lines[2:] if line.startswith("layer3"))
    assert re.search(r"\d% \+- \d.*(\d+ epochs?|never)$", row)
    assert any(line.startswith("layer3  flip none") for line in lines)
    # As a shell takes it: the braces are not its own.
    words = shlex.split(lines[-1].partition(": ")[2])
    assert (words[2], words[-2:]) == (source, ["--plan", f"{tmp_path}/plan.json"])
    proposed = json.loads((tmp_path / "plan.json").read_text())["options"]
    assert f" {proposed['layers']['layer3']} " in row
    told = CliRunner().invoke(command, [*asked, "--max-bytes", "1kB", "--recipe", "none", "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["cuts"][0]["worth"]["bytes"] <= 1000
    assert found["budget"] == {"max_drop": None, "max_bytes": 1000}


def test_extract_needs_layers_or_a_plan(tmp_path: Path) -> None:
    source = DATA / "cifar10-test-000000.tar"
    done = fmshards("extract", source, tmp_path / "set", "--model", MODEL)
    assert done.returncode == 2
    assert "--layer" in done.stderr
    assert "--plan" in done.stderr
    done = fmshards("extract", source, tmp_path / "set", "--model", MODEL, "--plan", tmp_path / "none.json")
    assert done.returncode == 65
    assert "none.json" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "set").exists()
