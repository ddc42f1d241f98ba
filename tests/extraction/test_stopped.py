"""What goes wrong in extraction: one clear error, and nothing left but whole shards."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import fmshards
from fmshards.errors import CodecError, FmshardsError, InputError
from fmshards.extraction import extract
from fmshards.shards import read_manifest, read_plan

from .conftest import options, tree, write_tar
from .test_extract import Pairs


def no_leftovers(out: Path, *shards: str) -> None:
    """Nothing but a plan with its calibration and these whole shards is there, temporary files included."""
    calibration = read_plan(str(out)).calibration
    assert calibration is not None
    assert set(tree(out)) == {"plan.json", calibration["file"], *shards}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_stops_it(tars: list[str], tmp_path: Path, workers: int) -> None:
    bad = bytearray(Path(tars[1]).read_bytes())
    where = bad.index(b"000505.jpg") + 512
    bad[where : where + 600] = bytes(600)
    (tmp_path / "bad.tar").write_bytes(bad)
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"bad\.tar: key '000505'.*cannot be decoded"):
        extract([tars[0], str(tmp_path / "bad.tar")], out, **options(workers=workers, calibration=2))
    no_leftovers(out, "layer2/000000.tar")
    with pytest.raises(fmshards.errors.FormatError, match="not whole"):
        read_manifest(str(out))


def test_a_truncated_tar_stops_it(tars: list[str], tmp_path: Path) -> None:
    data = Path(tars[0]).read_bytes()
    (tmp_path / "bad.tar").write_bytes(data[: len(data) // 1024 * 512])
    with pytest.raises(InputError, match=r"bad\.tar is not a whole tar"):
        extract(str(tmp_path / "bad.tar"), tmp_path / "out", **options())
    no_leftovers(tmp_path / "out")


def test_fields_must_agree(tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (32, 32)).save(image, "PNG")
    members = [("a.png", image.getvalue()), ("a.cls", b"1"), ("b.png", image.getvalue())]
    with pytest.raises(InputError, match="key 'b' lacks the field 'cls'"):
        extract(str(write_tar(tmp_path / "a.tar", members)), tmp_path / "out", **options())


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ({"cls": 1, "more": 2}, {"cls": 1}, "key '00000004' lacks the field 'more'"),
        ({"cls": 1}, {"cls": 1, "more": 2}, "key '00000004' has a field 'more'"),
        ({"cls": 1}, {}, "key '00000004' lacks the field 'cls'"),
        ({"cls": 1}, {"cls": 0.5}, "field 'cls' is one number, in the samples before it one whole number"),
        ({"cls": [0, 1]}, {"cls": [0, 1, 0]}, "field 'cls' is a vector of 3 whole numbers"),
    ],
    ids=range(5),
)
def test_fields_must_agree_in_all_shards(
    tmp_path: Path, first: dict[str, Any], then: dict[str, Any], words: str
) -> None:
    image = Image.new("RGB", (32, 32))
    samples = [{"image": image, **first}] * 4 + [{"image": image, **then}] * 4
    for _ in range(2):  # the second time the first shard is there
        with pytest.raises(InputError, match=words):
            extract(samples, tmp_path / "out", **options(shard_size=4))
        assert sorted(path.name for path in (tmp_path / "out" / "layer2").iterdir()) == ["000000.tar"]


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    images = [Image.new("RGB", (32, 32)), Image.new("RGB", (48, 32))]
    with pytest.raises(InputError, match=r"key '00000001': the image is 32 x 48 .* the first one 32 x 32"):
        extract(images, tmp_path / "out", **options())


def test_a_value_that_is_not_finite_names_its_key(tmp_path: Path) -> None:
    def preprocess(image: Image.Image) -> torch.Tensor:
        x = torch.full((3, 32, 32), 0.5)
        return x * float("nan") if image.getpixel((0, 0))[0] == 40 else x

    with pytest.raises(CodecError, match=r"layer2: key '00000004', base: .*not finite"):
        extract(Pairs(), tmp_path / "out", **options(preprocess=preprocess))


class Unpicklable(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a)


class Failing(Pairs):
    def __init__(self, how: str) -> None:
        self.how = how

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        if i == 20:
            if self.how == "die":
                os.kill(os.getpid(), 9)
            raise Unpicklable(1, 2)
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set_that_raises(tmp_path: Path, workers: int) -> None:
    with pytest.raises(InputError, match="key '00000020': it cannot be read: Unpicklable"):
        extract(Failing("raise"), tmp_path / "out", **options(workers=workers))
    no_leftovers(tmp_path / "out")


def test_a_worker_that_dies(tmp_path: Path) -> None:
    with pytest.raises(FmshardsError, match="process that decodes images died"):
        extract(Failing("die"), tmp_path / "out", **options(workers=2, batch=4))
    no_leftovers(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": {}}, "no layer"),
        ({"layers": {"layer9": 4}}, "layer2"),
        ({"layers": {"layer2": 99}}, "rate 99"),
        ({"layers": {"../up": 4}}, "name"),
        ({"batch": 0}, "batch is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"precision": "fp8"}, "float32, bf16, fp16"),
        ({"device": "warp"}, "device 'warp'"),
        ({"recipe": "flop"}, "flip"),
        ({"views": 2}, "without a recipe"),
        ({"views": 2, "recipe": "flip"}, "without sensitive"),
        ({"sensitive": 0.5}, "without views"),
        ({"recipe": lambda image: image}, "store whole views"),
        ({"shard_size": 10}, "one shard comes from one input shard"),
        ({"model": "examples/no_such.py:net"}, "no_such"),
    ],
)
def test_options_are_checked_first(tars: list[str], tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FmshardsError, match=message):
        extract(tars, tmp_path / "out", **options(**change))
    assert not tree(tmp_path / "out") if (tmp_path / "out").exists() else True


def test_plan_is_written_before_shards(tars: list[str], tmp_path: Path) -> None:
    extract(tars, tmp_path / "out", **options())
    plan = read_plan(str(tmp_path / "out"))
    assert [shard.url for shard in plan.inputs] == tars
    assert plan.chunk == 10
    assert plan == read_manifest(str(tmp_path / "out")).plan
