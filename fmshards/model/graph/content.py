"""What a graph computes up to a node, as text and digests: its operations, their modules' settings, all its tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import fx, nn

from fmshards.model.graph.run import attribute
from fmshards.model.graph.trace import Trace
from fmshards.model.graph.values import Contents, raw_bytes

_SHORT = 8


@dataclass(frozen=True)
class Piece:
    """One operation of a graph. path: of its module or tensor, "" for a function; digests of settings and tensors."""

    path: str
    settings: str
    tensors: str


def pieces(model: nn.Module, traced: Trace, node: fx.Node, contents: Contents) -> list[Piece]:
    """The operations that the value of `node` depends on, in the graph's order."""
    wanted = ancestors(node)
    order = [n for n in traced.nodes if n in wanted]
    numbers = {n: i for i, n in enumerate(order)}
    made = []
    for n in order:
        path, target = "", f"{n.op} "
        tensors: list[bytes] = []
        if n.op == "call_module":
            path = str(n.target)
            text, tensors = contents.of(model.get_submodule(path))
            target += f"{path} {text}"
        elif n.op == "get_attr":
            path = str(n.target)
            text, tensors = contents.of(attribute(model, traced.constants, path))
            target += f"{path} {text}"
        elif n.op == "call_function":
            text, tensors = contents.of(n.target)
            target += text
        elif n.op == "call_method":
            target += str(n.target)
        # The input's name is no part of what is computed; its default never is there.
        text, more = ("", []) if n.op == "placeholder" else contents.of((n.args, n.kwargs), numbers)
        digest = hashlib.sha256(b"".join([*tensors, *more])).hexdigest()
        made.append(Piece(path, hashlib.sha256(f"{target} {text}".encode()).hexdigest(), digest))
    return made


def graph_digest(found: list[Piece]) -> str:
    """SHA-256, in hex, over all pieces."""
    lines = "\n".join(f"{p.settings} {p.tensors}" for p in found)
    return hashlib.sha256(lines.encode()).hexdigest()


def parts(found: list[Piece]) -> dict[str, list[str]]:
    """{path: [settings, tensors]}, short digests of the modules and tensors: to say later which of them differs."""
    return {p.path: [p.settings[:_SHORT], p.tensors[:_SHORT]] for p in found if p.path}


def state_digest(model: nn.Module, traced: Trace, node: fx.Node, dtype: torch.dtype | None = None) -> str:
    """SHA-256, in hex, of the parameters and buffers that the value of `node` depends on.

    Over each of them, sorted by name: name, dtype, shape and bytes; BatchNorm's `num_batches_tracked` excepted, which
    no forward in eval mode reads. Names are the model's own. dtype: as if floating-point ones were in another dtype.
    """
    digest = hashlib.sha256()
    for name, found in sorted(_state(model, traced, node).items()):
        tensor = found.to(dtype) if dtype is not None and found.is_floating_point() else found
        digest.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{tuple(tensor.shape)}\0".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def ancestors(node: fx.Node) -> set[fx.Node]:
    """The node and all that its value depends on."""
    pending, seen = [node], {node}
    while pending:
        for used in pending.pop().all_input_nodes:
            if used not in seen:
                seen.add(used)
                pending.append(used)
    return seen


def node_at(traced: Trace, cut: str) -> fx.Node | None:
    """The node of a cut's name: a module's path or a node's name."""
    named = {path: node for node, paths in traced.outputs.items() for path in paths}
    name = named.get(cut, cut)
    return next((node for node in traced.nodes if node.name == name), None)


def _state(model: nn.Module, traced: Trace, node: fx.Node) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for one in ancestors(node):
        if one.op == "call_module":
            module = model.get_submodule(str(one.target))
            for key, tensor in (*module.named_parameters(), *module.named_buffers()):
                found[f"{one.target}.{key}"] = tensor
        elif one.op == "get_attr":
            value = attribute(model, traced.constants, str(one.target))
            if isinstance(value, torch.Tensor):
                found[str(one.target)] = value
    return {key: t for key, t in found.items() if not key.endswith("num_batches_tracked")}


def float_types(model: nn.Module, traced: Trace, node: fx.Node) -> set[torch.dtype]:
    """The floating-point dtypes of the parameters and buffers before a node."""
    return {t.dtype for t in _state(model, traced, node).values() if t.dtype.is_floating_point}
