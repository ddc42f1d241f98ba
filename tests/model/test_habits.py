"""Models of a user's own: what a graph would get wrong is kept whole, made two graphs of, or refused."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fmshards.errors import InputError, ModelError
from fmshards.model import analyse, cuts, cuts_of, multi_prefix, split
from tests.model import nets
from tests.model.conftest import reference, same, spread

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _holds(model: nn.Module) -> None:
    """Both modes, at all valid cuts, with the same random numbers."""
    known = analyse(model, X)
    for cut in spread(known, 20):
        prefix, suffix = split(model, cut, analysis=known)
        for training in (False, True):
            model.train(training)
            expected_model = reference(model, prefix, suffix) if training else copy.deepcopy(model)
            suffix.train(training)
            results = []
            for run in (expected_model, lambda x, p=prefix, s=suffix: s(p(x))):
                torch.manual_seed(3)
                random.seed(3)
                results.append([run(X) for _ in range(4)])
            assert same(results[0], results[1]), (cut.name, training)


@pytest.mark.parametrize(
    "mid",
    [
        nets.FunctionalDropout, nets.DropoutInAHelper, nets.Noise, nets.PythonChance, nets.Batchwise,
        nets.DataDependent, nets.TypeCheck, nets.NoGrad,
    ],
)  # fmt: skip
def test_a_module_that_a_graph_cannot_hold_is_kept_whole(mid: type[nn.Module]) -> None:
    model = nets.Net(mid())
    _holds(model)
    assert "mid" in {c.module for c in cuts(model, X)}


class Centred(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0, keepdim=True)


class HeldAgainstTheLast(nn.Module):
    """The last image of a batch alone is what it is beside others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x[-1:]


class Sampled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * torch.randn_like(x)


@pytest.mark.parametrize(
    ("mid", "why", "dtype"),
    [
        (lambda: nn.BatchNorm2d(8, track_running_stats=False), "other images of its batch", torch.float32),
        (lambda: nn.BatchNorm2d(8, track_running_stats=False), "other images of its batch", torch.bfloat16),
        (Centred, "other images of its batch", torch.float32),
        (HeldAgainstTheLast, "other images of its batch", torch.float32),
        (Sampled, "at random in eval mode", torch.bfloat16),
        (nets.Noise, "at random in eval mode", torch.float32),
        (nets.PythonChance, "at random in eval mode", torch.float32),
    ],
)
def test_a_feature_that_is_no_function_of_its_image_is_refused(mid: Any, why: str, dtype: torch.dtype) -> None:
    model = nets.Net(mid()).eval().to(dtype)
    listed = {c.name: c for c in cuts(model, X)}
    assert listed["stem"].problem is None
    for name in ("mid", "body"):
        assert why in str(listed[name].problem)
        with pytest.raises(ModelError, match=rf"cannot be split at '{name}'.*{why}.*nearest valid cuts? .*'stem'"):
            split(model, name, X)
    with pytest.raises(ModelError, match=why):
        multi_prefix(model, ["stem", "mid"], X)


def test_a_dropout_that_is_always_on_is_refused() -> None:
    model = nets.Own(lambda self, x: F.dropout(x, 0.5, True))
    listed = {c.name: c for c in cuts(model, X)}
    assert listed["stem"].problem is None
    assert "at random in eval mode" in str(listed["mean"].problem)


def test_norms_of_one_image_and_images_that_are_alike_are_no_fault() -> None:
    for mid in (nn.InstanceNorm2d(8), nn.GroupNorm(2, 8), nn.BatchNorm2d(8), nn.Dropout(0.5)):
        for example in (X, torch.zeros(1, 3, 8, 8), X[:1].repeat(4, 1, 1, 1)):
            assert all(c.problem is None for c in cuts(nets.Net(mid).eval(), example)), mid


def test_no_grad_inside_a_module_still_stops_gradients() -> None:
    model = nets.Net(nets.NoGrad())
    prefix, suffix = split(model, "stem", X)
    suffix(prefix(X)).sum().backward()
    assert model.mid.conv.weight.grad is None
    assert model.body[0].weight.grad is not None


def test_the_models_own_branch_on_training_gives_two_graphs() -> None:
    model = nets.Own(lambda self, x: F.dropout(x, 0.5, self.training))
    _holds(model)
    after = {c.name: c for c in cuts(model, X)}["mean"]
    assert "differently in train mode" in str(after.problem)


def test_the_models_mode_reaches_a_suffix_of_two_graphs() -> None:
    model = nets.Own(lambda self, x: F.dropout(x, 0.5, self.training))
    prefix, suffix = split(model, "stem", X)
    for training in (True, False, True):
        model.train(training)
        assert torch.equal(suffix(prefix(X)), suffix(prefix(X))) is not training
    suffix.eval()
    assert torch.equal(suffix(prefix(X)), suffix(prefix(X)))


@pytest.mark.parametrize(
    ("habit", "message"),
    [
        (lambda self, x: x if x.sum() > 0 else x * 2, "does not trace"),
        (lambda self, x: x + torch.randn(8, 1, 1), "random"),
        (lambda self, x: x * 3 if isinstance(x, torch.Tensor) else x, "does not compute what the model does"),
    ],
)
def test_a_habit_of_the_models_own_forward_is_refused(habit: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        cuts(nets.Own(habit), X)


def test_no_trace_changes_the_model() -> None:
    model = nets.Positions().train()
    model.block.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    attributes, drawn = set(vars(model)), torch.get_rng_state()
    cuts(model, X)
    split(model, "block", X)
    assert set(vars(model)) == attributes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("make", [nets.Positions, nets.Sizes, nets.WithDefaults, nets.SharedDropout])
def test_parameters_sizes_and_defaults(make: type[nn.Module]) -> None:
    _holds(make())


def test_sizes_from_before_the_cut_are_found_again() -> None:
    model = nets.Sizes().eval()
    prefix, suffix = split(model, "mid", X)
    for batch in (1, 3):
        assert torch.equal(suffix(prefix(X[:batch])), model(X[:batch]))
    with pytest.raises(ModelError, match="features of shape"):
        suffix(torch.zeros(2, 16, 8))


def test_in_place_overwrites_are_refused_with_the_way_out() -> None:
    for mid in (nets.InPlace, nets.InPlaceThroughAView):
        model = nets.Net(mid())
        listed = {c.name: c for c in cuts(model, X)}
        assert any("in-place" in w for w in listed["stem"].warnings)
        with pytest.raises(ModelError, match=r"in place.*nearest valid cuts.*stem.conv"):
            split(model, "stem", X)
    prefix, suffix = split(nets.Net(nets.InPlace()), "mid", X)
    feature = prefix(X)
    kept = feature.clone()
    suffix(feature)
    assert torch.equal(feature, kept)


def test_no_valid_cut_is_ever_overwritten() -> None:
    for mid in (nets.InPlace, nets.InPlaceThroughAView):
        model = nets.Net(mid())
        known = analyse(model, X)
        for cut in spread(known, 20):
            prefix, suffix = split(model, cut, analysis=known)
            for training in (False, True):
                suffix.train(training)
                feature = prefix(X)
                kept = feature.clone()
                suffix(feature)
                assert torch.equal(feature, kept), cut.name


def test_weights_on_both_sides_are_refused() -> None:
    listed = cuts(nets.Shared(), X)
    node = next(c.name for c in listed if c.problem is not None)
    with pytest.raises(ModelError, match=r"both sides.*conv\.bias.*nearest valid cuts.*stem"):
        split(nets.Shared(), node, X)
    with pytest.raises(ModelError, match="both sides"):
        split(nets.Tied(), "a", X)
    split(nets.Tied(), "b", X)


def test_a_shared_dropout_is_refused_only_between_its_calls() -> None:
    model = nets.SharedDropout()
    with pytest.raises(ModelError, match="drop is used on both sides"):
        split(model, "b", X)
    split(model, "a", X)


def test_invalid_and_unknown_cuts_name_the_nearest() -> None:
    from torchvision.models import resnet18

    model = resnet18()
    x = torch.randn(2, 3, 32, 32)
    known = analyse(model, x)
    with pytest.raises(ModelError, match=r"2 tensors are alive.*'maxpool' before it and 'layer1.0' after it"):
        split(model, "layer1.0.conv1", analysis=known)
    with pytest.raises(ModelError, match=r"no cut 'layer22'; nearest: .*layer2"):
        split(model, "layer22", analysis=known)
    with pytest.raises(ModelError, match=r"called more than once.*nearest valid cuts"):
        split(model, "layer2.0.relu", analysis=known)
    with pytest.raises(ModelError, match=r"model's output.*nearest"):
        split(model, "fc", analysis=known)
    inside = analyse(nets.Net(nn.Sequential(nets.DataDependent())), X)
    with pytest.raises(ModelError, match=r"'mid.0' is kept whole"):
        split(inside.model, "mid.0.conv", analysis=inside)


def test_models_that_are_no_classifiers_of_one_image() -> None:
    with pytest.raises(ModelError, match="one batch of images"):
        cuts(nets.TwoInputs(), X)
    with pytest.raises(ModelError, match="takes images of 3 channels, found 4"):
        cuts(nets.Net(), torch.zeros(1, 4, 8, 8))
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        cuts(lambda x: x, X)
    assert cuts_of(analyse(nn.Sequential(nn.Flatten()), X)) == []
