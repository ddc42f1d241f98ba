"""Compiled kernels: numba functions of one signature each, compiled at first use and kept on disk.

numba's own disk cache numbers the versions of a function that it keeps: processes that start at once on machines of
different kinds over one home folder can take the same number and then load each other's machine code. Here the folder
is named after numba, Python, the CPU and its features, a file after the kernel and the sources that it is made from,
wherever they stand, and a function has one signature, so that whoever writes a file writes what the others would; it
appears whole or not at all, and its checksum is looked at before it is loaded. Where nothing can be written, each
process compiles for itself.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = "FMSHARDS_CACHE_DIR"
"""The environment variable that names another folder for compiled kernels."""


@lru_cache(maxsize=1)
def missing() -> str | None:
    """Why kernels cannot be compiled here; None where they can."""
    try:
        importlib.import_module("numba")
    except Exception as error:  # a numba that does not fit this numpy or Python raises what it likes
        return f"numba cannot be imported: {type(error).__name__}: {error}"
    return None


def inner(function: F) -> F:
    """A function that kernels call; compiled into each of them. Only to be called where `missing()` is None."""
    if missing():
        return function
    import numba

    compiled: F = numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)
    return compiled


def called(function: F) -> F:
    """As `inner`, of a function that is large and called at several places: compiled once for all of them."""
    if missing():
        return function
    import numba

    compiled: F = numba.njit(nogil=True, error_model="numpy")(function)
    return compiled


class Kernel:
    """A function compiled for one signature at its first call. It releases the GIL. See `kernel`."""

    def __init__(self, function: Callable[..., Any], signature: str, variant: str) -> None:
        self.name = ".".join(filter(None, [function.__module__, function.__qualname__, variant]))
        self.seconds: float | None = None
        """How long loading or compiling took; None before the first call."""
        self.loaded = False
        """Whether it came from the disk."""
        self._function, self._signature = function, signature
        self._lock = threading.Lock()
        self._call: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        call = self._call or self.compile()
        return call(*arguments)

    def compile(self) -> Callable[..., Any]:
        """Load or compile; the second and later calls return at once. Safe from several threads."""
        with self._lock:
            if self._call is None:
                began = time.perf_counter()
                self._call = self._compiled()
                self.seconds = time.perf_counter() - began
            return self._call

    def _compiled(self) -> Callable[..., Any]:
        import numba

        dispatcher = numba.njit(nogil=True, error_model="numpy")(self._function)
        folder = cache_folder()
        if folder is not None:
            disk = _Disk(folder / f"{self.name}-{_digest_of_sources(self._function.__module__)}.bin")
            dispatcher._cache = disk
            dispatcher.compile(self._signature)
            self.loaded = disk.hit
        else:
            dispatcher.compile(self._signature)
        dispatcher.disable_compile()
        compiled: Callable[..., Any] = dispatcher
        return compiled


def kernel(signature: str, variant: str = "") -> Callable[[Callable[..., Any]], Kernel]:
    """Decorate a module-level function with its one signature in numba's words, such as "void(u1[::1], i8)".

    variant: what else decides the code besides the machine and the sources, such as a choice of the user's.
    """
    return lambda function: Kernel(function, signature, variant)


class _Disk:
    """What numba asks of a cache, for a function of one signature in one file: a SHA-256, then numba's own pickle."""

    def __init__(self, path: Path) -> None:
        self.path, self.hit = path, False

    def load_overload(self, signature: Any, target: Any) -> Any:
        import pickle

        from numba.core.compiler import CompileResult

        target.refresh()
        try:
            data = self.path.read_bytes()
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                return None
            # Our own file, in a folder that only this user can write to (`cache_folder`).
            found = CompileResult._rebuild(target, *pickle.loads(data[32:]))
        except Exception:  # whatever is wrong with it: it is compiled anew
            return None
        self.hit = True
        return found

    def save_overload(self, signature: Any, result: Any) -> None:
        from numba.core.serialize import dumps

        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.{threading.get_ident()}.part")
        try:
            data = dumps(result._reduce())
            part.write_bytes(hashlib.sha256(data).digest() + data)
            os.replace(part, self.path)
        except Exception:  # a full or read-only disk costs time, nothing else
            part.unlink(missing_ok=True)

    def enable(self) -> None: ...
    def disable(self) -> None: ...
    def flush(self) -> None: ...


@lru_cache(maxsize=1)
def cache_folder() -> Path | None:
    """Where compiled kernels are kept: $FMSHARDS_CACHE_DIR, the user's cache folder, or one under the temporary folder.

    The first of these that can be written, is this user's own and that nobody else can write to. None where there is
    no such folder.
    """
    import numba

    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    candidates = [
        Path(os.environ.get(FOLDER) or Path(base) / "fmshards"),
        Path(tempfile.gettempdir()) / f"fmshards-{_user()}",
    ]
    for candidate in candidates:
        folder = candidate / f"kernels-{_digest(numba.__version__)}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in (candidate, folder):
                state = part.stat()
                if _user() not in (state.st_uid, -1) or state.st_mode & 0o022:
                    raise PermissionError(part)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    return None


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else -1


def _digest(numba_version: str) -> str:
    """What compiled code depends on besides its sources, in 16 hexadecimal digits."""
    import llvmlite.binding as llvm

    told = [numba_version, sys.version, platform.machine(), llvm.get_host_cpu_name()]
    told += sorted(name for name, on in llvm.get_host_cpu_features().items() if on)
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


@lru_cache(maxsize=256)
def _digest_of_sources(module: str) -> str:
    """The sources of a module and of all that it imports from its own package and this one, in 16 digits."""
    packages = {name.partition(".")[0] for name in (module, __name__)}
    found: dict[str, bytes] = {}
    left = [module]
    while left:
        name = left.pop()
        if name not in found and name.partition(".")[0] in packages:
            found[name], imported = _digest_and_imported(name)
            left += imported
    digest = hashlib.sha256()
    for name in sorted(name for name, of_source in found.items() if of_source):
        digest.update(found[name])
    return digest.hexdigest()[:16]


@lru_cache(maxsize=4096)
def _digest_and_imported(module: str) -> tuple[bytes, tuple[str, ...]]:
    """The digest of a module's source, empty for what is no module, and the names that it imports."""
    path = _source(module)
    if path is None:
        return b"", ()
    source = Path(path).read_bytes()
    return hashlib.sha256(source).digest(), tuple(_imported(source, module, path.endswith("__init__.py")))


def _source(module: str) -> str | None:
    """The file of a module; None for what is none, such as a function's name.

    Looked for where its package lies: `find_spec` of a module within a package would import that package first.
    """
    if module == "__main__":
        path = getattr(sys.modules[module], "__file__", None)
        return path if path is not None and path.endswith(".py") else None
    top, *parts = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not parts:
        return spec.origin if spec.origin is not None and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder, *parts)
        for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if path.is_file():
                return str(path)
    return None


def _imported(source: bytes, module: str, is_package: bool) -> list[str]:
    """The names that a module imports: of modules, and of what may be one in a package."""
    names = []
    for node in _statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level + is_package or None] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements of a source, whatever they stand in; expressions, most of a tree, hold none."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, name, None)
            if isinstance(inner, list):
                left += inner
