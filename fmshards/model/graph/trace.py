"""One graph of a model's forward, true in train and in eval mode.

The model is traced in both modes. Whatever a graph cannot hold (a branch on `training` or on data, a random number
drawn while tracing, a `no_grad` block) is found, and the module that does it is kept whole and run as it is; the
trace starts again with that module as a leaf. What the model itself does in its own forward cannot be kept whole:
there, a branch on `training` gives two graphs, and the rest is refused.
"""

from __future__ import annotations

import inspect
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fmshards.errors import ModelError
from fmshards.model.graph.compare import Recorded, common_nodes, decides
from fmshards.model.graph.leaf import is_leaf
from fmshards.model.graph.modes import ambient, generator_states, kept_generators, mode
from fmshards.model.graph.state_proxy import StateProxy

_MOST_TRACES = 500


@dataclass(frozen=True)
class Trace:
    """A model's forward as graphs.

    graphs: {False: the graph in eval mode, True: in train mode}; the same object where they do not differ.
    common: the number of first nodes that both graphs have in common, but for arguments that are no tensors.
    alike: the number of first nodes that are alike in both graphs in every argument.
    outputs: node name -> paths of the modules whose output it is, the outermost first; only of modules called once.
    returns: module path -> name of the node that it returns, its own or its input; of modules called once.
    constants: tensors that the forward made from nothing, by their get_attr target.
    opaque: paths of the modules that had to be kept whole, and why.
    """

    graphs: dict[bool, fx.Graph]
    common: int
    alike: int
    outputs: dict[str, tuple[str, ...]]
    returns: dict[str, str]
    constants: dict[str, torch.Tensor]
    opaque: dict[str, str]

    @property
    def nodes(self) -> list[fx.Node]:
        return list(self.graphs[False].nodes)


def trace(model: nn.Module, whole: dict[str, str] | None = None) -> Trace:
    """Trace `model`, whose forward takes one batch. Its modes, buffers and the generators stay as they are.

    whole: paths of modules to keep whole from the start, and why.
    Raises ModelError where the model's own forward cannot be a graph.
    """
    defaults = _defaults(model)
    opaque = dict(whole or {})
    with kept_generators(), torch.enable_grad():
        for _ in range(_MOST_TRACES):
            try:
                evaluated = _once(model, False, opaque, defaults)
                trained = _once(model, True, opaque, defaults)
                where = decides(evaluated, trained)
                if where == "":
                    _refuse_chance(trained, _once(model, True, opaque, defaults), model)
            except _KeepWhole as found:
                opaque[found.path] = found.reason
                continue
            if where:
                opaque[where] = "it does one thing in train mode and another in eval mode"
                continue
            return _finish(evaluated, trained, opaque)
    raise ModelError(
        f"{type(model).__name__} cannot be traced: {len(opaque)} modules were kept whole, and still it differs"
    )


class _KeepWhole(Exception):
    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path)
        self.path, self.reason = path, reason


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, opaque: dict[str, str]) -> None:
        super().__init__(autowrap_functions=_library_wraps())
        self.opaque = opaque
        self.events: list[tuple[str, Any]] = []
        self.outputs: dict[fx.Node, list[str]] = {}
        self.calls: dict[str, int] = {}
        self.stack: list[tuple[str, tuple[Any, ...]]] = [("", ambient())]
        self.failed: str | None = None
        self.made: dict[fx.Node, int] = {}
        self.state: dict[int, str] = {}
        self.returns: dict[str, str] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.opaque or is_leaf(m)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if ambient() != self.stack[0][1]:
            entered = [path for path, at_entry in self.stack if at_entry == self.stack[0][1]]
            self._keep_whole(entered[-1], "it computes under no_grad, autocast or another context")
        node = super().create_node(*args, **kwargs)
        self.made[node] = len(self.made)
        self.events.append(("node", node))
        return node

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        self.calls[path] = self.calls.get(path, 0) + 1
        if self.is_leaf_module(m, path):
            return self._named(path, super().call_module(m, forward, args, kwargs), 0)
        before, drawn = len(self.made), generator_states()
        self.events.append(("enter", path))
        self.stack.append((path, ambient()))
        try:
            result = super().call_module(m, forward, args, kwargs)
        except _KeepWhole:
            raise
        except Exception as error:
            raise _KeepWhole(path, _reason(error)) from error
        self.stack.pop()
        self.events.append(("exit", path))
        if generator_states() != drawn:
            self._keep_whole(path, "it draws random numbers that a graph would hold for good")
        return self._named(path, result, before)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        # fx's own looks through all parameters at each access, and takes a buffer for a parameter.
        if not isinstance(attr_val, torch.Tensor):
            return attr_val
        if not self.state:
            self.state = {id(t): n for n, t in (*self.root.named_buffers(), *self.root.named_parameters())}
        name = self.state.get(id(attr_val))
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy(
                "get_attr", name, (), {}, proxy_factory_fn=lambda node: StateProxy(node, self, attr_val)
            )
        return parameter_proxy_cache[name]

    def _named(self, path: str, result: Any, before: int) -> Any:
        if isinstance(result, fx.Proxy):
            self.returns[path] = result.node.name
        # A module that gives back its input has no output of its own.
        if isinstance(result, fx.Proxy) and self.made[result.node] >= before:
            self.outputs.setdefault(result.node, []).append(path)
        return result

    def _keep_whole(self, path: str, reason: str) -> None:
        if not path:
            raise ModelError(
                f"{type(self.root).__name__} cannot be split for its own forward, not a submodule's: {reason}; "
                "move that part of the forward into a module of its own"
            )
        raise _KeepWhole(path, reason)


def _once(model: nn.Module, training: bool, opaque: dict[str, str], defaults: dict[str, Any]) -> Recorded:
    tracer = _Tracer(opaque)
    attributes = set(vars(model))
    drawn = generator_states()
    try:
        with mode(model, training), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = tracer.trace(model, defaults)
        if generator_states() != drawn:
            tracer._keep_whole("", "it draws random numbers that a graph would hold for good")
    except (_KeepWhole, ModelError):
        raise
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} does not trace: {_reason(error)}. A model is split along the graph of its "
            "forward, which must not depend on the data (no `if` on a tensor's values or sizes, no loop over a tensor) "
            "outside its submodules; move that part into a module of its own"
        ) from error
    finally:
        # fx stores tensors that the forward made from nothing on the model: they are no part of it.
        made = {name: vars(model).pop(name) for name in set(vars(model)) - attributes}
    recorded = Recorded(graph, tracer.events, tracer.outputs, tracer.calls, tracer.returns, made)
    _bind_defaults(recorded)
    return recorded


def _library_wraps() -> tuple[Callable[..., Any], ...]:
    """Functions that timm asks tracers to keep whole."""
    import sys

    layers = sys.modules.get("timm.layers")
    get = getattr(layers, "get_notrace_functions", None)
    return tuple(get()) if get is not None else ()


def _defaults(model: nn.Module) -> dict[str, Any]:
    """The defaulted arguments of the forward, bound to their defaults. Raises ModelError where it needs two inputs."""
    if "forward" in vars(model):
        raise ModelError(
            f"{type(model).__name__} cannot be traced: its forward was replaced on the object; replace it on the class"
        )
    parameters = list(inspect.signature(type(model).forward).parameters.values())[1:]
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    needed = [p.name for p in named[1:] if p.default is p.empty]
    if needed or not parameters:
        raise ModelError(
            f"{type(model).__name__} cannot be split: its forward must take one batch of images; it takes "
            f"{', '.join(p.name for p in parameters) or 'nothing'}"
        )
    return {p.name: p.default for p in named[1:]}


def _bind_defaults(recorded: Recorded) -> None:
    """Take out the placeholders of the defaulted arguments, and the assertions that fx makes about them."""
    holders = [n for n in recorded.graph.nodes if n.op == "placeholder"][1:]
    for holder in holders:
        found, pending = set(), [holder]
        while pending:
            node = pending.pop()
            found.add(node)
            pending += [u for u in node.users if u not in found]
        for node in reversed(list(recorded.graph.nodes)):
            if node not in found:
                continue
            if node.op == "output":
                raise ModelError(f"the forward uses its argument {holder.target!s}, which has no default value")
            recorded.graph.erase_node(node)
        recorded.events[:] = [e for e in recorded.events if not (e[0] == "node" and e[1] in found)]


def _refuse_chance(a: Recorded, b: Recorded, model: nn.Module) -> None:
    where = decides(a, b)
    if where is None:
        return
    if where:
        raise _KeepWhole(where, "it does not do the same twice")
    raise ModelError(
        f"{type(model).__name__} cannot be split: its own forward does not do the same twice (chance or a counter "
        "decides); move that part of the forward into a module of its own"
    )


def _finish(evaluated: Recorded, trained: Recorded, opaque: dict[str, str]) -> Trace:
    if decides(evaluated, trained) is None:
        constants = evaluated.constants
        graphs = {False: evaluated.graph, True: evaluated.graph}
        common = alike = len(evaluated.graph.nodes)
    else:
        graphs = {False: evaluated.graph, True: trained.graph}
        alike = common_nodes(evaluated, trained, strict=True)
        constants = {**evaluated.constants, **_own_constants(trained)}
        common = common_nodes(evaluated, trained, strict=False)
    outputs = {
        node.name: tuple(p for p in reversed(paths) if evaluated.calls[p] == 1)
        for node, paths in evaluated.outputs.items()
    }
    outputs = {name: paths for name, paths in outputs.items() if paths}
    returns = {path: name for path, name in evaluated.returns.items() if evaluated.calls[path] == 1}
    return Trace(graphs, common, alike, outputs, returns, constants, dict(opaque))


def _own_constants(trained: Recorded) -> dict[str, torch.Tensor]:
    """The constants of a second graph, under names that the first one does not use."""
    names = {name: f"{name}_train" for name in trained.constants}
    for node in trained.graph.nodes:
        if node.op == "get_attr" and node.target in names:
            node.target = names[node.target]
    return {names[name]: value for name, value in trained.constants.items()}


def _reason(error: BaseException) -> str:
    """What went wrong, and the last line of code outside torch where it did."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename and f.filename != __file__
    ]
    where = (
        f" ({frames[-1].filename.rsplit('/', 1)[-1]}, line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
    )
    return f"{type(error).__name__}: {first[:200]}{where}"
