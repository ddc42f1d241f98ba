"""suffix(prefix(x)) is model(x), to the last bit, in both modes, for many models at several cuts."""

from __future__ import annotations

import copy

import pytest
import torch

from fmshards.model import split
from tests.model.conftest import LARGE, SMALL, analysed, loss, reference, same, spread


def _check(name: str, most: int) -> None:
    model, x, known = analysed(name)
    chosen = spread(known, most)
    assert len(chosen) >= 2, "a classifier has cuts"
    for cut in chosen:
        model.eval()
        prefix, suffix = split(model, cut, analysis=known)
        with torch.no_grad():
            assert same(suffix(prefix(x)), model(x)), f"{cut.name}: eval"
        assert same(suffix(prefix(x)), model(x)), f"{cut.name}: eval, recording gradients"
        prefix.requires_grad_(False)
        state = copy.deepcopy(model.state_dict())
        frozen = {key: value.clone() for key, value in prefix.named_buffers()}
        expected_model = reference(model, prefix, suffix)
        model.train()
        prefix.train()
        suffix.train()
        torch.manual_seed(1)
        expected = expected_model(x)
        torch.manual_seed(1)
        found = suffix(prefix(x))
        assert same(found, expected), f"{cut.name}: train"
        assert all(torch.equal(value, frozen[key]) for key, value in prefix.named_buffers()), cut.name
        wanted = dict(expected_model.named_parameters())
        trained = dict(suffix.named_parameters())
        if trained:
            loss(expected).backward()
            loss(found).backward()
        for key, parameter in trained.items():
            theirs = wanted[key].grad
            assert (parameter.grad is None) == (theirs is None), (cut.name, key)
            assert theirs is None or torch.equal(parameter.grad, theirs), (cut.name, key)
        assert all(p.grad is None for p in prefix.parameters())
        held = {id(p) for p in prefix.parameters()}, {id(p) for p in suffix.parameters()}
        assert not held[0] & held[1]
        assert held[0] | held[1] == {id(p) for p in model.parameters()}, cut.name
        for key, buffer in suffix.named_buffers():
            named = dict(expected_model.named_buffers()).get(key)
            assert named is None or torch.equal(buffer, named), f"{cut.name}: statistics of {key}"
        prefix.requires_grad_(True)
        model.zero_grad(set_to_none=True)
        model.load_state_dict(state)


@pytest.mark.parametrize("name", SMALL)
def test_both_modes_to_the_last_bit(name: str) -> None:
    _check(name, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_both_modes_at_more_cuts(name: str) -> None:
    _check(name, 5)
    analysed.cache_clear()


def test_all_in_one_pass_gives_what_each_prefix_gives() -> None:
    from fmshards.model import multi_prefix

    model, x, known = analysed("torchvision resnet18")
    names = ["layer1", "layer3", "avgpool"]
    model.train()
    found = multi_prefix(model, names, analysis=known)(x)
    assert list(found) == names
    for name in names:
        assert torch.equal(found[name], split(model, name, analysis=known)[0](x))
        assert not found[name].requires_grad
