"""A model as it was written: without hooks, and with compiled submodules as the modules that were compiled."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fmshards.model.unwrap import wrapped

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")


def is_bare(model: nn.Module) -> bool:
    """Whether there is nothing to take off."""
    return not any(
        wrapped(m) is not None or any(getattr(m, name, None) for name in _HOOKS) or "_compiled_call_impl" in vars(m)
        for m in model.modules()
    )


def bare(model: nn.Module) -> nn.Module:
    """`model` itself where nothing is to be taken off, else a tree of new modules over the same tensors.

    For looking at, not for training: what a hook or a compiler adds must not make another model of it.
    """
    return model if is_bare(model) else _copy(model, {})


def _copy(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    inner = wrapped(module)
    if inner is not None:
        return _copy(inner, made)
    if id(module) not in made:
        copied = type(module).__new__(type(module))
        copied.__dict__.update(vars(module))
        made[id(module)] = copied
        copied.__dict__["_modules"] = {
            name: None if child is None else _copy(child, made) for name, child in module._modules.items()
        }
        for name in _HOOKS:
            if name in vars(copied):
                copied.__dict__[name] = OrderedDict()
        copied.__dict__["_compiled_call_impl"] = None
    return made[id(module)]
