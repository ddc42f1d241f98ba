"""What a function is, as a digest: its code and everything that the code refers to, so that a changed one is seen.

A function of the user's is followed through its bytecode, defaults, closure, the globals that it names and the fields
of its object. Code of the standard library and of installed packages is known by its name, and that of packages other
than the frameworks by their version too: what is compared is the user's function, not the machine's.
"""

from __future__ import annotations

import contextlib
import dis
import enum
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import re
import sys
import sysconfig
import types
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from fmshards.errors import InputError

_FRAMEWORKS = {"torch", "torchvision", "timm", "numpy", "PIL", "fmshards"}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType, types.WrapperDescriptorType)
_NO_CONTENT = {
    "__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__", "__annotate__",
    "__annotate_func__", "__annotations_cache__", "__firstlineno__", "__static_attributes__", "__abstractmethods__",
    "_abc_impl", "__orig_bases__", "__parameters__", "__match_args__", "__dataclass_fields__", "__dataclass_params__",
    "__classdictcell__", "__hash__", "__slotnames__",
}  # fmt: skip
_DIGEST = re.compile(r"(?P<name>.*) sha256:[0-9a-f]{32} (?P<python>python\d+\.\d+)", re.DOTALL)


def function_digest(function: Any, what: str) -> str:
    """SHA-256, in hex, of what a callable is; the same in another process of the same version of Python.

    Code without line numbers and file names, defaults, closure cells, the globals that it names, the object of a
    method and its fields, `functools.partial`, nested callables, modules of torch with their state, arrays and tensors
    by their values. what: names the function in errors. Raises InputError where a part of it has no content that can be
    compared (a lock, an open file, an object of a C extension that does not pickle).
    """
    digest = _Digest(what)
    try:
        digest.add(function, "")
    except RecursionError:
        raise digest.refuse("", function, "it refers to too many things") from None
    return digest.hash.hexdigest()


def function_text(function: Any, what: str, name: str, version: str | None = None) -> str:
    """How a function stands in a set's identity: its name, and its digest or the version that the user gave it."""
    if version is not None:
        return f"{name} version {version}"
    return f"{name} sha256:{function_digest(function, what)[:32]} python{sys.version_info[0]}.{sys.version_info[1]}"


def callable_name(function: Any) -> str:
    """ "module:name" of a function, of an object that is called its class's."""
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}:{kind.__qualname__}"


def name_of(text: str) -> str:
    """The name in a text of `function_text`."""
    found = _DIGEST.fullmatch(text)
    return found["name"] if found else text


def differ(ours: str, stored: str) -> bool:
    """Whether two texts of `function_text` are those of two functions.

    Not so where they are alike but for a digest that cannot be compared, since the stored text has none (a set of an
    earlier version of fmshards) or bytecode of another Python made it: what the functions compute has to tell.
    """
    mine, theirs = _DIGEST.fullmatch(ours), _DIGEST.fullmatch(stored)
    if mine is None or ours == stored:
        return ours != stored
    if theirs is None:
        return stored != mine["name"]
    return theirs["name"] != mine["name"] or theirs["python"] == mine["python"]


class _Digest:
    """A walk over a value and what it refers to. Each object is looked at once; cycles are known by the order."""

    def __init__(self, what: str) -> None:
        self.what, self.hash = what, hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # an id is an object's own only as long as it lives

    def refuse(self, path: str, value: Any, why: str) -> InputError:
        where = f"its {path.lstrip('.')} " if path else "it "
        return InputError(
            f"{self.what} is compared by its content, and {where}({type(value).__module__}.{type(value).__qualname__}) "
            f"has none that could be: {why}; write it as text where one says the same, or name it yourself: "
            'version="1", and another text whenever it changes'
        )

    def add(self, value: Any, path: str) -> None:
        if isinstance(value, _PLAIN) and type(value) in _PLAIN:
            self._put(type(value).__name__, repr(value))
            return
        known = self._seen.setdefault(id(value), len(self._seen))
        if known < len(self._kept):
            self._put("seen", str(known))
            return
        self._kept.append(value)
        self._object(value, path)

    def _put(self, kind: str, *texts: str | bytes) -> None:
        for text in (kind, *texts):
            data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
            self.hash.update(f"{len(data)}:".encode() + data)

    def _object(self, value: Any, path: str) -> None:
        if isinstance(value, enum.Enum):
            self._put("enum", _name(type(value)), str(value.name))
            self.add(value.value, path)
        elif isinstance(value, types.FunctionType):
            compiled = vars(value).get("_torchdynamo_orig_callable")  # of torch.compile
            self._function(value, path) if compiled is None else self.add(compiled, path)
        elif isinstance(value, types.CodeType):
            self._code(value, path)
        elif isinstance(value, type):
            self._class(value, path)
        elif isinstance(value, types.ModuleType):
            self._put("module", value.__name__)
        elif isinstance(value, types.MethodType):
            self._put("method")
            self.add(value.__func__, path)
            self.add(value.__self__, f"{path}.__self__")
        elif isinstance(value, functools.partial):
            self._put("partial")
            self._each([value.func, value.args, value.keywords], path)
        elif isinstance(value, (staticmethod, classmethod)):
            self._put(type(value).__name__)
            self.add(value.__func__, path)
        elif isinstance(value, property):
            self._put("property")
            self._each([value.fget, value.fset], path)
        elif isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            self._put("builtin", _name(value))
            owner = value.__self__
            if owner is not None and not isinstance(owner, types.ModuleType):
                self.add(owner, f"{path}.__self__")
        elif isinstance(value, logging.Logger):
            self._put("logger", value.name)
        elif isinstance(value, functools.cached_property):
            self._put("cached property")
            self.add(value.func, path)
        elif isinstance(value, functools._lru_cache_wrapper):
            self._put("cached")
            self.add(value.__wrapped__, path)
        elif not self._values(value, path):
            self._fields(value, path)

    def _values(self, value: Any, path: str) -> bool:
        """Containers, arrays and other things that are their values."""
        kind = _name(type(value))
        if type(value) in (set, frozenset):
            self._put(kind, *sorted(self._apart(item, path) for item in value))
        elif type(value) in (tuple, list):
            self._put(kind, str(len(value)))
            self._each(value, path)
        elif type(value) in (dict, types.MappingProxyType):
            self._put(kind, str(len(value)))
            for key, item in value.items():
                self.add(key, path)
                self.add(item, f"{path}.{key}")
        elif isinstance(value, (bytearray, memoryview)):
            self._put(kind, bytes(value))
        elif isinstance(value, PurePath):
            self._put(kind, os.fspath(value))
        elif isinstance(value, re.Pattern):
            self._put(kind, str(value.flags))
            self.add(value.pattern, path)
        elif kind in ("torch.dtype", "torch.device", "torch.memory_format", "numpy.dtype", "numpy.ufunc"):
            self._put(kind, repr(value))
        elif kind.startswith("numpy.dtypes."):
            self._put("numpy.dtype", repr(value))
        elif _is_array(value):
            array = value.detach().cpu().contiguous() if hasattr(value, "detach") else value
            self._put(kind, str(array.dtype), str(tuple(array.shape)))
            if hasattr(array, "detach"):
                import torch

                if array.is_quantized or array.layout is not torch.strided:
                    raise self.refuse(path, value, "it is a quantised or sparse tensor")
                array = array.resolve_conj().resolve_neg().flatten().view(torch.uint8).numpy()
            elif array.dtype.hasobject:
                self._each(array.ravel().tolist(), path)
                return True
            self._put("values", array.tobytes())
        elif hasattr(value, "tobytes") and hasattr(value, "mode") and hasattr(value, "getpalette"):  # an image of PIL
            self._put("image", value.mode, str(value.size), value.tobytes(), repr(value.getpalette()))
        else:
            return False
        return True

    def _apart(self, value: Any, path: str) -> str:
        """The digest of one thing by itself, for what has no order."""
        other = _Digest(self.what)
        other.add(value, path)
        return other.hash.hexdigest()

    def _each(self, values: Iterable[Any], path: str) -> None:
        for i, value in enumerate(values):
            self.add(value, f"{path}[{i}]" if path else "")

    def _function(self, function: types.FunctionType, path: str) -> None:
        defaults = [function.__defaults__, function.__kwdefaults__]
        cells = list(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        # Where its code stands, not what it calls itself: functools.wraps gives a user's code a library's name.
        home = function.__globals__.get("__name__")
        if _installed(home):
            self._put("function", _name(function), _version(home))
        else:
            self._put("function")
            self.add(function.__code__, path)
            self._globals(function, path)
            self._imports(function, path)
        for name, value in sorted(vars(function).items()):
            self._put("attribute", name)
            self.add(value, f"{path}.{name}")
        self._each(defaults, f"{path}.__defaults__")
        for name, cell in cells:
            try:
                content = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            self._put("cell", name)
            self.add(content, f"{path}.{name}")

    def _code(self, code: types.CodeType, path: str) -> None:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        self._put("code", code.co_code, repr(counts))
        self._put("names", repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)))
        self._each(code.co_consts, path)

    def _globals(self, function: types.FunctionType, path: str) -> None:
        """The values of the globals that the code names; of a module of the user's, of the attributes it names."""
        names = sorted(_global_names(function.__code__))
        for name in names:
            if name not in function.__globals__:
                continue
            value = function.__globals__[name]
            self._put("global", name)
            self.add(value, f"{path}.{name}")
            if isinstance(value, types.ModuleType):
                self._module(value, function.__code__, f"{path}.{name}")

    def _imports(self, function: types.FunctionType, path: str) -> None:
        """The modules of the user's that the code itself imports, when it runs."""
        package = function.__globals__.get("__package__")
        for name in sorted(_imported(function.__code__, package)):
            if _installed(name):
                continue
            try:
                module = importlib.import_module(name)
            except ImportError:  # it will do without, or fail
                self._put("no module", name)
                continue
            self._put("import", name)
            self._module(module, function.__code__, f"{path}.{name}")

    def _module(self, module: types.ModuleType, code: types.CodeType, path: str) -> None:
        """The attributes of a module of the user's that the code names, and those of its submodules."""
        if _installed(module.__name__):
            return
        for name in sorted(_all_names(code)):
            if name in vars(module):
                value = vars(module)[name]
                self._put("attribute", name)
                self.add(value, f"{path}.{name}")
                if isinstance(value, types.ModuleType) and value.__name__.startswith(f"{module.__name__}."):
                    self._module(value, code, f"{path}.{name}")

    def _class(self, cls: type, path: str) -> None:
        self._put("class", _name(cls))
        if _installed(cls.__module__):
            self._put("version", _version(cls.__module__))
            return
        self._each(cls.__bases__, path)
        if type(cls) is not type and isinstance(type(cls).__module__, str):  # a metaclass, and not one of C
            self.add(type(cls), path)
        for name, value in sorted(vars(cls).items()):
            if name not in _NO_CONTENT and not isinstance(value, _DESCRIPTORS):
                self._put("attribute", name)
                self.add(value, f"{path}.{name}")

    def _fields(self, value: Any, path: str) -> None:
        """An object: its class, and its state as pickling has it, one level of it (nothing is pickled)."""
        self._put("object")
        self.add(type(value), path)
        try:
            reduced = value.__reduce_ex__(4)
        except Exception as error:  # anything may stand in the way
            raise self.refuse(path, value, str(error) or type(error).__name__) from None
        if isinstance(reduced, str):
            self._put("global", reduced)
            return
        maker, arguments, state, *items = (*reduced, None, None, None)[:5]
        self.add(maker, path)
        self._each(arguments, path)
        for part in state if isinstance(state, tuple) else (state,):  # fields, and slots beside them
            if isinstance(part, dict) and (names := [name for name in part if not _cached(value, str(name))]):
                self._put("fields")
                for name in sorted(names, key=str):
                    self._put("field", str(name))
                    self.add(part[name], f"{path}.{name}")
            elif isinstance(part, dict):
                self.add(None, path)  # as that of an object without fields
            else:
                self.add(part, path)
        for each in items:
            self._each(() if each is None else each, path)


def _cached(value: Any, name: str) -> bool:
    """Whether a field is computed from the others, and there only after it was asked for."""
    return isinstance(getattr(type(value), name, None), functools.cached_property)


def _is_array(value: Any) -> bool:
    return (
        hasattr(value, "dtype") and hasattr(value, "shape") and (hasattr(value, "tobytes") or hasattr(value, "detach"))
    )


def _name(value: Any) -> str:
    module = getattr(value, "__module__", None) or ""
    return f"{module}.{getattr(value, '__qualname__', None) or getattr(value, '__name__', type(value).__name__)}"


def _all_names(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found |= _all_names(const)
    return found


def _global_names(code: types.CodeType) -> set[str]:
    loads = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    found = {str(i.argval) for i in dis.get_instructions(code) if i.opname in loads}
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found |= _global_names(const)
    return found


def _imported(code: types.CodeType, package: str | None) -> set[str]:
    """Full names of the modules that the code imports."""
    found, steps = set(), list(dis.get_instructions(code))
    for i, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            level = steps[i - 2].argval  # the two before it load the level and the names
            relative = "." * level if isinstance(level, int) else ""
            with contextlib.suppress(ImportError, ValueError):
                found.add(importlib.util.resolve_name(relative + str(step.argval), package))
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found |= _imported(const, package)
    return found


def is_standard(module: str) -> bool:
    """Whether a module is the standard library's: by its place, since a file of the user's may bear such a name."""
    if module.partition(".")[0] not in sys.stdlib_module_names:
        return False
    file = _file(module)
    return file is None or file.startswith(f"{os.path.dirname(os.__file__)}{os.sep}")


def _file(module: str) -> str | None:
    found = sys.modules.get(module) or sys.modules.get(module.partition(".")[0])
    return getattr(found, "__file__", None)


@functools.cache
def _installed(module: str | None) -> bool:
    """Whether a module is the interpreter's or an installed package's, and not the user's own."""
    if not module:
        return False
    top = module.partition(".")[0]
    if top in _FRAMEWORKS:
        return True
    if is_standard(module):
        return True
    file = _file(module)
    if file is None:
        return False
    homes = {sysconfig.get_path(key) for key in ("purelib", "platlib")}
    parts = PurePath(file).parts
    return (
        "site-packages" in parts
        or "dist-packages" in parts
        or any(file.startswith(f"{home}{os.sep}") for home in homes)
    )


@functools.cache
def _version(module: str) -> str:
    """The version of an installed package; nothing for the frameworks, whose versions a set's provenance keeps."""
    top = module.partition(".")[0]
    if top in _FRAMEWORKS or top in sys.stdlib_module_names:
        return ""
    try:
        return importlib.metadata.version(top)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(top), "__version__", ""))
