"""Models by name, and their weights from a file."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fmshards.errors import ModelError
from fmshards.model import load_model, prefix_digest

EXAMPLES = Path(__file__).parents[2] / "examples"
RESNET20 = f"{EXAMPLES / 'resnet20.py'}:resnet20"
WEIGHTS = str(EXAMPLES / "data" / "resnet20.safetensors")


def _quiet(name: str, weights: str | None = None) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("error" if weights else "ignore")
        return load_model(name, weights)


def test_a_factory_in_a_file_with_weights() -> None:
    model = _quiet(RESNET20, WEIGHTS)
    assert not model.training
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_a_relative_path_and_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    assert type(_quiet("resnet20.py:resnet20", WEIGHTS)).__name__ == "ResNet20"
    assert type(_quiet("tests.model.nets:Net")).__name__ == "Net"


def test_models_of_both_libraries() -> None:
    assert type(_quiet("torchvision:squeezenet1_1")).__name__ == "SqueezeNet"
    assert _quiet("timm:regnetx_002").num_classes == 1000


def test_no_weights_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="random weights"):
        load_model("torchvision:squeezenet1_1")


@pytest.mark.parametrize("shape", ["plain", "state_dict", "model", "module", "safetensors"])
def test_weights_in_every_usual_form(tmp_path: Path, shape: str) -> None:
    model = _quiet(RESNET20, WEIGHTS)
    state = model.state_dict()
    if shape == "safetensors":
        save_file(state, tmp_path / "w.safetensors")
    elif shape == "module":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "w.pth")
    else:
        torch.save(state if shape == "plain" else {shape: state}, tmp_path / "w.pth")
    (path,) = tmp_path.iterdir()
    again = _quiet(RESNET20, str(path))
    assert all(torch.equal(v, state[k]) for k, v in again.state_dict().items())


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module._orig_mod.", "model.", "net.", "backbone.", "encoder.", "_forward_module.model."]
)
def test_what_trainers_put_before_keys_goes(tmp_path: Path, prefix: str) -> None:
    state = _quiet(RESNET20, WEIGHTS).state_dict()
    torch.save({"state_dict": {f"{prefix}{k}": v for k, v in state.items()}}, tmp_path / "w.ckpt")
    again = _quiet(RESNET20, str(tmp_path / "w.ckpt"))
    assert all(torch.equal(v, state[k]) for k, v in again.state_dict().items())


def test_keys_of_which_only_some_are_the_models_are_refused_with_what_to_do(tmp_path: Path) -> None:
    state = _quiet(RESNET20, WEIGHTS).state_dict()
    mixed = {f"encoder_q.{k}": v for k, v in state.items()} | {"queue": torch.zeros(2)}
    torch.save({"state_dict": mixed}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"keys for this model begin with 'encoder_q\.'.*without this prefix"):
        _quiet(RESNET20, str(tmp_path / "w.pth"))


def test_the_keys_of_a_model_with_a_compiled_part_are_its_own(tmp_path: Path) -> None:
    model = _quiet(RESNET20, WEIGHTS)
    state = model.state_dict()
    model.layer2 = torch.compile(model.layer2, backend="eager")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    again = _quiet(RESNET20, str(tmp_path / "w.pth"))
    assert all(torch.equal(v, state[k]) for k, v in again.state_dict().items())


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("owned"),))  # type: ignore[return-value]  # what a hostile file would do


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: torch.save({"a": torch.zeros(1)}, p), r"missing conv1\.weight.*not of this model a"),
        (lambda p: p.write_bytes(b"not a file of weights"), "cannot be read"),
        (lambda p: torch.save(nn.Linear(2, 2), p), "nothing else is ever unpickled"),
        (lambda p: p.write_bytes(pickle.dumps(_Hostile())), "cannot be read"),
        (lambda p: torch.save([1, 2], p), "no state_dict"),
        (lambda p: None, "no such file"),
    ],
)
def test_bad_weights_are_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: object, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    write(path)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(RESNET20, str(path))
    assert str(path) in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_another_shape_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    state = _quiet(RESNET20, WEIGHTS).state_dict()
    state["linear.weight"] = torch.zeros(7, 64)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"linear\.weight \(7, 64\) where the model has \(10, 64\)"):
        load_model(RESNET20, str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("torchvision:resnet5", None, "nearest: .*resnet50"),
        ("timm:vit_smal_patch16_224", None, "nearest: .*vit_small_patch16_224"),
        ("torchvision:resnet18", "IMAGENET1K_V7", "IMAGENET1K_V1"),
        ("timm:resnet18", "nope", "a1_in1k"),
        ("resnet18", None, "expected torchvision:NAME"),
        ("no.such.module:f", None, "cannot be imported"),
        ("no/such/file.py:f", None, "no such file"),
        (f"{EXAMPLES / 'resnet20.py'}:resnet21", None, "nearest: .*resnet20"),
        ("tests.model.nets:_drop", None, "failed"),
        ("builtins:dict", None, "expected a torch.nn.Module"),
        (RESNET20, "DEFAULT", "no such file"),
    ],
)
def test_wrong_names(name: str, weights: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(name, weights)


def test_a_file_that_does_not_import(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(ModelError, match=r"broken\.py cannot be imported: ModuleNotFoundError"):
        load_model(f"{tmp_path / 'broken.py'}:f")


def test_the_digest_is_of_the_prefix_alone() -> None:
    model = _quiet(RESNET20, WEIGHTS)
    first = prefix_digest(model, "layer2")
    assert first == prefix_digest(model.train(), "layer2")
    with torch.no_grad():
        model.layer3[0].conv1.weight.add_(1)
        model.bn1.num_batches_tracked.add_(1)
    assert prefix_digest(model, "layer2") == first
    assert prefix_digest(model, "layer1") != first
    with torch.no_grad():
        model.bn1.running_mean[0] += 1e-6
    assert prefix_digest(model, "layer2") != first


def test_the_digest_of_a_copy_and_of_other_dtypes() -> None:
    import copy

    model = _quiet(RESNET20, WEIGHTS)
    first = prefix_digest(model, "layer1")
    assert prefix_digest(copy.deepcopy(model), "layer1") == first
    assert prefix_digest(copy.deepcopy(model).bfloat16(), "layer1") != first
    with pytest.raises(ModelError, match="no cut"):
        prefix_digest(model, "layer9")
