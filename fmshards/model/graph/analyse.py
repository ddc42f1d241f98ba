"""A model traced, run on an example in both modes, and held against itself: what `cuts` and `split` stand on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fmshards.errors import ModelError
from fmshards.model.graph.culprit import culprit
from fmshards.model.graph.example import image_channels, two_images
from fmshards.model.graph.liveness import Point, points
from fmshards.model.graph.modes import kept_buffers, kept_generators, mode, seed
from fmshards.model.graph.purity import purity
from fmshards.model.graph.run import Value, alike, describe, measure, run
from fmshards.model.graph.sizes import size_nodes
from fmshards.model.graph.trace import Trace, trace
from fmshards.model.unwrap import rounds_otherwise, unwrap

_MOST_REPAIRS = 20
_COMPILED = (
    "is compiled, and its kernels give other last bits than the modules that it is made of, so that no halves can "
    "equal it: pass {}, and compile the halves"
)


@dataclass(frozen=True)
class Analysis:
    """What is known of a model's graph.

    points: where it can be cut, in the graph's order, problems not yet looked at.
    values, flops: of each node for one image, in eval mode. sizes: nodes that are sizes, see sizes.py.
    overwritten: node -> name of a later node that writes over its tensor in place.
    batched: nodes whose first axis is the batch.
    impure: node that can be cut at -> why its value is no function of its image alone.
    """

    model: nn.Module
    trace: Trace
    example: torch.Tensor
    points: tuple[Point, ...]
    values: dict[fx.Node, Value]
    flops: dict[fx.Node, int]
    sizes: dict[fx.Node, Any]
    overwritten: dict[fx.Node, str] = field(default_factory=dict)
    batched: frozenset[fx.Node] = frozenset()
    impure: dict[fx.Node, str] = field(default_factory=dict)


def analyse(model: nn.Module, example: torch.Tensor | None = None) -> Analysis:
    """Trace `model`, run it on one and on two images of `example` [B, 3, H, W], and check the graph against it.

    Nothing of the model is changed: modes, buffers and generators are put back. Without an example, noise of the
    size that the model names, or 224 x 224. Raises ModelError where the model does not trace, does not run on the
    example, or where its graph computes anything else than the model itself does, in either mode; InputError for an
    argument of another kind. A wrapper (DDP, torch.compile without inductor) is taken off.
    """
    given_as, model = model, unwrap(model)
    if given_as is not model and rounds_otherwise(given_as) and not rounds_otherwise(model):
        raise ModelError(f"{type(model).__name__} {_COMPILED.format('the module inside it (model._orig_mod)')}")
    given = example is not None
    whole: dict[str, str] = {}
    training = False
    for _ in range(_MOST_REPAIRS):
        traced = trace(model, whole)
        x = two_images(model, traced, example)
        try:
            return _examine(model, traced, x, given)
        except _Differs as found:
            training = found.training
            path = culprit(model, traced, x, training)
            if path is None:
                break
            whole[path] = "its graph does not compute what it does"
    if rounds_otherwise(model):
        raise ModelError(f"{type(model).__name__} {_COMPILED.format('it without model.compile()')}")
    raise ModelError(
        f"{type(model).__name__} cannot be split: in {'train' if training else 'eval'} mode its graph does not "
        "compute what the model does. Its forward depends on something that tracing does not see (the type of its "
        "input, a counter, a generator of its own); move that part into a module of its own"
    )


class _Differs(Exception):
    def __init__(self, training: bool) -> None:
        super().__init__(training)
        self.training = training


def _examine(model: nn.Module, traced: Trace, x: torch.Tensor, given: bool) -> Analysis:
    with kept_generators(), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        seed()
        graph = traced.graphs[False]
        with mode(model, False):
            expected = _ask(model, traced, x, given)
            try:
                flops, one = measure(model, graph, traced.constants, x[:1].clone())
            except Exception as error:
                raise ModelError(
                    f"{type(model).__name__}: its graph does not run on one image of shape "
                    f"{tuple(x.shape[1:])}: {error}"
                ) from error
            watch = _Watch(traced, one)
            seed()
            _check(expected, run(model, graph, traced.constants, x.clone(), watch.seen), False, x)
        overwritten = watch.overwritten
        with mode(model, True), kept_buffers(model):
            overwritten |= _train_check(model, traced, one, x)
    sizes = size_nodes(traced.nodes, one, watch.values)
    kept = points(traced.nodes, sizes, traced.common)
    if traced.graphs[True] is not graph:
        nodes = list(traced.graphs[True].nodes)
        names = {node.name for node in sizes}
        other = {p.node.name for p in points(nodes, [n for n in nodes if n.name in names], traced.common)}
        kept = [p for p in kept if p.node.name in other]
    batched = frozenset(n for n, v in one.items() if v.shape[:1] == (1,) and watch.values[n].shape == (2, *v.shape[1:]))
    with mode(model, False), kept_generators(), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        impure = purity(model, traced, x, [p.node for p in kept if p.node in batched])
    return Analysis(model, traced, x, tuple(kept), one, flops, sizes, overwritten, batched, impure)


def _train_check(model: nn.Module, traced: Trace, one: dict[fx.Node, Value], x: torch.Tensor) -> dict[fx.Node, str]:
    try:
        seed()
        # Both start from the same buffers: spectral_norm computes with those that it moves.
        with kept_buffers(model):
            expected = model(x.clone())
    except Exception:
        return {}  # the model itself cannot be trained on this example: nothing to hold the graph against
    watch = _Watch(traced, one, training=True)
    seed()
    _check(expected, run(model, traced.graphs[True], traced.constants, x.clone(), watch.seen), True, x)
    return watch.overwritten


class _Watch:
    """Looks at each place to cut whether the tensor alive there is written to later on."""

    def __init__(self, traced: Trace, one: dict[fx.Node, Value], training: bool = False) -> None:
        nodes = list(traced.graphs[training].nodes)
        numbers = [n for n, v in one.items() if v.dtype is None]
        mine = dict(zip(traced.nodes[: traced.common], nodes, strict=False))
        self.theirs = {node: original for original, node in mine.items()}
        self.at = {nodes[p.end]: p.node for p in points(nodes, [mine[n] for n in numbers if n in mine], traced.common)}
        self.values: dict[fx.Node, Value] = {}
        self.tensors: dict[fx.Node, torch.Tensor] = {}
        self.waiting: list[tuple[fx.Node, torch.Tensor, int]] = []
        self.candidates = set(self.at.values())
        self.overwritten: dict[fx.Node, str] = {}

    def seen(self, node: fx.Node, value: Any) -> None:
        self.values[node] = describe(value)
        for cut, tensor, version in self.waiting:
            if tensor._version != version:
                self.overwritten.setdefault(self.theirs[cut], node.name)
        if node in self.candidates and isinstance(value, torch.Tensor):
            self.tensors[node] = value
        point = self.at.get(node)
        if point is not None and point in self.tensors:
            alive = self.tensors.pop(point)
            # Only `alive` goes on from here: what does not share its memory can no longer be written to.
            self.waiting = [w for w in self.waiting if _shared(w[1], alive)]
            self.waiting.append((point, alive, alive._version))


def _shared(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _ask(model: nn.Module, traced: Trace, x: torch.Tensor, given: bool) -> Any:
    try:
        return model(x.clone())
    except Exception as error:
        channels = image_channels(model, traced)
        if x.ndim == 4 and x.shape[1] != channels:
            raise ModelError(
                f"{type(model).__name__} takes images of {channels} channel{'s' * (channels != 1)}, found "
                f"{x.shape[1]} (shape {tuple(x.shape[1:])}): give such an example; to extract, give as preprocess= a "
                f"function from a PIL image to a float tensor [{channels}, H, W]"
            ) from error
        hint = "of the shape that it takes" if given else "such as torch.zeros(1, 3, H, W)"
        raise ModelError(
            f"{type(model).__name__} does not run on images of shape {tuple(x.shape[1:])}: {type(error).__name__}: "
            f"{str(error).strip()[:200]}; give an example {hint}"
        ) from error


def _check(expected: Any, found: Any, training: bool, x: torch.Tensor) -> None:
    # Kernels of other devices may not give the same bits twice.
    if not alike(expected, found, exact=x.device.type == "cpu"):
        raise _Differs(training)
