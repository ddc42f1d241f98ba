"""One half of a model: a part of its graph as a module that shares the model's own modules and parameters."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import fx, nn

from fmshards.errors import ModelError
from fmshards.model.graph.attention import as_in_training
from fmshards.model.graph.run import attribute


class Part(nn.Module):
    """Runs a graph over the modules, parameters and buffers of a model that the graph uses, and owns these alone.

    They are the model's own objects under the model's own names: training them trains the model, and `state_dict()`
    loads into another copy of it with `strict=False`. Copies and pickles; what is copied is a model's part with
    weights of its own. Move the model to its device before it is split, or both halves after.

    graphs: the graph to run in eval mode and in train mode. shape: where given, the shape that one sample must have.
    """

    def __init__(
        self,
        model: nn.Module,
        graphs: dict[bool, fx.Graph],
        constants: dict[str, torch.Tensor],
        shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        _take_version(self, model)
        used = sorted({(n.op, str(n.target)) for g in graphs.values() for n in g.nodes if n.op in _FETCHES})
        # The shortest paths first: what lies within a module that is there already needs nothing more.
        for op, target in sorted(used, key=lambda pair: (pair[0] != "call_module", pair[1].count("."), pair[1])):
            _adopt(self, model, constants, op, target)
        ours = set(model.modules())
        for module in self.modules():
            if module not in ours:
                module.training = model.training
        code = {training: graph.python_code("self") for training, graph in graphs.items()}
        self._part_sources = {training: (c.src, _names(c.globals)) for training, c in code.items()}
        two = graphs[False] is not graphs[True]
        self._part_called = tuple(sorted({path for op, path in used if two and op == "call_module"}))
        self._part_shape = shape
        self._part_compile()

    _part_run: dict[bool, Callable[..., Any]]

    def forward(self, x: torch.Tensor) -> Any:
        """x: a batch [B, ...]; the graph's output for it. Raises ModelError where a sample's shape is another one."""
        if self._part_shape is not None and tuple(x.shape[1:]) != self._part_shape:
            raise ModelError(
                f"the suffix was made for features of shape {self._part_shape}, found {tuple(x.shape[1:])}: "
                "sizes taken before the cut are part of it; split the model again with an example of that size"
            )
        return self._part_run[self._part_training()](self, x)

    def _part_training(self) -> bool:
        """Which graph to run, where there are two: `model.train()` reaches the modules, but not this one."""
        if not self._part_called:
            return self.training
        return any(self.get_submodule(path).training for path in self._part_called)

    def _part_compile(self) -> None:
        run: dict[bool, Callable[..., Any]] = {}
        made: dict[int, Callable[..., Any]] = {}
        for training, (source, names) in self._part_sources.items():
            space = {name: _resolve(value) for name, value in names.items()}
            exec(compile(source, f"<{type(self).__name__.lower()}>", "exec"), space)
            run[training] = made.setdefault(hash(source), space["forward"])
        # Past nn.Module's bookkeeping: functions of the graph are no state.
        object.__setattr__(self, "_part_run", run)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "_part_run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        nn.Module.__setstate__(self, state)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._part_compile()


class Prefix(Part):
    """The frozen half. Its forward puts its own modules into eval mode and records no gradient, at each call.

    A module that the suffix uses too (one without weights, such as a dropout layer) is put back into the mode that
    it was in.
    """

    def __init__(
        self, model: nn.Module, graph: fx.Graph, constants: dict[str, torch.Tensor], shared: Iterable[str] = ()
    ) -> None:
        super().__init__(model, {False: graph, True: graph}, constants)
        self._part_shared = tuple(sorted(shared))
        self._part_first = _first_weight(self, graph)

    def forward(self, x: torch.Tensor) -> Any:
        """x [B, C, H, W]: the feature at the cut, or {name: feature} for several cuts.

        Floating-point images are cast to the dtype of the first weights: a model in half precision takes float32 ones.
        """
        if self._part_first is not None and x.is_floating_point():
            x = x.to(_tensor_at(self, self._part_first).dtype)
        shared = [(m, m.training) for path in self._part_shared for m in self.get_submodule(path).modules()]
        if any(m.training for m in self.modules()):
            nn.Module.train(self, False)
        recorded = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        try:
            with torch.no_grad(), as_in_training() if recorded else nullcontext():
                return super().forward(x)
        finally:
            for module, was in shared:
                module.training = was


def _first_weight(part: nn.Module, graph: fx.Graph) -> str | None:
    """The path of the first floating-point parameter or buffer that the graph uses."""
    for node in graph.nodes:
        if node.op == "call_module":
            module = part.get_submodule(str(node.target))
            held = [(f"{node.target}.{name}", t) for name, t in (*module.named_parameters(), *module.named_buffers())]
        else:
            held = [(str(node.target), _tensor_at(part, str(node.target)))] if node.op == "get_attr" else []
        for path, tensor in held:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                return path
    return None


def _tensor_at(part: nn.Module, path: str) -> Any:
    return attribute(part, {}, path)


_FETCHES = ("call_module", "get_attr")


def _take_version(ours: nn.Module, theirs: nn.Module) -> None:
    """The version that a module writes beside its state: its class decides by it how to read old files."""
    object.__setattr__(ours, "_version", theirs._version)


def _adopt(part: nn.Module, model: nn.Module, constants: dict[str, torch.Tensor], op: str, target: str) -> None:
    *path, name = target.split(".")
    owner = part
    for i, atom in enumerate(path):
        if atom not in owner._modules:
            owner.add_module(atom, nn.Module())
            _take_version(owner.get_submodule(atom), model.get_submodule(".".join(path[: i + 1])))
        child = owner._modules[atom]
        assert child is not None
        owner = child
    source: Any = model if target in constants else model.get_submodule(".".join(path))
    if owner is source:
        return  # within a module that was taken whole
    value = attribute(model, constants, target)
    if op == "call_module":
        owner.add_module(name, value)
    elif isinstance(value, nn.Parameter):
        owner.register_parameter(name, value)
    elif isinstance(value, torch.Tensor):
        kept = name in source._buffers and name not in source._non_persistent_buffers_set
        owner.register_buffer(name, value, persistent=kept)
    else:
        setattr(owner, name, value)


def _names(space: dict[str, Any]) -> dict[str, Any]:
    """The globals of generated code as data that pickles: modules by their names."""
    return {k: _Named(v.__name__) if isinstance(v, ModuleType) else v for k, v in space.items()}


def _resolve(value: Any) -> Any:
    return importlib.import_module(value.name) if isinstance(value, _Named) else value


class _Named:
    """A Python module, by its name."""

    def __init__(self, name: str) -> None:
        self.name = name
