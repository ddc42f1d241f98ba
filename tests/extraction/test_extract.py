"""Extraction end to end: what is stored is what the network gives, and equal calls give equal bytes."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fmshards
from fmshards.augment import parse_mirror, parse_recipe, render, view_theta
from fmshards.errors import InputError
from fmshards.extraction import extract, layer_rates
from fmshards.model import parse_preprocess
from fmshards.shards import read_calibration, read_manifest

from .conftest import direct, error_db, images_of, network, options, stored, tree, write_tar


def test_raw_features_are_the_networks_own_to_the_last_bit(tars: list[str], tmp_path: Path) -> None:
    manifest = extract(tars, tmp_path / "out", **options(layers={"layer2": "fp32"}))
    found = stored(tmp_path / "out", "layer2")
    assert torch.equal(found.streams["base"], direct(tars, "layer2"))
    assert manifest.samples == 104 == len(found.keys)
    assert manifest.errors["layer2"]["db"] is None
    assert manifest == read_manifest(str(tmp_path / "out"))


def test_several_layers_in_one_pass(tars: list[str], tmp_path: Path) -> None:
    manifest = extract(tars, tmp_path / "out", **options(layers={"layer1": 8, "layer2": "4", "layer3": "bf16"}))
    for layer, rate in (("layer1", 8.0), ("layer2", 4.0), ("layer3", 16.0)):
        found, wanted = stored(tmp_path / "out", layer), direct(tars, layer)
        codec = next(iter(manifest.plan.layer_members(layer).values()))
        assert codec.rate == rate
        whole = error_db(found.streams["base"], wanted)
        assert whole < -15
        # The manifest's error is that of the first chunk of each shard.
        first = torch.cat([torch.arange(start, start + 10) for start in (0, 40, 64)])
        assert manifest.errors[layer]["samples"] == 30
        part = error_db(found.streams["base"][first], wanted[first])
        assert manifest.errors[layer]["db"] == pytest.approx(part, abs=1e-3)
        assert manifest.plan.layer(layer).flops > 0
        assert manifest.plan.layer(layer).dtype == "float32"
    assert stored(tmp_path / "out", "layer1").keys == stored(tmp_path / "out", "layer3").keys


def test_fields_travel_as_they_were(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (32, 32)).save(image, "PNG")
    members = []
    for i in range(12):
        fields = {"png": image.getvalue(), "cls": b"%d" % i, "json": json.dumps({"i": i}).encode(), "seg.png": b"\0\1"}
        members += [(f"d/{i:03d}.{name}", data) for name, data in fields.items()]
    extract(str(write_tar(tmp_path / "a.tar", members)), tmp_path / "out", **options())
    found = stored(tmp_path / "out", "layer2")
    assert found.keys == [f"d/{i:03d}" for i in range(12)]
    assert found.fields == {
        "cls": [b"%d" % i for i in range(12)],
        "json": [json.dumps({"i": i}).encode() for i in range(12)],
        "seg.png": [b"\0\1"] * 12,
    }


def test_mirror_and_views_stored(tars: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = "flip+resized_crop(scale=(0.5, 1))"
    rates = {"layer1": "fp32", "layer2": "fp32"}
    manifest = extract(tars, out, **options(layers=rates, recipe=recipe, views=2, sensitive=0.25, seed=3))
    plan = manifest.plan
    assert plan.members == ("base", "mirror", "view1", "view2")
    assert plan.references == ("base", "mirror")
    model = network()
    preprocess = parse_preprocess("normalize(imagenet)", model=model, name=None)
    found = stored(out, "layer2")
    assert torch.equal(found.streams["base"], direct(tars, "layer2"))
    assert torch.equal(found.streams["mirror"], direct(tars, "layer2", lambda x: x.flip(-1)))
    layer = plan.layer("layer2")
    assert len(layer.sensitive) == 8
    assert layer.similarity is not None
    assert layer.grid is not None
    names = [shard.name for shard in plan.inputs]
    start = 0
    for name, tar in zip(names, tars, strict=True):
        images = images_of(tar)
        keys = found.keys[start : start + len(images)]
        theta = view_theta(parse_recipe(recipe), parse_mirror("stored"), 3, name, keys, 2, (32, 32))
        assert found.theta is not None
        assert np.array_equal(found.theta[start : start + len(images)], theta)
        assert (theta[:, 0, 0, 0] > 0).all()
        assert (theta[:, 1, 0, 0] < 0).all()
        for v in (0, 1):
            moved = torch.stack([render(image, preprocess, theta[i, v]) for i, image in enumerate(images)])
            whole: list[torch.Tensor] = []
            hook = model.layer2.register_forward_hook(lambda module, args, out, whole=whole: whole.append(out))
            with torch.no_grad():
                for part in moved.split(16):
                    model(part.to(memory_format=torch.channels_last))
            hook.remove()
            wanted = torch.cat(whole)[:, list(layer.sensitive)]
            assert torch.equal(found.streams[f"view{v + 1}"][start : start + len(images)], wanted)
        start += len(images)
    assert set(os.listdir(out)) == {"plan.json", "manifest.json", "layer1", "layer2", plan.calibration["file"]}


@pytest.mark.parametrize(
    ("mirror", "members", "references"),
    [
        ("stored", ("base", "mirror"), ("base", "mirror")),
        ("mapped(kernel=1)", ("base",), ("base", "mirror")),
        ("none", ("base",), ("base",)),
    ],
)
def test_ways_of_the_mirror(tars: list[str], tmp_path: Path, mirror: str, members: Any, references: Any) -> None:
    plan = extract(tars, tmp_path / "out", **options(recipe="flip", mirror=mirror)).plan
    assert (plan.members, plan.references) == (members, references)
    assert (plan.layer("layer2").mirror_error is not None) == mirror.startswith("mapped")
    assert plan.layer("layer2").nonnegative


def test_a_recipe_without_a_flip_has_no_mirror(tars: list[str], tmp_path: Path) -> None:
    plan = extract(tars[:1], tmp_path / "out", **options(recipe="crop(pad=4)")).plan
    assert (plan.members, plan.references, plan.mirror) == (("base",), ("base",), {"way": "none"})
    assert plan.layer("layer2").similarity is not None


def test_without_a_recipe_what_training_needs_for_its_own_is_measured(tars: list[str], tmp_path: Path) -> None:
    plan = extract(tars[:1], tmp_path / "out", **options()).plan
    assert list(read_calibration(str(tmp_path / "out"), plan)) == ["layer2/fill"]
    assert plan.layer("layer2").grid is not None
    assert plan.layer("layer2").similarity is None


def test_whole_views_of_any_transform(tars: list[str], tmp_path: Path) -> None:
    from torchvision.transforms import v2

    jitter = v2.Compose([v2.ColorJitter(brightness=0.5), v2.RandomHorizontalFlip()])
    more = options(layers={"layer3": "fp32"}, recipe=jitter, views=2, sensitive=1.0)
    extract(tars[:1], tmp_path / "a", **more)
    extract(tars[:1], tmp_path / "b", **more, workers=2)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    streams = stored(tmp_path / "a", "layer3").streams
    assert streams["view1"].shape == streams["base"].shape
    assert not torch.equal(streams["view1"], streams["view2"])


def test_equal_bytes_whatever_the_workers(tars: list[str], tmp_path: Path) -> None:
    more = options(layers={"layer1": 2, "layer2": 4}, recipe="flip+crop(pad=4)", views=1, sensitive=[0, 3])
    for name, workers in (("a", 0), ("b", 0), ("c", 2)):
        extract(tars, tmp_path / name, **more, workers=workers)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "c")


def test_a_module_of_the_callers(tars: list[str], tmp_path: Path) -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fmshards.extract(tars, tmp_path / "out", **options(model=model, weights=None, layers={"layer2": "fp32"}))
    assert torch.equal(stored(tmp_path / "out", "layer2").streams["base"], direct(tars, "layer2"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_precision_is_recorded_and_cast(tars: list[str], tmp_path: Path) -> None:
    plan = extract(tars[:1], tmp_path / "out", **options(layers={"layer2": "fp32"}, precision="bf16")).plan
    assert plan.identity["dtype"] == "bf16"
    found, wanted = stored(tmp_path / "out", "layer2").streams["base"], direct(tars[:1], "layer2")
    assert not torch.equal(found, wanted)
    assert error_db(found, wanted) < -30


def test_folder_of_classes(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for i in range(30):
        folder = root / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + i, 50), (i * 8, 0, 0)).save(folder / f"{i}.png")
    more = options(preprocess="resize(36)+center_crop(32)+normalize(imagenet)", shard_size=20)
    manifest = extract(str(root), tmp_path / "out", **more)
    assert [entry.samples for entry in manifest.shards["layer2"]] == [20, 10]
    assert manifest.plan.classes == ("cat", "dog")
    found = stored(tmp_path / "out", "layer2")
    assert sorted(found.keys) == sorted(f"{'cat' if i % 2 else 'dog'}/{i}" for i in range(30))
    for key, cls, name, path in zip(found.keys, *(found.fields[f] for f in ("cls", "class", "path")), strict=True):
        assert (key, manifest.plan.classes[cls]) == (path[:-4], name)


class Pairs:
    """A map-style data set of (PIL image, label)."""

    classes = ("even", "odd")

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (32, 32), (i * 10, i, 0)), i % 2


@pytest.mark.parametrize("workers", [0, 2])
def test_python_data_set(tmp_path: Path, workers: int) -> None:
    manifest = extract(Pairs(), tmp_path / "out", **options(shard_size=15, workers=workers))
    assert manifest.plan.classes == ("even", "odd")
    found = stored(tmp_path / "out", "layer2")
    assert found.fields == {"cls": [i % 2 for i in range(24)]}
    assert found.keys == [f"{i:08d}" for i in range(24)]


def test_output_at_an_fsspec_url(tars: list[str]) -> None:
    pytest.importorskip("fsspec")
    out = f"memory://extract-{os.getpid()}/set"
    first = extract(tars[:1], out, **options())
    assert first == extract(tars[:1], out, **options()) == read_manifest(out)


def test_layer_texts() -> None:
    assert layer_rates(["layer2:4", "features.3:fp16"]) == {"layer2": "4", "features.3": "fp16"}
    for bad in (["layer2"], [":4"], ["layer2:"], ["a:1", "a:2"]):
        with pytest.raises(InputError):
            layer_rates(bad)


# progress


def test_progress_tells_rate_and_time(tars: list[str], tmp_path: Path) -> None:
    stream = io.StringIO()
    extract(tars, tmp_path / "out", **options(), progress=stream)
    text = stream.getvalue()
    assert "104 samples in" in text
    for stage in ("calibrate", "read", "decode", "forward", "encode", "write", "wait"):
        assert stage in text


def test_progress_on_a_terminal_rewrites_its_line() -> None:
    from fmshards.clock import Clock
    from fmshards.extraction.progress import Progress

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(stream, Clock())
    progress._shown = -1e9
    progress.stage("calibration", 16, 64)
    assert stream.getvalue().strip() == "calibration: 16 of 64"
    stream.truncate(stream.seek(0))
    progress.begin(100)
    progress._shown = -1e9
    progress.update(25, 1000, 50)
    assert stream.getvalue().startswith("\r25 samples (50%)")
    assert "left" in stream.getvalue()


def test_progress_for_machines(tars: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    extract(tars, tmp_path / "set", **options(), progress="json")
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    last = told[-1]
    assert last["event"] == "done"
    assert (last["samples"], last["done"], last["left"], last["kept"]) == (104, 1.0, 0.0, 0)
    assert last["bytes"] >= 104 * 32 * 16 * 16 / 2
    assert {"calibrate", "forward", "encode"} <= last["split"].keys()
    extract(tars, tmp_path / "set", **options(), progress="json")
    (again,) = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert (again["event"], "whole already" in again["text"]) == ("note", True)
    with pytest.raises(InputError, match=r'progress is .loud.*"json"'):
        extract(tars, tmp_path / "set", **options(), progress="loud")


# labels


def tar_of_labels(path: Path, labels: list[int]) -> str:
    image = io.BytesIO()
    Image.new("RGB", (32, 32)).save(image, "PNG")
    members: list[tuple[str, bytes]] = []
    for i, label in enumerate(labels):
        members += [(f"{i:04d}.png", image.getvalue()), (f"{i:04d}.cls", b"%d" % label)]
    return str(write_tar(path, members))


@pytest.mark.parametrize("shards", [[[i // 16 for i in range(96)]], [[0] * 48, [1] * 48]])
def test_sorted_labels_are_told(tmp_path: Path, shards: list[list[int]]) -> None:
    tars = [tar_of_labels(tmp_path / f"{i}.tar", labels) for i, labels in enumerate(shards)]
    with pytest.warns(UserWarning, match="sorted by label"):
        extract(tars, tmp_path / "out", **options(batch=48))


def test_shuffled_labels_are_not(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    labels = np.random.default_rng(0).integers(0, 3, 96).tolist()
    extract(tar_of_labels(tmp_path / "a.tar", labels), tmp_path / "out", **options(batch=48))
    assert not [w for w in recwarn if "sorted" in str(w.message)]


# fields


def test_which_fields_travel(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (32, 32)).save(image, "PNG")
    members = []
    for i in range(4):
        fields = {"png": image.getvalue(), "cls": b"%d" % i, "txt": b"a", "json": b"{}"}
        members += [(f"{i}.{name}", data) for name, data in fields.items()]
    tar = str(write_tar(tmp_path / "a.tar", members))
    for n, (asked, kept) in enumerate(
        (
            ({"fields": ["cls", "json"]}, {"cls", "json"}),
            ({"drop_fields": "txt"}, {"cls", "json"}),
            ({"fields": []}, set()),
        )
    ):
        plan = extract(tar, tmp_path / f"{n}", **options(**asked)).plan
        assert set(stored(tmp_path / f"{n}", "layer2").fields) == kept
        assert plan.options.get("fields") == (list(asked["fields"]) if "fields" in asked else None)
    for asked in ({"fields": "cls,jsn"}, {"drop_fields": ["jsn"]}):
        with pytest.raises(InputError, match=r"a\.tar: key '0': it has no field 'jsn'; it has cls, json, txt"):
            extract(tar, tmp_path / "bad", **options(**asked))
    with pytest.raises(fmshards.errors.MismatchError, match="fields"):
        extract(tar, tmp_path / "0", **options())


# layout and batch


def test_batch_and_layout_of_a_cpu(tars: list[str], tmp_path: Path) -> None:
    plan = extract(tars[:1], tmp_path / "out", **options(batch=None)).plan
    assert plan.options["batch"] == 8
    assert plan.provenance["memory_format"] == "channels_last"
    again = extract(tars[:1], tmp_path / "out", **options(batch=8)).plan
    assert again == plan


def test_a_set_is_gone_on_with_in_its_format(tars: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fmshards.extraction import request

    more = options(layers={"layer3": "fp32"}, batch=None)
    with monkeypatch.context() as patch:
        patch.setattr(request, "best_memory_format", lambda model: "contiguous")
        patch.setattr(request, "CPU_BATCH", 16)
        extract(tars, tmp_path / "out", **more)
    before = tree(tmp_path / "out")
    (tmp_path / "out" / "layer3" / "000001.tar").unlink()
    with pytest.warns(UserWarning, match="missing"):
        extract(tars, tmp_path / "out", **more)
    assert tree(tmp_path / "out") == before


def test_a_flip_without_a_mirror_is_told(tars: list[str], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="not the feature of the flipped image"):
        extract(tars[:1], tmp_path / "out", **options(recipe="flip", mirror="none"))
