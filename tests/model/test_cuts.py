"""The list of cuts: what is in it, how it describes a cut, and its order."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fmshards.codec import FeatureSpec
from fmshards.errors import InputError, ModelError
from fmshards.model import blank_image, cuts, cuts_of, find_cut, load_model, multi_prefix, row_bytes, split
from tests.model import nets
from tests.model.conftest import SMALL, analysed


def test_resnet18_reads_as_a_person_expects() -> None:
    _, _, known = analysed("torchvision resnet18")
    listed = cuts_of(known)
    assert [c.name for c in listed[:7]] == [f"layer{i}{b}" for i in range(1, 4) for b in (".0", "")] + ["layer4.0"]
    layer2 = find_cut(listed, "layer2")
    assert layer2.module == "layer2"
    assert layer2.spec == FeatureSpec("map", (128, 4, 4))
    assert (layer2.kind, layer2.dtype, layer2.bytes) == ("map", "float32", 128 * 4 * 4 * 4)
    assert find_cut(listed, "layer2.1") is layer2
    assert find_cut(listed, layer2.node) is layer2
    assert layer2.warnings == ()
    assert any("in-place op follows" in w for c in listed if c.name == "add" for w in c.warnings)


def test_flops_are_those_of_the_convolutions() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x).mean((2, 3)))

    (first, _) = sorted(cuts(Two(), torch.zeros(2, 3, 8, 8)), key=lambda c: c.place)
    assert (first.flops_before, first.flops_after) == (2 * 8 * 8 * 4 * 3 * 9, 2 * 4 * 5)


@pytest.mark.parametrize(
    ("name", "cut", "spec"),
    [
        ("torchvision vit", "encoder.layers.encoder_layer_0", FeatureSpec("tokens", (17, 16), (4, 4), 1)),
        ("timm vit drops", "blocks.1", FeatureSpec("tokens", (17, 32), (4, 4), 1)),
        ("timm deit distilled", "blocks.0", FeatureSpec("tokens", (18, 32), (4, 4), 2)),
        ("torchvision swin", "features.1", FeatureSpec("map_last", (16, 16, 16))),
        ("timm swin", "layers.0", FeatureSpec("map_last", (8, 8, 16))),
        ("timm convnext_atto", "stages.0", FeatureSpec("map", (40, 8, 8))),
        ("torchvision maxvit", "blocks.0", FeatureSpec("map", (8, 16, 16))),
        ("torchvision resnet18", "flatten", FeatureSpec("vector", (512,))),
    ],
)
def test_kinds(name: str, cut: str, spec: FeatureSpec) -> None:
    assert find_cut(cuts_of(analysed(name)[2]), cut).spec == spec


@pytest.mark.parametrize("name", SMALL)
def test_cuts_are_plain_data_true_to_the_prefix(name: str) -> None:
    model, x, known = analysed(name)
    listed = cuts_of(known)
    assert len({c.name for c in listed}) == len(listed)
    json.dumps([dataclasses.asdict(c) for c in listed])
    total = {c.flops_before + c.flops_after for c in listed}
    assert len(total) == 1
    in_order = sorted(listed, key=lambda c: c.place)
    assert [c.flops_before for c in in_order] == sorted(c.flops_before for c in in_order)
    for cut in [c for c in listed if c.problem is None][:: max(1, len(listed) // 4)]:
        feature = split(model, cut, analysis=known)[0](x)
        assert tuple(feature.shape) == (len(x), *cut.shape)
        assert f"torch.{cut.dtype}" == str(feature.dtype)
        assert cut.bytes == feature[0].numel() * feature.element_size()


def test_a_larger_neighbour_is_warned_of() -> None:
    listed = cuts_of(analysed("torchvision mobilenet_v3_small")[2])
    expanded = find_cut(listed, "features.2.block.0")
    assert any("times smaller" in w for w in expanded.warnings)
    assert listed.index(expanded) > listed.index(find_cut(listed, "features.2"))


def test_nothing_to_freeze_or_to_train_is_warned_of() -> None:
    class Edges(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.conv, self.act = nn.AvgPool2d(2), nn.Conv2d(3, 4, 1), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.conv(self.pool(x)))

    listed = cuts(Edges(), torch.zeros(1, 3, 8, 8))
    assert "no parameters before it" in find_cut(listed, "pool").warnings
    assert "no parameters after it" in find_cut(listed, "conv").warnings


def test_the_example_may_be_left_out() -> None:
    listed = cuts(nets.Net())
    assert find_cut(listed, "stem").shape == (8, 224, 224)


def test_unknown_names_are_errors_that_pickle() -> None:
    import pickle

    with pytest.raises(ModelError) as caught:
        find_cut(cuts(nets.Net(), torch.zeros(1, 3, 8, 8)), "bdoy")
    assert "body" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_bytes_at_a_rate_stand_beside_those_of_fp32() -> None:
    listed = {c.name: c for c in cuts(nets.Net(), torch.zeros(1, 3, 8, 8))}
    stem = listed["stem"]
    assert stem.bytes == 8 * 8 * 8 * 4
    assert row_bytes(stem, "fp32") == stem.bytes
    assert (row_bytes(stem, 4), row_bytes(stem, "int4-channel"), row_bytes(stem, "fp16")) == (256, 256, 1024)
    with pytest.raises(InputError, match="rate 'much'"):
        row_bytes(stem, "much")


def test_a_network_of_one_channel_gets_an_example_of_one_and_says_so() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 2))
    assert blank_image(model, (8, 8)).shape == (1, 1, 8, 8)
    prefix, suffix = split(model.eval(), "1", torch.zeros(1, 1, 8, 8))
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(suffix(prefix(x)), model(x))
    with pytest.raises(ModelError, match=r"takes images of 1 channel, found 3.*preprocess="):
        cuts(model, torch.zeros(1, 3, 8, 8))


WRONG: list[Any] = [None, 7, 1.5, True, b"x", ["a", "b"], {"a": 1}, ("a",), object(), torch.zeros(2), lambda x: x]


@pytest.mark.parametrize("value", WRONG, ids=lambda v: type(v).__name__)
def test_arguments_of_another_kind_are_refused_by_name(value: Any) -> None:
    model, x = nets.Net(), torch.zeros(1, 3, 8, 8)
    calls: dict[str, Callable[[], Any]] = {
        "model": lambda: cuts(value, x),
        "cut": lambda: split(model, value, x),
        "cuts": lambda: multi_prefix(model, [value], x),
        "name": lambda: load_model(value),
    }
    if value is not None:
        if not isinstance(value, torch.Tensor):
            calls["example"] = lambda: cuts(model, value)
        calls["analysis"] = lambda: split(model, "stem", x, analysis=value)
        calls["weights"] = lambda: load_model("torchvision:resnet18", value)
    for argument, call in calls.items():
        with pytest.raises(InputError, match=argument):
            call()


def test_several_cuts_are_asked_for_by_a_list() -> None:
    with pytest.raises(InputError, match="multi_prefix"):
        split(nets.Net(), ["stem", "mid"], torch.zeros(1, 3, 8, 8))  # type: ignore[arg-type]  # a user's mistake
    for value in ("stem", None, 3):
        with pytest.raises(InputError, match="cuts is"):
            multi_prefix(nets.Net(), value, torch.zeros(1, 3, 8, 8))  # type: ignore[arg-type]  # a user's mistake
