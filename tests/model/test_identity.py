"""Which model wrote a set: what is another model, what is the same one, and what a person is told."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fmshards.errors import InputError, ModelError
from fmshards.model import Identities, identity_differences, layer_identity, prefix_digest, split, unwrap
from fmshards.shards import read_manifest
from tests.fixtures import whole_numbers

FIXTURES = Path(__file__).parents[1] / "fixtures"
SIZE = (16, 16)


class Scaled(nn.Module):
    """Kept whole, since it reads `training`; its factor is a plain attribute."""

    def __init__(self, factor: torch.Tensor | float) -> None:
        super().__init__()
        self.factor = factor
        self.calls = 0
        self.cache: dict[int, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.cache[len(x)] = x.detach()
        return F.dropout(x * self.factor, 0.1, self.training)


class Squared(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x.square(), 0.1, self.training)


class Cubed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x**3, 0.1, self.training)


class Fetched(nn.Module):
    """Traced through; its tensor is no parameter."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = torch.full((4, 1, 1), value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.value


class Closed(nn.Module):
    """Kept whole; its function holds a tensor in its closure."""

    def __init__(self, value: float) -> None:
        super().__init__()
        held = torch.tensor(value)
        self.function = lambda x: x * held

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.function(x), 0.1, self.training)


def net(mid: nn.Module | None = None, seed: int = 0, **convolution: Any) -> nn.Module:
    torch.manual_seed(seed)
    first = nn.Conv2d(3, 4, 3, padding=convolution.pop("padding", 1), **convolution)
    return nn.Sequential(first, mid or nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


def quantised(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    return torch.ao.quantization.quantize_dynamic(body, {nn.Linear}, torch.qint8)


def _graph(model: nn.Module, cut: str = "2") -> str:
    return layer_identity(model, cut)["graph"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: net(nn.BatchNorm2d(4)), lambda: net(nn.BatchNorm2d(4, eps=1e-3))),
        (lambda: net(), lambda: net(padding=2, dilation=2)),
        (lambda: net(), lambda: net(stride=2)),
        (lambda: net(), lambda: net(padding_mode="reflect")),
        (lambda: net(nn.GELU()), lambda: net(nn.GELU("tanh"))),
        (lambda: net(nn.GELU()), lambda: net(nn.SiLU())),
        (lambda: net(nn.LeakyReLU(0.1)), lambda: net(nn.LeakyReLU(0.2))),
        (lambda: net(Scaled(2.0)), lambda: net(Scaled(3.0))),
        (lambda: net(Scaled(torch.ones(4, 1, 1))), lambda: net(Scaled(torch.full((4, 1, 1), 2.0)))),
        (lambda: net(Squared()), lambda: net(Cubed())),
        (lambda: net(Fetched(1.0)), lambda: net(Fetched(2.0))),
        (lambda: net(Closed(1.0)), lambda: net(Closed(2.0))),
        (lambda: quantised(0), lambda: quantised(1)),
    ],
)
def test_a_model_that_computes_something_else_is_another(
    one: Callable[[], nn.Module], other: Callable[[], nn.Module]
) -> None:
    assert _graph(one()) == _graph(one())
    assert _graph(one()) != _graph(other())


def test_code_of_the_same_name_is_known_by_what_it_does(tmp_path: Path) -> None:
    from fmshards.model import load_model

    text = (
        "import torch\nfrom torch import nn\nimport torch.nn.functional as F\nGAIN = {gain}\n\n"
        "def helper(x):\n    return x * GAIN{more}\n\n\nclass Part(nn.Module):\n    def forward(self, x):\n"
        "        return F.dropout(helper(x), 0.1, self.training)\n\n\n"
        "def make():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 1), Part(), nn.ReLU(), nn.Conv2d(4, 2, 1))\n"
    )
    found = {}
    for name, gain, more in (("a", 2, ""), ("b", 3, ""), ("c", 2, " + 1"), ("d", 2, "  # the same")):
        path = tmp_path / f"{name}.py"
        path.write_text(text.format(gain=gain, more=more))
        with pytest.warns(UserWarning, match="no weights"):
            found[name] = _graph(load_model(f"{path}:make"))
    assert len({found["a"], found["b"], found["c"]}) == 3


def test_code_in_a_file_that_bears_a_name_of_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for gain in (2, 2, 3):
        module = types.ModuleType("colorsys")
        module.__file__ = "/elsewhere/colorsys.py"
        monkeypatch.setitem(sys.modules, "colorsys", module)
        exec(
            "from torch import nn\n\nclass Part(nn.Module):\n    def forward(self, x):\n"
            f"        return x * {gain} if x.sum() < 1e9 else x",
            vars(module),
        )
        torch.manual_seed(0)
        found.append(_graph(nn.Sequential(nn.Conv2d(3, 4, 1), module.Part(), nn.ReLU(), nn.Conv2d(4, 2, 1))))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("mid", [nn.BatchNorm2d(4), Scaled(2.0), Closed(1.0), nn.Dropout(0.2)])
def test_the_same_model_is_the_same(mid: nn.Module) -> None:
    model = net(mid)
    probe = {"2": Identities(model).probe(["2"], SIZE)["2"]}
    stored = {"layers": {"2": layer_identity(model, "2")}, "base_size": list(SIZE)}

    def same(other: nn.Module) -> None:
        assert identity_differences(stored, [("2", "2")], other, probe) == []

    same(copy.deepcopy(model))
    same(model.train())
    model.eval()(torch.randn(2, 3, *SIZE))
    same(model)
    same(torch.compile(model, backend="eager"))
    same(nn.DataParallel(model))
    same(nn.DataParallel(torch.compile(model, backend="eager")))
    same(nn.Sequential(torch.compile(model[0], backend="eager"), *list(model)[1:]).eval())
    for module in model:
        module.register_forward_hook(lambda module, args, output: None)
    same(model)
    with torch.no_grad():
        model[3].weight.add_(1)
    for name in {"momentum", "p"} & vars(model[1]).keys():
        setattr(model[1], name, 0.9)
    same(model)


def test_the_digests_are_the_same_in_every_process() -> None:
    code = (
        "from tests.model.test_identity import Closed, Identities, SIZE, Squared, _graph, net, quantised\n"
        "print(_graph(net(Closed(1.0))), _graph(net(Squared())), _graph(quantised(0)))\n"
        "print(Identities(net()).probe(['2'], SIZE))"
    )
    found = []
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        found.append(done.stdout)
    assert found[0] == found[1]
    assert len(found[0]) > 192


def _stored(model: nn.Module) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    known = Identities(model)
    identity = {"layers": {"2": known.layer("2")}, "base_size": list(SIZE)}
    return identity, known.probe(["2"], SIZE), {"2": known.parts("2")}


def _said(set_of: nn.Module, model: nn.Module) -> str:
    identity, probe, parts = _stored(set_of)
    (line,) = identity_differences(identity, [("2", "2")], model, probe, parts)
    assert not re.search(r"[0-9a-f]{33}", line)
    return line


def test_what_differs_is_said() -> None:
    model = net()
    eps = _said(model, net(nn.BatchNorm2d(4, eps=1e-3)))
    assert "other settings" in eps
    assert "the settings of 1, here BatchNorm2d(4, eps=0.001" in eps
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[1].running_mean += 1
    weights = _said(model, other)
    assert "other weights" in weights
    assert "the tensors of 1;" in weights
    for dtype, words in ((torch.float16, "float16"), (torch.bfloat16, "bfloat16"), (torch.float64, "float64")):
        half = _said(model, copy.deepcopy(model).to(dtype))
        assert "the same weights in another precision" in half
        assert words in half
    written_in_half = _said(copy.deepcopy(model).half(), model)
    assert "the same weights in float16" in written_in_half
    assert "other weights" in _said(model, net(seed=1).half())


def test_features_that_no_digest_explains_are_seen() -> None:
    model = net()
    hooked = copy.deepcopy(model)
    hooked[1].register_forward_hook(lambda module, args, output: output * 0.5)
    assert "gives other features" in _said(model, hooked)
    assert "gives other features" in _said(hooked, model)


def test_old_sets_are_checked_by_what_they_say() -> None:
    plan = read_manifest(str(FIXTURES / "set-mirror")).plan
    layers = [(layer.name, layer.cut) for layer in plan.layers]
    model = whole_numbers.net()
    assert identity_differences(plan.identity, layers, model) == []
    assert plan.identity["layers"]["3"]["prefix"] == prefix_digest(model, "3")
    with torch.no_grad():
        model[3][0].bias.add_(1)
    (line,) = identity_differences(plan.identity, layers, model)
    assert line.startswith("layer 3 was written by other weights")


@pytest.mark.parametrize("stored", [None, [], {}, {"layers": None}, {"layers": {"2": "x"}}, {"layers": {"2": {}}}])
def test_an_identity_that_says_nothing_is_said_to(stored: Any) -> None:
    (line,) = identity_differences(stored, [("2", "2")], net())
    assert "does not say which weights" in line


@pytest.mark.parametrize("probe", [None, [], {"2": None}, {"2": [1.0]}, {"2": ["x"] * 8}, {"2": [float("nan")] * 8}])
def test_a_probe_that_cannot_be_used_is_none(probe: Any) -> None:
    identity, _, _ = _stored(net())
    assert identity_differences(identity, [("2", "2")], net(), probe, "parts") == []


def test_a_cut_that_the_model_lacks_is_a_difference() -> None:
    identity = {"layers": {"9": {"cut": "9", "prefix": "0" * 64}}}
    (line,) = identity_differences(identity, [("9", "9")], net())
    assert "no cut '9'" in line


def test_a_probe_is_of_every_channel_and_dtype() -> None:
    torch.manual_seed(0)
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    (values,) = Identities(grey).probe(["1"], (8, 8)).values()
    assert values == Identities(copy.deepcopy(grey)).probe(["1"], (8, 8))["1"]
    (double,) = Identities(grey.double()).probe(["1"], (8, 8)).values()
    assert values == pytest.approx(double, rel=1e-4, abs=1e-5)


def test_wrappers_are_taken_off_and_what_cannot_be_split_is_refused() -> None:
    model = net()
    assert unwrap(nn.DataParallel(torch.compile(model, backend="eager"))) is model
    x = torch.randn(2, 3, *SIZE)
    prefix, suffix = split(nn.DataParallel(model), "2", x)
    assert torch.equal(suffix(prefix(x)), model(x))
    refused = [
        (torch.jit.script(net()), "TorchScript"),
        (torch.jit.trace(net(), x), "TorchScript"),
        (net().to("meta"), "meta device"),
        (nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU()), "lazy"),
        (torch.compile(net()), "_orig_mod"),
    ]
    for other, words in refused:
        with pytest.raises(ModelError, match=words):
            split(other, "2", x)
    with pytest.raises(InputError, match=r"model is str; expected a torch\.nn\.Module"):
        unwrap("resnet18")
