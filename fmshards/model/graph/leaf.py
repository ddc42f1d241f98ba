"""Which modules a trace must not look into: those whose forward does one thing in train mode and another in eval.

`self.training` is read when a model is traced, and its value is then part of the graph for good. A module that reads
it is kept whole, and so reads it at each call.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def is_leaf(module: nn.Module) -> bool:
    """Whether a trace keeps `module` as one call.

    torch's own layers; modules that read `training`; and modules with forward hooks, which would otherwise run
    once, when tracing, and never again.
    """
    if type(module).__module__.startswith(("torch.nn", "torch.ao.nn")) and not isinstance(module, _CONTAINERS):
        return True
    if module._forward_hooks or module._forward_pre_hooks:
        return True
    own = vars(module).get("forward")
    return _reads_training(type(module)) or (own is not None and _reads(own, type(module)))


def changes_with_mode(module: nn.Module) -> bool:
    """Whether `module` or one inside it acts differently in train mode; a dropout of probability 0 does not."""
    chances = [getattr(m, "p", getattr(m, "drop_prob", None)) for m in module.modules() if _reads_training(type(m))]
    return any(chance != 0 for chance in chances)


def _reads_training(cls: type) -> bool:
    """Whether the forward of `cls`, its wrappers or the methods that it names read `training`."""
    if cls not in _known:
        _known[cls] = _reads(getattr(cls, "forward", None), cls)
    return _known[cls]


_known: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


def _reads(forward: Any, cls: type) -> bool:
    return any("training" in _names(function.__code__) for function in reachable(forward, cls))


def reachable(forward: Any, cls: type) -> Iterator[FunctionType]:
    """The Python functions that `forward` may run: its own, those of its wrappers, the methods of `cls` it names."""
    pending, seen = [forward], set()
    while pending:
        for function in _functions(pending.pop()):
            if function in seen:
                continue
            seen.add(function)
            yield function
            for name in sorted(set(_names(function.__code__))):
                method = inspect.getattr_static(cls, name, None)
                if method is not None and method is not inspect.getattr_static(nn.Module, name, None):
                    pending.append(method)


def _functions(value: Any) -> Iterator[FunctionType]:
    """The Python functions behind a method, a property, a partial or a decorator."""
    if isinstance(value, property):
        yield from _functions(value.fget)
    elif isinstance(value, (staticmethod, classmethod)) or inspect.ismethod(value):
        yield from _functions(value.__func__)
    elif isinstance(value, functools.partial):
        yield from _functions(value.func)
    elif isinstance(value, FunctionType):
        yield value
        for cell in value.__closure__ or ():
            try:
                inner = cell.cell_contents
            except ValueError:  # the cell is still empty
                continue
            if isinstance(inner, (FunctionType, functools.partial)) and inner is not value:
                yield from _functions(inner)


def _names(code: CodeType) -> Iterator[str]:
    """Every name and text that the code uses: `getattr(self, "training")` counts too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, CodeType):
            yield from _names(constant)
