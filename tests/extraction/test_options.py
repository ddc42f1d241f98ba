"""Options: plain values, as JSON and back; what is natural is taken, anything else is refused by its name."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fmshards.augment import Mirror, parse_recipe
from fmshards.calibration import Sensitive
from fmshards.cli.extract import command
from fmshards.errors import FmshardsError, InputError
from fmshards.extraction import Options, extract, layer_rates, run
from fmshards.extraction.options import DEFAULTS
from fmshards.model import parse_preprocess

from .conftest import options

LAYERS = {"layer2": 4}


@pytest.mark.parametrize(
    "given",
    [{"a": 4, "b.c": "fp16"}, ["a:4", "b.c:fp16"], ("a:4", "b.c:fp16"), iter(["a:4", "b.c:fp16"])],
)
def test_layers_as_people_give_them(given: Any) -> None:
    assert {name: str(rate) for name, rate in layer_rates(given).items()} == {"a": "4", "b.c": "fp16"}


def test_one_layer_as_on_the_command_line() -> None:
    assert layer_rates("layer2:4") == {"layer2": "4"}


@pytest.mark.parametrize(
    "given",
    [{}, [], "", "layer2", ["layer2"], [":4"], ["a:"], ["a:1", "a:2"], 3, None, b"a:4", [3], {"a": None}, {"a": True},
     {"a": [4]}, {3: 4}, {"../up": 4}, {"a": "fp8"}, torch.zeros(2)],
)  # fmt: skip
def test_layers_that_are_none(given: Any) -> None:
    with pytest.raises(InputError, match=r"layer|rate"):
        layer_rates(given)


def test_what_is_natural_is_plain_afterwards() -> None:
    found = Options.of(
        layers=["a:4"],
        weights=Path("w.pth"),
        preprocess=parse_preprocess("resize(8)"),
        recipe=parse_recipe("flip"),
        mirror=Mirror("mapped", 1),
        sensitive=[0, 3],
        device=torch.device("cpu"),
        views=np.int64(2),
        fields="cls, json",
        classes=["cat", "dog"],
    )
    written = json.loads(json.dumps(found.to_json()))
    assert written["layers"] == {"a": "4"}
    assert (written["weights"], written["preprocess"], written["recipe"]) == ("w.pth", "resize(8)", "flip(p=0.5)")
    assert (written["mirror"], written["sensitive"], written["device"]) == ("mapped(kernel=1)", "[0, 3]", "cpu")
    assert (written["views"], written["fields"], written["classes"]) == (2, ["cls", "json"], ["cat", "dog"])
    assert Options.from_json(written) == found
    assert Options.of(layers=LAYERS, sensitive=Sensitive(fraction=0.25)).sensitive == "0.25"


def test_a_function_has_no_json() -> None:
    with pytest.raises(InputError, match="preprocess is a function"):
        Options(LAYERS, preprocess=abs).to_json()


@pytest.mark.parametrize("value", [None, 3, [], {}, {"batch": 8}, {"layers": LAYERS, "bach": 8}])
def test_json_that_is_none(value: Any) -> None:
    with pytest.raises(InputError, match="options are an object"):
        Options.from_json(value)


WRONG: dict[str, list[Any]] = {
    "weights": [3, "", ["w"]],
    "preprocess": [3, "", ["resize(8)"]],
    "recipe": [3, ["flip"]],
    "version": [3, "", True],
    "mirror": [3, "sideways", ["stored"]],
    "views": [-1, 1.5, "2", None, True],
    "sensitive": ["half", {}, -1, [0.5]],
    "calibration": [0, "many", 1.0, True],
    "batch": [0, "8", 8.0, False, [8]],
    "device": [3, "", ["cpu"]],
    "precision": [3, "fp8", None, torch.float16],
    "workers": [-1, "2", None, 0.5],
    "chunk": [0, "8", 1.5],
    "filter": [3, "lz4", True],
    "shard_size": [0, "8", -4],
    "image_field": [3, "", ["jpg"]],
    "orientation": ["turn", 3, True],
    "classes": [3, [1, 2], ["a", "a"], {"a": 1}],
    "fields": [3, [1], ["a", "a"], {"cls"}],
    "drop_fields": [3, [1], ["a", "a"], {"cls"}],
    "order": ["sorted", None, 3],
    "seed": ["0", 1.5, None, True, 1 << 70],
}


@pytest.mark.parametrize("name", WRONG)
def test_every_option_of_a_wrong_kind_is_named(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(InputError, match=name):
            Options(LAYERS, **{name: value})


def test_every_option_is_tried() -> None:
    assert {"layers", *WRONG} == set(DEFAULTS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": 3}, "model is int"),
        ({"model": ["resnet18"]}, "model is list"),
        ({"overwrite": "yes"}, "overwrite is 'yes'"),
        ({"progress": "yes"}, "progress is 'yes'"),
        ({"out": 3}, "out is 3"),
        ({"out": ""}, "out is ''"),
        ({"source": 3}, "int"),
        ({"source": None}, "NoneType"),
        ({"source": ""}, "source"),
        ({"device": "warp"}, "device 'warp'"),
    ],
)
def test_every_other_argument_of_a_wrong_kind_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {"source": "nowhere-{0..1}.tar", "out": tmp_path / "out", **options(), **change}
    with pytest.raises(FmshardsError, match=said):
        extract(**arguments)
    assert not (tmp_path / "out").exists()


def test_function_command_and_options_are_one() -> None:
    """Each option stands in three places, the function's signature, the command and `Options`: they agree."""
    function = inspect.signature(extract).parameters
    given = {name: p.default for name, p in function.items() if name not in inspect.signature(run).parameters}
    assert given.pop("plan") is None
    assert given == {**DEFAULTS, "layers": None}
    asked = command.make_context("extract", ["in", "out", "--model", "m", "--layer", "a:4"]).params
    words = {name: value for name, value in asked.items() if name not in ("source", "out", "model", "as_json")}
    assert (words.pop("layers"), words.pop("overwrite"), words.pop("plan")) == (("a:4",), False, None)
    own = {"part": None, "grace": 25.0, "log_json": False, "address": None, "tasks": None, "cpus": None, "gpus": None}
    assert {name: words.pop(name) for name in own} == own
    assert words == {name: value for name, value in DEFAULTS.items() if name not in ("layers", "version")}
