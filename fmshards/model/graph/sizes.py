"""Sizes that live across a cut (`B, H, W` taken from an early tensor), found again from the tensor at the cut."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fmshards.model.graph.run import Value

_READS = ("shape", "ndim")
_ASKS = ("size", "dim", "numel", "ndimension")


def size_nodes(nodes: list[fx.Node], one: dict[fx.Node, Value], two: dict[fx.Node, Value]) -> dict[fx.Node, Any]:
    """Nodes that are sizes and nothing else -> their `template`.

    Only what is read from shapes counts: a number computed from a tensor's values is no size. one, two: values for
    a batch of one and of two.
    """
    found: dict[fx.Node, Any] = {}
    for node in nodes:
        if node not in one or one[node].size is None or two[node].size is None:
            continue
        reads = node.op == "call_function" and node.target is getattr and node.args[1] in _READS
        asks = node.op == "call_method" and node.target in _ASKS
        computed = bool(node.all_input_nodes) and all(used in found for used in node.all_input_nodes)
        if reads or asks or computed:
            made = template(one[node].size, two[node].size)
            if made is not None:
                found[node] = made
    return found


def template(one: Any, two: Any) -> Any:
    """("const", n), ("batch", k) for k times the batch, or ("tuple", parts, is torch.Size). None: neither."""
    if isinstance(one, tuple):
        if not isinstance(two, tuple) or len(one) != len(two):
            return None
        parts = tuple(template(a, b) for a, b in zip(one, two, strict=True))
        return None if None in parts else ("tuple", parts, isinstance(one, torch.Size))
    if one == two:
        return ("const", one)
    return ("batch", one) if two == 2 * one else None


def fixed(made: Any) -> bool:
    """Whether a template holds a number that is true only for this shape of the feature."""
    return any(fixed(p) for p in made[1]) if made[0] == "tuple" else made[0] == "const"


def write(graph: fx.Graph, made: Any, feature: fx.Node) -> Any:
    """The template as an argument in `graph`, the batch taken from `feature`."""
    kind, value = made[0], made[1]
    if kind == "const":
        return value
    if kind == "batch":
        batch = graph.call_method("size", (feature, 0))
        return batch if value == 1 else graph.call_function(operator.mul, (batch, value))
    parts = tuple(write(graph, part, feature) for part in value)
    return graph.call_function(torch.Size, (parts,)) if made[2] else parts
