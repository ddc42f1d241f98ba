"""The halves as modules: modes, training, state, copies, compiling, several processes."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from fmshards.model import Part, Prefix, analyse, layer_identity, multi_prefix, split
from tests.model import nets
from tests.model.conftest import analysed, same

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _net() -> tuple[nets.Net, Prefix, Part]:
    torch.manual_seed(0)
    model = nets.Net()
    prefix, suffix = split(model, "mid", X)
    return model, prefix, suffix


def test_halves_hold_the_models_own_parameters_and_names() -> None:
    model, prefix, suffix = _net()
    own = dict(model.named_parameters())
    for half in (prefix, suffix):
        assert all(own[name] is parameter for name, parameter in half.named_parameters())
    assert set(prefix.state_dict()) | set(suffix.state_dict()) == set(model.state_dict())
    assert not set(prefix.state_dict()) & set(suffix.state_dict())


def test_a_parameter_that_the_forward_fetches_goes_where_it_is_used() -> None:
    model = nets.Positions()
    prefix, suffix = split(model, "block", X)
    assert set(prefix.state_dict()) == {"patch.weight", "patch.bias", "cls_token", "block.weight", "block.bias"}
    assert set(suffix.state_dict()) == {"pos", "scale", "head.weight", "head.bias"}
    assert suffix.pos is model.pos


@pytest.mark.parametrize("train_what", ["model", "prefix", "both"])
def test_the_prefix_is_frozen_whatever_train_was_called_on(train_what: str) -> None:
    model, prefix, _ = _net()
    model.eval()
    expected = prefix(X)
    if train_what != "prefix":
        model.train()
    if train_what != "model":
        prefix.train()
    before = {k: v.clone() for k, v in prefix.state_dict().items()}
    found = prefix(X)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in prefix.state_dict().items())
    assert not model.mid[1].training


def test_a_frozen_prefix_leaves_what_the_suffix_uses_in_train_mode() -> None:
    model = nets.SharedDropout()
    prefix, suffix = split(model, "a", X)
    model.train()
    prefix(X)
    assert model.drop.training
    torch.manual_seed(0)
    first = suffix(prefix(X))
    assert not torch.equal(first, suffix(prefix(X)))


def test_training_the_suffix_trains_the_model() -> None:
    model, prefix, suffix = _net()
    frozen = copy.deepcopy(prefix.state_dict())
    suffix.train()
    optimiser = torch.optim.SGD(suffix.parameters(), 0.1)
    for _ in range(3):
        optimiser.zero_grad()
        suffix(prefix(X)).square().sum().backward()
        optimiser.step()
    assert all(torch.equal(v, frozen[k]) for k, v in prefix.state_dict().items())
    assert model.body[1].num_batches_tracked == 3
    model.eval()
    suffix.eval()
    assert torch.equal(model(X), suffix(prefix(X)))
    other = nets.Net().eval()
    other.load_state_dict(prefix.state_dict(), strict=False)
    result = other.load_state_dict(suffix.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert torch.equal(other(X), model(X))


def test_a_halfs_state_says_which_version_it_is_of() -> None:
    from torchvision.models import mnasnet0_5

    model, other = mnasnet0_5(weights=None), mnasnet0_5(weights=None)
    _, suffix = split(model, "layers.8", torch.zeros(1, 3, 64, 64))
    other.load_state_dict(suffix.state_dict(), strict=False)  # a wrong version would build other layers
    assert other.layers[0].weight.shape == model.layers[0].weight.shape
    assert torch.equal(other.classifier[1].weight, model.classifier[1].weight)


@pytest.mark.parametrize("name", ["torchvision vit", "timm swin", "timm vit drops", "torchvision resnet18"])
def test_copies_and_pickles(name: str) -> None:
    model, x, known = analysed(name)
    cut = next(c for c in known.points if c.node.op != "placeholder").node.name
    model.eval()
    prefix, suffix = split(model, cut, analysis=known)
    suffix.eval()
    with torch.no_grad():
        expected = suffix(prefix(x))
        for halves in (
            copy.deepcopy((prefix, suffix)),
            pickle.loads(pickle.dumps((prefix, suffix))),
        ):
            assert torch.equal(halves[1](halves[0](x)), expected)
            copied = {p.data_ptr() for half in halves for p in half.parameters()}
            assert not copied & {p.data_ptr() for p in model.parameters()}
        buffer = io.BytesIO()
        torch.save(suffix, buffer)
        buffer.seek(0)
        loaded = torch.load(buffer, weights_only=False)
        assert torch.equal(loaded(prefix(x)), expected)


def test_a_copied_suffix_still_knows_both_modes() -> None:
    model = nets.Own(_dropped)
    prefix, suffix = pickle.loads(pickle.dumps(split(model, "stem", X)))
    suffix.train()
    torch.manual_seed(0)
    first = suffix(prefix(X))
    assert not torch.equal(first, suffix(prefix(X)))
    suffix.eval()
    assert torch.equal(suffix(prefix(X)), suffix(prefix(X)))


def _dropped(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.dropout(x, 0.5, module.training)


def test_the_suffix_of_a_model_with_heads_for_training_gives_what_the_model_gives() -> None:
    from torchvision.models import googlenet

    model = googlenet(weights=None, aux_logits=True, init_weights=False)
    x = torch.randn(2, 3, 96, 96)
    prefix, suffix = split(model, "inception3b", x)
    suffix.train()
    assert type(suffix(prefix(x))).__name__ == "GoogLeNetOutputs"
    assert {"aux1", "aux2", "fc"} <= {name for name, _ in suffix.named_children()}
    suffix.eval()
    model.eval()
    assert same(suffix(prefix(x)), model(x))


def test_hooks_on_modules_still_run() -> None:
    model = nets.Net()
    seen: list[str] = []
    for name in ("stem", "body"):
        model.get_submodule(name).register_forward_hook(lambda m, a, o, name=name: seen.append(name))
    prefix, suffix = split(model, "mid", X)
    seen.clear()
    suffix(prefix(X))
    assert seen == ["stem", "body"]


def test_moving_both_halves_moves_the_model() -> None:
    model, prefix, suffix = _net()
    prefix.double()
    suffix.double()
    assert all(p.dtype is torch.float64 for p in model.parameters())
    assert suffix(prefix(X.double())).dtype is torch.float64


@pytest.mark.slow
def test_the_suffix_compiles() -> None:
    _, prefix, suffix = _net()
    suffix.train()
    compiled = torch.compile(suffix, backend="aot_eager", fullgraph=True)
    feature = prefix(X)
    expected = suffix(feature)
    assert torch.allclose(compiled(feature), expected, atol=1e-5)
    compiled(feature).sum().backward()
    assert all(p.grad is not None for p in suffix.parameters())


def _ddp(rank: int, path: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    model, prefix, suffix = _net()
    suffix.train()
    wrapped = nn.parallel.DistributedDataParallel(suffix)
    for step in range(3):  # an unused parameter would end the second step in an error
        wrapped(prefix(X + rank + step)).square().sum().backward()
    gathered = [torch.zeros(5, 8) for _ in range(2)]
    torch.distributed.all_gather(gathered, model.head.weight.grad)
    assert torch.equal(gathered[0], gathered[1])
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_several_processes_see_no_unused_parameter(tmp_path: Path) -> None:
    mp.spawn(_ddp, (str(tmp_path / "rendezvous"),), nprocs=2)


def test_a_graph_serves_other_batches_and_sizes_of_image() -> None:
    model, prefix, suffix = _net()
    model.eval()
    suffix.eval()
    for shape in ((1, 3, 8, 8), (7, 3, 12, 6)):
        x = torch.randn(shape)
        assert torch.equal(suffix(prefix(x)), model(x))


def test_layers_in_one_pass_are_not_overwritten_by_each_other() -> None:
    model, x, known = analysed("torchvision mobilenet_v3_small")
    names = [c.node.name for c in known.points if c.node not in known.overwritten][:12]
    known = analyse(model, x)
    found = multi_prefix(model, names, analysis=known)(x)
    for name in names:
        assert torch.equal(found[name], split(model, name, analysis=known)[0](x)), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_prefix_takes_images_in_the_dtype_of_its_weights(dtype: torch.dtype) -> None:
    model = nets.Net().eval().to(dtype)
    prefix, suffix = split(model, "mid", X)
    feature = prefix(X)
    assert feature.dtype is dtype
    assert torch.equal(feature, prefix(X.to(dtype)))
    assert torch.equal(suffix(feature), model(X.to(dtype)))
    again = prefix.float()
    assert again(X).dtype is torch.float32


@pytest.mark.parametrize("way", ["weight_norm", "parametrized spectral_norm", "spectral_norm", "prune"])
def test_parametrised_weights_are_split_frozen_and_known(way: str) -> None:
    from torch.nn.utils import parametrizations, prune, spectral_norm

    torch.manual_seed(0)
    model = nets.Net()
    for convolution in (model.stem.conv, model.mid[0], model.body[0]):
        if way == "prune":
            prune.l1_unstructured(convolution, "weight", 0.5)
        else:
            made = {
                "weight_norm": parametrizations.weight_norm,
                "parametrized spectral_norm": parametrizations.spectral_norm,
                "spectral_norm": spectral_norm,
            }
            made[way](convolution)
    prefix, suffix = split(model.eval(), "mid", X)
    assert torch.equal(suffix(prefix(X)), model(X))
    known = layer_identity(model, "mid")
    model.train()
    suffix(prefix(X)).sum().backward()
    assert layer_identity(model, "mid") == known
    with torch.no_grad():
        next(model.stem.conv.parameters()).mul_(1.01)
    changed = layer_identity(model, "mid")
    assert changed["prefix"] != known["prefix"]
    assert changed["graph"] != known["graph"]
