"""Two recorded traces of one model, held against each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

Places = tuple[dict[fx.Node, int], dict[fx.Node, int]]


@dataclass
class Recorded:
    """A graph, and in order what the trace did: ("enter" | "exit", module path) or ("node", node)."""

    graph: fx.Graph
    events: list[tuple[str, Any]]
    outputs: dict[fx.Node, list[str]]
    calls: dict[str, int]
    returns: dict[str, str]
    constants: dict[str, torch.Tensor] = field(default_factory=dict)


def decides(a: Recorded, b: Recorded) -> str | None:
    """The path of the module in whose forward two traces part: "" is the model itself. None: they do not."""
    stack = [""]
    places: Places = ({}, {})
    for (kind, x), (other, y) in zip(a.events, b.events, strict=False):
        if kind != other or (kind != "node" and x != y):
            return stack[-1]
        if kind == "enter":
            stack.append(x)
        elif kind == "exit":
            stack.pop()
        else:
            if not _same_node(x, y, places, (a.constants, b.constants)):
                return stack[-1]
            places[0][x], places[1][y] = len(places[0]), len(places[1])
    return None if len(a.events) == len(b.events) else stack[-1]


def common_nodes(a: Recorded, b: Recorded, strict: bool) -> int:
    """How many first nodes are the same calls on the same values; other arguments (a `training`) too where strict."""
    places: Places = ({}, {})
    for count, (x, y) in enumerate(zip(a.graph.nodes, b.graph.nodes, strict=False)):
        alike = (x.op, x.target, x.name) == (y.op, y.target, y.name)
        alike = alike and _same(list(x.all_input_nodes), list(y.all_input_nodes), places)
        if not alike or (strict and not _same_node(x, y, places, (a.constants, b.constants))):
            return count
        places[0][x], places[1][y] = count, count
    return min(len(a.graph.nodes), len(b.graph.nodes))


def _same_node(
    x: fx.Node,
    y: fx.Node,
    places: Places,
    constants: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]],
) -> bool:
    if x.op != y.op or x.target != y.target:
        return False
    if x.op == "get_attr" and x.target in constants[0]:
        ours, theirs = constants[0][str(x.target)], constants[1].get(str(y.target))
        if not (isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor) and torch.equal(ours, theirs)):
            return False
    return _same(x.args, y.args, places) and _same(x.kwargs, y.kwargs, places)


def _same(x: Any, y: Any, places: Places) -> bool:
    if isinstance(x, fx.Node) or isinstance(y, fx.Node):
        return isinstance(x, fx.Node) and isinstance(y, fx.Node) and places[0].get(x) == places[1].get(y)
    if type(x) is not type(y):
        return False
    if isinstance(x, (tuple, list)):
        return len(x) == len(y) and all(_same(p, q, places) for p, q in zip(x, y, strict=True))
    if isinstance(x, dict):
        return list(x) == list(y) and all(_same(x[k], y[k], places) for k in x)
    if isinstance(x, slice):
        return all(_same(getattr(x, k), getattr(y, k), places) for k in ("start", "stop", "step"))
    return x is y or bool(x == y) or (x != x and y != y)
