"""What a module, a function or an argument is, as text and digests that are the same in every process.

No text holds an object's id, a device or a line number. Known libraries' classes and functions are known by name
alone, since versions of a library write one thing in different ways; a user's own by their code.
"""

from __future__ import annotations

import argparse
import ast
import dis
import enum
import functools
import hashlib
import inspect
import textwrap
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from fmshards.functions import is_standard
from fmshards.model.graph.leaf import reachable

_LIBRARIES = {"torch", "torchvision", "torchaudio", "timm", "transformers", "einops", "numpy"}
_BOOKKEEPING = frozenset(vars(nn.Module())) | {"_compiled_call_impl", "_fmshards_origin", "_is_hf_initialized"}
# What only training reads: a set does not become another one by it.
_OF_TRAINING = {"StochasticDepth": {"p"}, "DropPath": {"drop_prob", "scale_by_keep"}}
# What a function takes from its module's globals that is part of what it computes: a logger is not.
_HELD = (
    bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, np.ndarray, np.generic, torch.Tensor,
    types.FunctionType, functools.partial, nn.Module,
)  # fmt: skip
_PLAIN_OBJECTS = (types.SimpleNamespace, argparse.Namespace)
_DEEPEST = 40


class Contents:
    """Digests of tensors, each computed once: `text` of values, and the tensors met on the way, in order."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[torch.Tensor, bytes]] = {}

    def tensor(self, tensor: torch.Tensor) -> bytes:
        """SHA-256 of dtype, shape and values, whatever the device and the strides."""
        if id(tensor) not in self._known:
            self._known[id(tensor)] = (tensor, _tensor_digest(tensor))
        return self._known[id(tensor)][1]

    def of(self, value: Any, nodes: Mapping[fx.Node, int] | None = None) -> tuple[str, list[bytes]]:
        """A value without its tensors, as text, and the digests of these tensors in the order of the text."""
        writer = _Writer(self, nodes or {})
        return writer.text(value), writer.tensors


class _Writer:
    def __init__(self, contents: Contents, nodes: Mapping[fx.Node, int]) -> None:
        self.contents, self.nodes = contents, nodes
        self.tensors: list[bytes] = []
        self.seen: dict[int, tuple[int, Any]] = {}
        self.depth = 0

    def text(self, value: Any) -> str:
        plain = _plain(value)
        if plain is not None:
            return plain
        if isinstance(value, fx.Node):
            return f"%{self.nodes[value]}"
        if isinstance(value, torch.Tensor):
            self.tensors.append(self.contents.tensor(value))
            return "tensor"
        if isinstance(value, (np.ndarray, np.generic)):
            array = np.ascontiguousarray(value)
            return f"array {array.dtype.str} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
        if id(value) in self.seen:
            return f"again {self.seen[id(value)][0]}"
        if self.depth > _DEEPEST:
            return _name(type(value))
        self.seen[id(value)] = (len(self.seen), value)
        self.depth += 1
        try:
            return self.compound(value)
        finally:
            self.depth -= 1

    def compound(self, value: Any) -> str:
        if isinstance(value, Mapping):
            items = sorted((self.text(k), k) for k in value)
            return "{" + ", ".join(f"{text}: {self.text(value[key])}" for text, key in items) + "}"
        if isinstance(value, (set, frozenset)):
            return "{" + ", ".join(sorted(map(self.text, value))) + "}"
        if isinstance(value, (list, tuple)):
            return "(" + ", ".join(map(self.text, value)) + ")"
        if isinstance(value, slice):
            return f"slice({self.text(value.start)}, {self.text(value.stop)}, {self.text(value.step)})"
        if isinstance(value, functools.partial):
            return f"partial {self.text(value.func)} {self.text(value.args)} {self.text(value.keywords)}"
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, types.MethodType):
            return f"method {self.text(value.__func__)} of {self.text(value.__self__)}"
        if isinstance(value, types.FunctionType):
            return self.function(value)
        if isinstance(value, type):
            return _name(value)
        return self.object(value)

    def module(self, module: nn.Module) -> str:
        """Class, code where it is a user's, settings, state and children."""
        cls = type(module)
        lines = [_name(cls)]
        if not _of_library(cls):
            lines.append(self.code_of(cls))
        for name, value in sorted(_settings(module)):
            lines.append(f"{name}={self.text(value)}")
        for name, value in sorted(_state(module)):
            lines.append(f"{name}={self.text(value)}")
        for name, child in module._modules.items():
            lines.append(f"{name}: {self.text(child)}")
        return "[" + "; ".join(lines) + "]"

    def code_of(self, cls: type) -> str:
        """The code of a class that its forward may run."""
        found = [f for f in reachable(getattr(cls, "forward", None), cls) if not _of_library(f)]
        return " ".join(self.text(function) for function in sorted(found, key=lambda f: f.__qualname__))

    def function(self, function: types.FunctionType) -> str:
        if _of_library(function):
            return _name(function)
        parts = [_name(function), _code_text(function), self.text(function.__defaults__)]
        parts.append(self.text(function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                parts.append(self.text(cell.cell_contents))
            except ValueError:  # the cell is still empty
                parts.append("empty")
        for name in sorted(set(_global_names(function.__code__))):
            value = function.__globals__.get(name)
            if isinstance(value, _HELD):
                parts.append(f"{name}={self.text(value)}")
        return "<" + "; ".join(parts) + ">"

    def object(self, value: Any) -> str:
        """Any other object by its class and fields. What has none that Python sees is known by its class alone."""
        if isinstance(value, weakref.ReferenceType) or not hasattr(value, "__dict__"):
            slots = [s for c in type(value).__mro__ for s in getattr(c, "__slots__", ()) if isinstance(s, str)]
            fields = {s: getattr(value, s) for s in slots if not s.startswith("__") and hasattr(value, s)}
        else:
            fields = dict(vars(value))
        name = getattr(value, "__name__", None)
        label = _name(value) if isinstance(name, str) else _name(type(value))
        opaque = _of_library(type(value)) and not isinstance(value, _PLAIN_OBJECTS)
        return label if opaque or not fields else f"{label} {self.text(fields)}"


def _plain(value: Any) -> str | None:
    if isinstance(value, enum.Enum):
        return f"{_name(type(value))}.{value.name}"
    if isinstance(value, torch.device):
        return "device"
    if value is None or value is ... or isinstance(value, (bool, int, float, complex, str, bytes, range)):
        return repr(value)
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return str(value)
    if isinstance(value, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return str(value)
    return None


def _settings(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Plain attributes of a module that its forward may read, without caches and what each forward writes anew."""
    library = _of_library(type(module))
    written = _written(type(module))
    skipped = _BOOKKEEPING | _OF_TRAINING.get(type(module).__name__, set())
    if isinstance(module, _NormBase):
        skipped |= {"momentum"}
    if isinstance(module, _DropoutNd):
        skipped |= {"p", "inplace"}
    for name, value in vars(module).items():
        if name in skipped or name in written or "cache" in name.lower() or (library and name.startswith("_")):
            continue
        # weight_norm, spectral_norm and pruning compute this one from the others at each call.
        if any(f"{name}{end}" in module._parameters for end in ("_orig", "_g")):
            continue
        yield name, value


def _state(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Parameters and buffers of the module's own, and what else it keeps in a state_dict (packed weights)."""
    found: dict[str, Any] = {**module._parameters, **module._buffers}
    saved: dict[str, Any] = {}
    try:
        module._save_to_state_dict(saved, "", True)
    except Exception:
        saved = {}  # a state_dict of the user's own that cannot be had: parameters and buffers are there still
    for name, value in {**saved, **found}.items():
        if not name.endswith("num_batches_tracked"):
            yield name, value


def _name(value: Any) -> str:
    place = getattr(value, "__module__", None) or ""
    # A file loaded by its path has a module's name of that path: the same file elsewhere is the same code.
    place = "file" if place.startswith("fmshards_file_") or place == "__main__" else place
    return f"{place}.{getattr(value, '__qualname__', None) or getattr(value, '__name__', type(value).__name__)}"


def _of_library(value: Any) -> bool:
    module = getattr(value, "__module__", None) or "builtins"
    return module.partition(".")[0] in _LIBRARIES or is_standard(module)


def _written(cls: type) -> set[str]:
    """Attributes that the forward of `cls` writes: what it counts and keeps is no setting."""
    return (
        set()
        if _of_library(cls)
        else {
            step.argval
            for function in reachable(getattr(cls, "forward", None), cls)
            for step in dis.get_instructions(function)
            if step.opname == "STORE_ATTR"
        }
    )


def _code_text(function: types.FunctionType) -> str:
    """The function's source without comments, layout and docstrings; its byte code where there is no source."""
    if function.__name__ != "<lambda>":
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function.__code__)))
        except (OSError, TypeError, SyntaxError, ValueError):
            pass
        else:
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
            return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()
    digest = hashlib.sha256()
    pending = [function.__code__]
    while pending:
        code = pending.pop()
        digest.update(repr((code.co_code, code.co_names, code.co_varnames, code.co_freevars)).encode())
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                pending.append(constant)
            else:
                digest.update(repr(constant).encode())
    return digest.hexdigest()


def _global_names(code: types.CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname == "LOAD_GLOBAL":
            yield str(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _tensor_digest(tensor: torch.Tensor) -> bytes:
    data = tensor.detach()
    digest = hashlib.sha256(f"{str(data.dtype).removeprefix('torch.')}\0{tuple(data.shape)}\0".encode())
    if data.is_quantized:
        per_channel = data.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams)
        scales = (
            (data.q_per_channel_scales(), data.q_per_channel_zero_points())
            if per_channel
            else (torch.tensor(data.q_scale()), torch.tensor(data.q_zero_point()))
        )
        parts = [data.int_repr(), *scales]
    else:
        parts = [data.to_dense() if data.layout is not torch.strided else data]
    for part in parts:
        digest.update(raw_bytes(part))
    return digest.digest()


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The values of a strided tensor, in order."""
    data = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().flatten()
    return data.view(torch.uint8).numpy().data if data.numel() else memoryview(b"")
