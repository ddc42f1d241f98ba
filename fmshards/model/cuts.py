"""The list of cuts of a model, the sensible ones first."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from fmshards.codec import FeatureSpec, row_bytes_at
from fmshards.errors import ModelError
from fmshards.model.graph.analyse import Analysis, analyse
from fmshards.model.graph.kinds import look
from fmshards.model.graph.liveness import Point, alive_after
from fmshards.model.graph.sharing import Spans, listed, spans_of

# A cut this much smaller, within this part of the whole FLOPs, is worth a warning.
_NEAR, _SMALLER = 0.05, 3


@dataclass(frozen=True)
class Cut:
    """A point of a model's graph where exactly one tensor is alive.

    name: the path of the outermost module whose output it is, else the name of its node. module: that path or None.
    shape, bytes: of one sample, in `dtype`. flops_before, flops_after: for one sample, in eval mode, 2 for a
    multiply-add. warnings: what speaks against it. problem: why `split` refuses it; None where it does not.
    node: its node. aliases: all names by which it can be asked for. place: its number in the order of the graph.
    """

    name: str
    module: str | None
    spec: FeatureSpec
    shape: tuple[int, ...]
    dtype: str
    kind: str
    bytes: int
    flops_before: int
    flops_after: int
    warnings: tuple[str, ...]
    problem: str | None
    node: str
    aliases: tuple[str, ...]
    place: int


def cuts(model: nn.Module, example: torch.Tensor | None = None) -> list[Cut]:
    """Every point of `model` where exactly one tensor is alive, the sensible ones first.

    First the outputs of modules made of modules (stages, blocks) that no neighbour undercuts in bytes, in the
    model's order; then other modules' outputs, then points between modules, then those with warnings, and last those
    that `split` refuses. example: a batch [B, 3, H, W] of the size of the images. Raises ModelError, see `analyse`.
    """
    return cuts_of(analyse(model, example))


def row_bytes(cut: Cut, rate: str | float) -> int:
    """Bytes of one sample's row at a rate, without labels and tar overhead. Raises InputError for what is no rate."""
    return row_bytes_at(rate, cut.spec)


def cuts_of(known: Analysis) -> list[Cut]:
    """`cuts` of a model that has been analysed."""
    found = _in_order(known)
    total = found[0].flops_before + found[0].flops_after if found else 0

    def rank(cut: Cut) -> tuple[int, int]:
        if cut.problem is not None:
            return 5, cut.place
        if set(cut.warnings) - {_STRIDED}:
            return 4, cut.place
        if cut.module is None:
            return 3, cut.place
        near = [c for c in found if c.problem is None and abs(c.flops_before - cut.flops_before) <= _NEAR * total]
        least = min(c.bytes for c in near)
        stage = any(True for _ in known.model.get_submodule(cut.module).children())
        return (0 if stage else 1) if cut.bytes <= least else 2, cut.place

    return sorted(found, key=rank)


def _in_order(known: Analysis) -> list[Cut]:
    nodes = known.trace.nodes
    total = sum(known.flops.values())
    modules = {path: node for node, paths in known.trace.outputs.items() for path in paths}
    rows: list[Cut] = []
    spans = spans_of(known)
    before, start = 0, 0
    for place, point in enumerate(known.points):
        before += sum(known.flops.get(n, 0) for n in nodes[start : point.end + 1])
        start = point.end + 1
        seen = look(known, point.node, nodes[: point.end + 1])
        if seen is None:
            continue
        paths = known.trace.outputs.get(point.node.name, ())
        # A node may bear the name of another module: a module's path goes first.
        name = next((p for p in paths), point.node.name)
        value = known.values[point.node]
        assert value.dtype is not None
        notes, problem = _notes(known, spans, point)
        own = () if modules.get(point.node.name, point.node.name) != point.node.name else (point.node.name,)
        rows.append(
            Cut(
                name=name,
                module=paths[0] if paths else None,
                spec=seen.spec,
                shape=seen.spec.shape,
                dtype=str(value.dtype).removeprefix("torch."),
                kind=seen.spec.kind,
                bytes=seen.spec.values * value.dtype.itemsize,
                flops_before=before,
                flops_after=total - before,
                warnings=(*seen.notes, *notes, *([] if value.contiguous else [_STRIDED])),
                problem=problem,
                node=point.node.name,
                aliases=(*paths, *own),
                place=place,
            )
        )
    rows = [_with_neighbour(rows, i, total) for i in range(len(rows))]
    return [_with_way_out(rows, i) for i in range(len(rows))]


_STRIDED = "its memory is strided: a stored (contiguous) copy may give other last bits"


def _notes(known: Analysis, spans: Spans, point: Point) -> tuple[list[str], str | None]:
    """Warnings, and why `split` refuses the point."""
    notes: list[str] = []
    problem = None
    by = known.overwritten.get(point.node)
    if by is not None:
        notes.append(f"an in-place op follows: {by}")
        problem = f"{by} after it writes over the feature in place"
    if point.end >= known.trace.alike:
        notes.append("the model's own forward acts differently in train mode before it")
        problem = (
            "before it the model's own forward (not a submodule's) acts differently in train mode and cannot be "
            "frozen: make that part a module, such as nn.Dropout for F.dropout"
        )
    impure = known.impure.get(point.node)
    if impure is not None:
        notes.append(f"no function of its image alone: it {impure}")
        problem = f"its value for an image {impure}, so that it cannot be stored"
    modal = spans.shared_by_mode(known.model, point.end)
    if modal:
        notes.append(f"modules that act differently in train mode are used on both sides: {listed(modal)}")
        problem = f"{listed(modal)} is used on both sides of it, and acts differently in train mode"
    shared = spans.shared_weights(point.end)
    if shared:
        notes.append(f"weights are used on both sides: {listed(shared)}")
        problem = f"weights are used on both sides of it: {listed(shared)}"
    if spans.parameters is None or spans.parameters.first > point.end:
        notes.append("no parameters before it")
    if spans.parameters is None or spans.parameters.last <= point.end:
        notes.append("no parameters after it")
    return notes, problem


def _with_neighbour(rows: list[Cut], i: int, total: int) -> Cut:
    ours = rows[i]
    near = [
        c
        for c in rows
        if c.problem is None
        and c.kind == ours.kind
        and c.spec.spatial != (1, 1)
        and _SMALLER * c.bytes <= ours.bytes
        and abs(c.flops_before - ours.flops_before) <= _NEAR * total
    ]
    if not near:
        return ours
    best = min(near, key=lambda c: (c.bytes, abs(c.place - ours.place)))
    text = f"{best.name!r} near it is {ours.bytes / best.bytes:.1f} times smaller"
    return replace(ours, warnings=(*ours.warnings, text))


def _with_way_out(rows: list[Cut], i: int) -> Cut:
    if rows[i].problem is None:
        return rows[i]
    return replace(rows[i], problem=f"{rows[i].problem}; {nearest(rows, rows[i].place)}")


def nearest(rows: Sequence[Cut], place: float) -> str:
    """The valid cuts next to a place in the graph, in words."""
    valid = sorted((c for c in rows if c.problem is None), key=lambda c: c.place)
    before = [c.name for c in valid if c.place < place][-1:]
    after = [c.name for c in valid if c.place > place][:1]
    if not before and not after:
        return "the model has no valid cut"
    said = [f"{name!r} {where} it" for found, where in ((before, "before"), (after, "after")) for name in found]
    return f"the nearest valid cuts are {' and '.join(said)}"


def find_cut(cuts: Sequence[Cut], name: str, known: Analysis | None = None) -> Cut:
    """The cut of that name: a module's path or a node's name. Raises ModelError with the nearest ones."""
    for cut in cuts:
        if name == cut.name or name in cut.aliases:
            return cut
    if known is not None:
        _explain(cuts, name, known)
    every = [alias for cut in cuts for alias in cut.aliases]
    close = difflib.get_close_matches(name, every, 3, 0.5) or [c.name for c in cuts[:3]]
    raise ModelError(f"the model has no cut {name!r}; nearest: {', '.join(map(repr, close)) or 'none: it has no cuts'}")


def _explain(cuts: Sequence[Cut], name: str, known: Analysis) -> None:
    """Raise ModelError where `name` is a module or a node, saying why it is no cut."""
    nodes = known.trace.nodes
    by_name = {node.name: i for i, node in enumerate(nodes)}
    outputs = {path: node for node, paths in known.trace.outputs.items() for path in paths}
    for path, reason in known.trace.opaque.items():
        if name.startswith(f"{path}."):
            place = by_name.get(path.replace(".", "_"), 0)
            raise ModelError(
                f"{name!r} is no cut: {path!r} is kept whole, since {reason}; {nearest(cuts, _place(known, place))}"
            )
    found = by_name.get(outputs.get(name, name))
    if found is None:
        if name in dict(known.model.named_modules()):
            inside = [i for i, n in enumerate(nodes) if str(n.target).startswith(name) and n.op == "call_module"]
            where = nearest(cuts, _place(known, inside[-1])) if inside else "it has no output in the graph"
            raise ModelError(
                f"{name!r} is a module, but no cut (it is called more than once, gives back its input, "
                f"or gives no single tensor); {where}"
            )
        return
    alive = [n.name for n in alive_after(nodes)[found] if n not in known.sizes]
    what = (
        f"{len(alive)} tensors are alive there ({listed(alive)})"
        if len(alive) != 1
        else "it is the model's output, or no feature"
    )
    if nodes[found].op in ("placeholder", "output") or not alive:
        what = "it is the model's input or output"
    raise ModelError(f"{name!r} is no valid cut: {what}; {nearest(cuts, _place(known, found))}")


def _place(known: Analysis, index: int) -> float:
    """The place among the cuts of node number `index`."""
    return sum(1 for p in known.points if p.end < index) - 0.5
