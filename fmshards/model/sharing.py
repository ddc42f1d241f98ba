"""What each side of a cut uses of a model's state."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx, nn

from fmshards.model.analyse import Analysis
from fmshards.model.leaf import changes_with_mode
from fmshards.model.liveness import free_nodes
from fmshards.model.run import attribute


def used_by(known: Analysis, cut: str) -> tuple[dict[str, str], dict[str, str]]:
    """What the nodes before and after a cut fetch: {path: "call_module" | "get_attr"} of each side."""
    end = next(p.end for p in known.points if p.node.name == cut)
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for graph in known.trace.graphs.values():
        nodes = list(graph.nodes)
        free = free_nodes(nodes)
        early, late = needs(nodes[: end + 1], free), needs(nodes[end + 1 :], free)
        before |= {str(n.target): n.op for n in early if n.op in ("call_module", "get_attr")}
        after |= {str(n.target): n.op for n in late if n.op in ("call_module", "get_attr")}
    return before, after


def needs(nodes: list[fx.Node], free: set[fx.Node]) -> set[fx.Node]:
    """The nodes that these run: those that depend on the input, and the free ones that they use."""
    pending = [n for n in nodes if n not in free]
    found: set[fx.Node] = set(pending)
    while pending:
        for used in pending.pop().all_input_nodes:
            if used in free and used not in found:
                found.add(used)
                pending.append(used)
    return found


def tensors_of(model: nn.Module, constants: dict[str, torch.Tensor], uses: dict[str, str]) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, of the paths that a side uses."""
    found: dict[str, torch.Tensor] = {}
    for path, op in uses.items():
        if op == "call_module":
            module = model.get_submodule(path)
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                found[f"{path}.{name}"] = tensor
        elif path not in constants:
            value = attribute(model, constants, path)
            if isinstance(value, torch.Tensor):
                found[path] = value
    return found


def shared_state(known: Analysis, cut: str) -> list[str]:
    """Names of the weights that both sides of a cut use: parameters, and buffers of a module called on both sides.

    A buffer that is only read on both sides (a table of positions) does no harm.
    """
    constants = known.trace.constants
    before, after = used_by(known, cut)
    early, late = tensors_of(known.model, constants, before), tensors_of(known.model, constants, after)
    memory = {_memory(t) for t in late.values() if isinstance(t, nn.Parameter)}
    names = [name for name, t in early.items() if isinstance(t, nn.Parameter) and _memory(t) in memory]
    both = [path for path, op in before.items() if op == "call_module" and after.get(path) == op]
    names += [name for path in both for name in early if name.startswith(f"{path}.") and name not in names]
    return sorted(names)


def shared_by_mode(known: Analysis, cut: str) -> list[str]:
    """Paths of the modules without weights that both sides of a cut call, and that act differently in train mode.

    One module cannot be in eval mode before the cut and in train mode after it.
    """
    before, after = used_by(known, cut)
    both = [path for path, op in before.items() if op == "call_module" and after.get(path) == op]
    return sorted(path for path in both if changes_with_mode(known.model.get_submodule(path)))


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.numel() else id(tensor)


def names(paths: Iterable[str], most: int = 3) -> str:
    listed = list(paths)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
