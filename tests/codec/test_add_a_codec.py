"""A codec from outside the package: registered, it is one like the others, from a rate's text to a trained batch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fmshards
from fmshards.codec import (
    Codec,
    FeatureSpec,
    RowCodec,
    codec_for,
    codec_from_config,
    codec_name,
    register,
    row_bytes_at,
)
from fmshards.errors import FormatError, InputError
from fmshards.shards import read_chunk, read_index, read_manifest
from tests.codec.halves import HalvesCodec

SPEC = FeatureSpec("map", (4, 6, 6))


@pytest.mark.parametrize("filter", [None, "zstd"])
def test_it_is_a_codec_like_the_others(filter):
    x = torch.randn(5, *SPEC.shape)
    codec = codec_for("halves", SPEC, filter=filter)
    assert codec_name("halves-0.25") == "halves"
    assert row_bytes_at("halves", SPEC) == codec.row_bytes
    assert codec_from_config(codec.config()) == codec
    rows = codec.encode(x)
    assert torch.equal(codec.decode(rows), torch.round(x * 2) / 2)
    last = torch.empty(5, *SPEC.shape, dtype=torch.bfloat16, memory_format=torch.channels_last)
    assert torch.equal(codec.decode(rows, out=last).float(), torch.round(x * 2) / 2)
    member = codec.member(rows)
    least, most = codec.member_bytes(5)
    assert least <= len(member) <= most
    assert (codec.rows(member, 5) == rows).all()
    with pytest.raises(FormatError, match="expected spec, order, step"):
        codec_from_config({**codec.config(), "bits": 4})
    with pytest.raises(InputError, match=r"0\.25 to 32 bits.*halves or halves-STEP"):
        codec_for("whole", SPEC)


def test_a_set_is_extracted_with_it_and_streamed(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model = model.eval()
    draw = np.random.default_rng(0)
    images = [Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(12)]
    data = [(image, i % 3) for i, image in enumerate(images)]
    out = str(tmp_path / "set")
    options = {"model": model, "layers": {"1": "halves-0.25"}, "preprocess": "none", "recipe": "flip", "batch": 4}
    fmshards.extract(data, out, **options)
    plan = read_manifest(out).plan
    assert plan.layers[0].codec["codec"] == "halves"
    codec = plan.layers[0].base_codec
    assert codec == HalvesCodec(FeatureSpec("map", (4, 8, 8)), 0.25)
    url = f"{out}/1/{plan.inputs[0].name}.tar"
    chunk = read_chunk(url, read_index(url), 0, ["base.halves"])
    stored = codec.decode(codec.rows(chunk.members["base.halves"], chunk.n))
    x = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in images])
    with torch.no_grad():
        expected = torch.round(model[:2](x) * 4) / 4
    assert torch.equal(stored, expected)
    for batch in fmshards.loader(out, batch_size=4, decode=False):
        shown = fmshards.FeatureDecoder(out)(batch)["1"]
        assert shown.shape == (4, 4, 8, 8)
        assert torch.equal(shown, torch.round(shown * 4) / 4)
    assert fmshards.extract(data, out, **options) == read_manifest(out)


def test_contributing_names_the_whole_interface():
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    section = text.partition("## Add a codec\n")[2].partition("\n## ")[0]
    required, _, besides = section.partition("What may be")
    besides = besides.partition("\n2. ")[0]
    own = RowCodec.__abstractmethods__
    assert own | {"name", "rates", "keys"} <= set(re.findall(r"`(\w+)`", required))
    more = {name for name in vars(RowCodec) if name[0] != "_"} - own - set(vars(Codec)) - {"keys", "filter"}
    assert set(re.findall(r"`(\w+)`", besides)) == more


def test_a_name_that_is_taken_and_one_that_is_none_are_refused():
    assert register(HalvesCodec) is HalvesCodec

    @dataclass(frozen=True)
    class Other(HalvesCodec):
        name = "zfp"

    with pytest.raises(InputError, match="there already"):
        register(Other)
    Other.name = "zip/8"
    with pytest.raises(InputError, match="letters and digits"):
        register(Other)
