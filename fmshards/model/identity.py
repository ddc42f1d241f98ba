"""What a prefix is, in one number: the identity that decides whether features may be used with a model."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from fmshards.errors import ModelError
from fmshards.model.graph.run import attribute
from fmshards.model.graph.trace import trace


def prefix_digest(model: nn.Module, cut: str) -> str:
    """SHA-256, in hex, of the parameters and buffers that are used before a cut.

    Over each of them, sorted by name: name, dtype, shape and bytes; BatchNorm's `num_batches_tracked` excepted, which
    no forward in eval mode reads. Names are the model's own. Raises ModelError where the model does not trace or has
    no such point.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(prefix_state(model, cut).items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{str(data.dtype).removeprefix('torch.')}\0{tuple(data.shape)}\0".encode())
        digest.update(data.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def prefix_state(model: nn.Module, cut: str) -> dict[str, torch.Tensor]:
    """Parameters and buffers, by name, that the value at a cut depends on."""
    traced = trace(model)
    node_of = {path: node for node, paths in traced.outputs.items() for path in paths}
    name = node_of.get(cut, cut)
    start = next((node for node in traced.nodes if node.name == name), None)
    if start is None:
        raise ModelError(f"{type(model).__name__} has no cut {cut!r}")
    found: dict[str, torch.Tensor] = {}
    pending, seen = [start], {start}
    while pending:
        node = pending.pop()
        pending += [n for n in node.all_input_nodes if n not in seen]
        seen.update(node.all_input_nodes)
        if node.op == "call_module":
            module = model.get_submodule(str(node.target))
            for key, tensor in (*module.named_parameters(), *module.named_buffers()):
                found[f"{node.target}.{key}"] = tensor
        elif node.op == "get_attr":
            value = traced.constants.get(str(node.target))
            value = attribute(model, {}, str(node.target)) if value is None else value
            if isinstance(value, torch.Tensor):
                found[str(node.target)] = value
    return {key: t for key, t in found.items() if not key.endswith("num_batches_tracked")}
