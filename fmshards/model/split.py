"""A model in two halves at a cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx, nn

from fmshards.errors import InputError, ModelError
from fmshards.model.cuts import Cut, cuts_of, find_cut
from fmshards.model.graph.analyse import Analysis, analyse
from fmshards.model.graph.sharing import spans_of
from fmshards.model.graph.sizes import fixed, write
from fmshards.model.part import Part, Prefix
from fmshards.model.unwrap import unwrap


def split(
    model: nn.Module, cut: str | Cut, example: torch.Tensor | None = None, *, analysis: Analysis | None = None
) -> tuple[Prefix, Part]:
    """(prefix, suffix) of `model` at `cut`, with `suffix(prefix(x))` equal to `model(x)` to the last bit.

    In train mode that is the model in train mode whose prefix modules are in eval. Both halves are made of the
    model's own modules, parameters and names: training the suffix trains the model, which then needs no further step,
    and `suffix.state_dict()` loads into another copy with `strict=False`. The prefix's forward puts its modules into
    eval and runs under no_grad at each call.

    cut: a Cut, or its name or another of its names. example: a batch [B, 3, H, W] of the size of the images;
    without one, the size that the model names, or 224 x 224. analysis: of `analyse`, where there is one already.

    Raises ModelError where the model does not trace, the cut is not valid, weights are used on both sides of it, or
    an operation after it writes over the feature in place: with the nearest valid cuts. Raises InputError for an
    argument of another kind.
    """
    _check_cut(cut, "cut")
    known = _known(model, example, analysis)
    model = unwrap(model)
    found = valid_cut(cuts_of(known), cut, known)
    kept = {training: _suffix_graph(known, found.node, training) for training in (False, True)}
    if known.trace.graphs[True] is known.trace.graphs[False]:
        kept[True] = kept[False]
    graphs = {training: graph for training, (graph, _) in kept.items()}
    rigid = any(is_rigid for _, is_rigid in kept.values())
    suffix = Part(model, graphs, known.trace.constants, found.shape if rigid else None)
    ours = set(suffix.modules())
    end = next(p.end for p in known.points if p.node.name == found.node)
    called = [path for path, span in spans_of(known).called.items() if span.first <= end]
    shared = [path for path in called if not ours.isdisjoint(model.get_submodule(path).modules())]
    prefix = Prefix(model, _prefix_graph(known, {"": found.node}), known.trace.constants, shared)
    return prefix, suffix


def multi_prefix(
    model: nn.Module,
    cuts: Sequence[str | Cut],
    example: torch.Tensor | None = None,
    *,
    analysis: Analysis | None = None,
) -> Prefix:
    """A prefix that gives {name: feature} for several cuts in one pass: the names as given (a Cut's own name).

    It stands under the same guarantees, and raises the same errors, as `split`'s.
    """
    if isinstance(cuts, (str, Cut)) or not isinstance(cuts, Sequence):
        raise InputError(f"cuts is {cuts!r}; expected a list of cuts or of their names")
    for cut in cuts:
        _check_cut(cut, "cuts")
    known = _known(model, example, analysis)
    model = unwrap(model)
    listed = cuts_of(known)
    nodes = {(c if isinstance(c, str) else c.name): valid_cut(listed, c, known).node for c in cuts}
    if not nodes:
        raise ModelError("expected at least one cut")
    return Prefix(model, _prefix_graph(known, nodes), known.trace.constants)


def _known(model: nn.Module, example: torch.Tensor | None, analysis: Analysis | None) -> Analysis:
    if analysis is None:
        return analyse(model, example)
    if not isinstance(analysis, Analysis):
        raise InputError(f"analysis is {type(analysis).__name__}; expected what fmshards.model.analyse gives, or None")
    return analysis


def _check_cut(cut: Any, argument: str) -> None:
    if not isinstance(cut, (str, Cut)):
        raise InputError(
            f"{argument}: found {cut!r}; expected the name of a cut or a Cut (for several cuts in one pass: "
            "fmshards.model.multi_prefix)"
        )


def valid_cut(cuts: Sequence[Cut], cut: str | Cut, known: Analysis) -> Cut:
    """The cut of that name. Raises ModelError where there is none, or where it cannot be split there."""
    found = find_cut(cuts, cut if isinstance(cut, str) else cut.name, known)
    if found.problem is not None:
        raise ModelError(f"the model cannot be split at {found.name!r}: {found.problem}")
    return found


def _prefix_graph(known: Analysis, outputs: dict[str, str]) -> fx.Graph:
    """The eval graph up to the last of the outputs: {name: node name}, or {"": node name} for the bare tensor."""
    ends = {p.node.name: p.end for p in known.points}
    last = max(ends[name] for name in outputs.values())
    graph = fx.Graph()
    env: dict[str, fx.Node] = {}
    wanted = _needed(known.trace.nodes[: last + 1])
    for node in wanted:
        env[node.name] = graph.node_copy(node, lambda used: env[used.name])
    values: Any = {key: env[name] for key, name in outputs.items()}
    graph.output(values[""] if "" in outputs else values)
    return graph


def _suffix_graph(known: Analysis, cut: str, training: bool) -> tuple[fx.Graph, bool]:
    """The graph after the cut, and whether it holds sizes that are true only for this shape of the feature."""
    nodes = list(known.trace.graphs[training].nodes)
    end = next(p.end for p in known.points if p.node.name == cut)
    sizes = {node.name: made for node, made in known.sizes.items()}
    early = {node.name for node in nodes[: end + 1]}
    graph = fx.Graph()
    env: dict[str, Any] = {cut: graph.placeholder("x")}
    rigid = False

    def fetch(node: fx.Node) -> Any:
        nonlocal rigid
        if node.name not in env:
            assert node.name in early, node.name
            if node.name in sizes:
                rigid = rigid or fixed(sizes[node.name])
                env[node.name] = write(graph, sizes[node.name], env[cut])
            else:
                for used in node.all_input_nodes:
                    fetch(used)
                env[node.name] = graph.node_copy(node, fetch)
        return env[node.name]

    for node in nodes[end + 1 :]:
        for used in node.all_input_nodes:
            fetch(used)
        env[node.name] = graph.node_copy(node, fetch)
    return graph, rigid


def _needed(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Without parameters that are fetched here and used only later."""
    kept = list(nodes)
    while True:
        inside = set(kept)
        free = {n for n in kept if n.op == "get_attr" and not any(user in inside for user in n.users)}
        if not free:
            return kept
        kept = [n for n in kept if n not in free]
