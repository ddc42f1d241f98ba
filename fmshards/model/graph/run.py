"""Running a graph node by node on an example, and what is seen on the way."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from fmshards.model.graph.attention import unfused
from fmshards.model.graph.modes import ungraded

Seen = Callable[[fx.Node, Any], None]


@dataclass(frozen=True)
class Value:
    """What a node gave for a batch of one: a tensor's shape, dtype and layout, or a size (an int, a tuple of ints)."""

    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    contiguous: bool = True
    size: int | tuple[Any, ...] | None = None


def run(
    model: nn.Module, graph: fx.Graph, constants: dict[str, torch.Tensor], x: torch.Tensor, seen: Seen | None = None
) -> Any:
    """The graph's output for x. `seen` gets each node and its value; a value is dropped after its last use."""
    values: dict[fx.Node, Any] = {}
    uses = {node: len(node.users) for node in graph.nodes}
    for node in graph.nodes:
        if node.op == "output":
            return map_arg(node.args[0], values.__getitem__)
        if node.op == "placeholder":
            value: Any = x
        elif node.op == "get_attr":
            value = attribute(model, constants, str(node.target))
        else:
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "call_module":
                value = model.get_submodule(str(node.target))(*args, **kwargs)
            elif node.op == "call_method":
                value = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            else:
                assert callable(node.target)
                value = node.target(*args, **kwargs)
        values[node] = value
        if seen is not None:
            seen(node, value)
        for used in node.all_input_nodes:
            uses[used] -= 1
            if not uses[used]:
                del values[used]
        if not uses[node]:
            del values[node]
    raise AssertionError("a graph ends in its output")


def attribute(model: nn.Module, constants: dict[str, torch.Tensor], target: str) -> Any:
    """What a get_attr node fetches."""
    if target in constants:
        return constants[target]
    return reduce(getattr, target.split("."), model)


def measure(
    model: nn.Module, graph: fx.Graph, constants: dict[str, torch.Tensor], x: torch.Tensor
) -> tuple[dict[fx.Node, int], dict[fx.Node, Value]]:
    """FLOPs of each node for x (2 for a multiply-add, by torch.utils.flop_counter), and each node's value."""
    flops: dict[fx.Node, int] = {}
    values: dict[fx.Node, Value] = {}
    before = 0
    with ungraded(model), FlopCounterMode(display=False) as counter, unfused():

        def seen(node: fx.Node, value: Any) -> None:
            nonlocal before
            total = counter.get_total_flops()
            flops[node], before = total - before, total
            values[node] = describe(value)

        run(model, graph, constants, x, seen)
    return flops, values


def describe(value: Any) -> Value:
    if isinstance(value, torch.Tensor):
        return Value(tuple(value.shape), value.dtype, value.is_contiguous())
    return Value(size=value if _is_size(value) else None)


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_size(v) for v in value)
    return isinstance(value, int) and not isinstance(value, bool)


def alike(a: Any, b: Any, exact: bool = True) -> bool:
    """Whether two outputs of a model are the same, to the last bit unless `exact` is false."""
    ours, shape = pytree.tree_flatten(a)
    theirs, other = pytree.tree_flatten(b)
    if shape != other:
        return False
    for x, y in zip(ours, theirs, strict=True):
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
            if (
                x.shape != y.shape
                or x.dtype != y.dtype
                or not torch.allclose(x, y, rtol=0 if exact else 1e-3, atol=0 if exact else 1e-4, equal_nan=True)
            ):
                return False
        elif not (x is y or operator.eq(x, y)):
            return False
    return True
