"""From where to where in a graph each part of a model's state is used: what both sides of a cut use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import fx, nn

from fmshards.model.graph.analyse import Analysis
from fmshards.model.graph.leaf import changes_with_mode
from fmshards.model.graph.liveness import free_nodes
from fmshards.model.graph.run import attribute


@dataclass(frozen=True)
class Span:
    """The numbers of the first and the last node that use something, over the graphs of both modes."""

    first: int
    last: int

    def across(self, end: int) -> bool:
        """Whether it is used both up to node number `end` and after it."""
        return self.first <= end < self.last


@dataclass(frozen=True)
class Spans:
    """called: of modules by path. weights: of parameters, and of buffers of called modules, with all their names.

    A buffer that a forward only reads (a table of positions) is not among the weights: both sides may read it.
    """

    called: dict[str, Span]
    weights: tuple[tuple[Span, tuple[str, ...]], ...]
    parameters: Span | None

    def shared_weights(self, end: int) -> list[str]:
        return sorted(name for span, names in self.weights if span.across(end) for name in names)

    def shared_by_mode(self, model: nn.Module, end: int) -> list[str]:
        """Modules without weights of their own that both sides call, and that act differently in train mode.

        One module cannot be in eval mode before the cut and in train mode after it.
        """
        both = [path for path, span in self.called.items() if span.across(end)]
        return sorted(path for path in both if changes_with_mode(model.get_submodule(path)))


def spans_of(known: Analysis) -> Spans:
    """The spans of all that a model's graphs use."""
    uses: dict[tuple[str, str], Span] = {}
    for graph in known.trace.graphs.values():
        for key, span in _uses(list(graph.nodes)).items():
            uses[key] = _joined(uses.get(key), span)
    held: dict[int, tuple[Span, set[str]]] = {}
    parameters: Span | None = None
    for (op, path), span in uses.items():
        for name, tensor in _state(known, op, path).items():
            memory = tensor.untyped_storage().data_ptr() if tensor.numel() else id(tensor)
            before, names = held.get(memory, (None, set()))
            held[memory] = (_joined(before, span), names | {name})
            if isinstance(tensor, nn.Parameter):
                parameters = _joined(parameters, span)
    called = {path: span for (op, path), span in uses.items() if op == "call_module"}
    return Spans(called, tuple((span, tuple(sorted(names))) for span, names in held.values()), parameters)


def _uses(nodes: list[fx.Node]) -> dict[tuple[str, str], Span]:
    """What each node that depends on the input runs: itself, and what is computed for it from parameters alone."""
    free = free_nodes(nodes)
    found: dict[tuple[str, str], Span] = {}
    for i, node in enumerate(nodes):
        if node in free:
            continue
        pending, seen = [node], {node}
        while pending:
            one = pending.pop()
            if one.op in ("call_module", "get_attr"):
                key = one.op, str(one.target)
                found[key] = _joined(found.get(key), Span(i, i))
            for used in one.all_input_nodes:
                if used in free and used not in seen:
                    seen.add(used)
                    pending.append(used)
    return found


def _joined(a: Span | None, b: Span) -> Span:
    return b if a is None else Span(min(a.first, b.first), max(a.last, b.last))


def _state(known: Analysis, op: str, path: str) -> dict[str, torch.Tensor]:
    if op == "call_module":
        module = known.model.get_submodule(path)
        state = (*module.named_parameters(), *module.named_buffers())
        return {f"{path}.{name}": tensor for name, tensor in state}
    value = attribute(known.model, known.trace.constants, path)
    return {path: value} if isinstance(value, nn.Parameter) else {}


def listed(paths: Iterable[str], most: int = 3) -> str:
    """The first few of them, in words."""
    every = list(paths)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
