"""What a function is, by its content: each part of it that can change shows, and nothing else does."""

from __future__ import annotations

import dataclasses
import enum
import functools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as V1
from torchvision.transforms import v2

from fmshards import functions
from fmshards.errors import InputError
from fmshards.functions import differ, function_digest, function_text

ROOT = Path(__file__).resolve().parents[1]
SCALE = 1.0


def digest(function: Any) -> str:
    return function_digest(function, "the function")


class Scale:
    def __init__(self, factor: Any) -> None:
        self.factor = factor

    def __call__(self, x: Any) -> Any:
        return x * self.factor

    def other(self, x: Any) -> Any:
        return x + self.factor


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor: Any) -> None:
        self.factor = factor

    def __call__(self, x: Any) -> Any:
        return x * self.factor


@dataclasses.dataclass
class Data:
    factor: Any

    def __call__(self, x: Any) -> Any:
        return x * self.factor


class Module(torch.nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([value]))

    def forward(self, x: Any) -> Any:
        return x * self.weight


class Way(enum.Enum):
    LEFT = 1
    RIGHT = 2


def closure(factor: Any) -> Callable[[Any], Any]:
    return lambda x: x * factor


def inner(factor: Any) -> Callable[[Any], Any]:
    def apply(x: Any) -> Any:
        return [y * factor for y in x]

    return lambda x: apply(x)


def default(factor: Any) -> Callable[[Any], Any]:
    return lambda x, f=factor: x * f


def keyword(factor: Any) -> Callable[[Any], Any]:
    return lambda x, *, f=factor: x * f


def uses_global(x: Any) -> Any:
    return x * SCALE


def attributed(factor: Any) -> Callable[[Any], Any]:
    def apply(x: Any) -> Any:
        return x * apply.factor  # type: ignore[attr-defined]  # an attribute of a function, as users set them

    apply.factor = factor  # type: ignore[attr-defined]  # an attribute of a function, as users set them
    return apply


def under_the_name_of_another(factor: Any) -> Callable[[Any], Any]:
    return functools.wraps(np.clip)(lambda x: x * factor)


def cached_property(text: str) -> Any:
    space: dict[str, Any] = {"__name__": "mine", "functools": functools}
    exec(f"class F:\n    @functools.cached_property\n    def factor(self):\n        return {text}", space)
    return space["F"]()


def metaclass(text: str) -> Any:
    space: dict[str, Any] = {"__name__": "mine"}
    exec(f"class M(type):\n    factor = {text}\nclass F(metaclass=M):\n    pass", space)
    return space["F"]()


def compose(mean: float) -> Any:
    return V1.Compose([V1.Resize(32), V1.ToTensor(), V1.Normalize((mean,) * 3, (0.25,) * 3)])


MAKERS: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "object": (Scale, 1.0, 2.0),
    "int against float": (Scale, 1, 1.0),
    "method": (lambda f: Scale(f).other, 1.0, 2.0),
    "slots": (Slotted, 1.0, 2.0),
    "dataclass": (Data, 1.0, 2.0),
    "closure": (closure, 1.0, 2.0),
    "closure of a closure": (inner, 1.0, 2.0),
    "default": (default, 1.0, 2.0),
    "keyword default": (keyword, 1.0, 2.0),
    "partial": (lambda f: functools.partial(max, f), 1.0, 2.0),
    "partial keywords": (lambda f: functools.partial(sorted, key=closure(f)), 1.0, 2.0),
    "cached": (lambda f: functools.lru_cache(closure(f)), 1.0, 2.0),
    "attribute of a function": (attributed, 1.0, 2.0),
    "wrapped as a library's": (under_the_name_of_another, 1.0, 2.0),
    "cached property": (cached_property, "1.0", "2.0"),
    "metaclass": (metaclass, "1.0", "2.0"),
    "array": (lambda f: Scale(np.full(3, f)), 1.0, 2.0),
    "dtype of an array": (lambda f: Scale(np.zeros(4, f)), "int32", "float32"),
    "tensor": (lambda f: Scale(torch.full((3,), f)), 1.0, 2.0),
    "nn.Module": (Module, 1.0, 2.0),
    "image": (lambda f: Scale(Image.new("L", (2, 2), f)), 1, 2),
    "enum": (Scale, Way.LEFT, Way.RIGHT),
    "set": (lambda f: Scale({"a", "b", f}), "c", "d"),
    "dict": (lambda f: Scale({"a": [1, {"b": f}]}), 1, 2),
    "torch dtype": (Scale, torch.float32, torch.float16),
    "Compose": (compose, 0.5, 0.1),
    "v2 Compose": (lambda f: v2.Compose([v2.ToImage(), v2.Normalize([f], [0.5])]), 0.5, 0.1),
    "interpolation": (lambda f: V1.Resize(8, f), V1.InterpolationMode.BILINEAR, V1.InterpolationMode.NEAREST),
    "random generator": (lambda f: Scale(np.random.default_rng(f)), 0, 1),
    "nested callables": (lambda f: Scale([closure(f), len]), 1.0, 2.0),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_state_shows_and_nothing_else(kind: str) -> None:
    make, first, second = MAKERS[kind]
    assert digest(make(first)) == digest(make(first))
    assert digest(make(first)) != digest(make(second))


def test_other_code_shows() -> None:
    versions = [
        "def f(x):\n    return x + 1",
        "def f(x):\n    return x + 2",
        "def f(x):\n    return x - 1",
        "def f(x):\n    return g(x)",
        "def f(x):\n    return h(x)",
        "def f(x):\n    return [y + 1 for y in x]",
        "def f(x):\n    return [y + 2 for y in x]",
    ]
    found = []
    for text in versions:
        space: dict[str, Any] = {"__name__": "mine", "g": abs, "h": abs}
        exec(text, space)
        found.append(digest(space["f"]))
    assert len(set(found)) == len(versions)
    space = {"__name__": "mine"}
    exec("\n\n" + versions[0], space)
    assert digest(space["f"]) == found[0]  # other lines, the same code


def test_a_global_that_it_names_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(uses_global)
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert digest(uses_global) != before
    monkeypatch.setitem(globals(), "SCALE", 1.0)
    monkeypatch.setitem(globals(), "ROOT", "elsewhere")
    assert digest(uses_global) == before


@pytest.mark.parametrize(
    "text",
    [
        "import {0}\ndef f(x):\n    return {0}.g(x)",
        "def f(x):\n    import {0}\n    return {0}.g(x)",
        "def f(x):\n    from {0} import g\n    return g(x)",
        "def f(x):\n    def inner(y):\n        from .{0} import g\n        return g(y)\n    return inner(x)",
    ],
)
@pytest.mark.parametrize("name", ["helpers_of_mine", "colorsys"])  # the standard library has one of this name too
def test_code_of_another_module_shows(text: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def found(value: int, package: str) -> str:
        folder = tmp_path / str(value) / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        where = f"{package}.{name}" if "." + "{0}" in text else name
        module = ModuleType(where)
        module.__file__ = str(folder / f"{name}.py")
        exec(f"def g(x):\n    return x + {value}", vars(module))
        monkeypatch.setitem(sys.modules, where, module)
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        space: dict[str, Any] = {"__name__": "mine", "__package__": package}
        exec(text.format(name), space)
        functions._installed.cache_clear()
        return digest(space["f"])

    try:
        assert found(1, "mine_too") != found(2, "mine_too")
    finally:
        functions._installed.cache_clear()


@pytest.mark.slow  # importing torch's compiler
def test_a_compiled_function_is_the_function() -> None:
    assert digest(torch.compile(closure(1.0))) == digest(closure(1.0)) != digest(torch.compile(closure(2.0)))


def test_a_cached_property_that_was_asked_for() -> None:
    one, other = cached_property("1.0"), cached_property("1.0")
    assert one.factor == 1.0
    assert digest(one) == digest(other)


def test_the_class_of_an_object_shows() -> None:
    def made(body: str) -> Any:
        space: dict[str, Any] = {"__name__": "mine"}
        exec(
            f"class F:\n    def __call__(self, x):\n        return self.g(x)\n    def g(self, x):\n        {body}",
            space,
        )
        return space["F"]()

    assert digest(made("return x")) == digest(made("return x")) != digest(made("return -x"))


def test_a_function_that_refers_to_itself() -> None:
    space: dict[str, Any] = {"__name__": "mine"}
    exec("def f(x):\n    return f(x - 1) if x else g(x)\ndef g(x):\n    return f(x)", space)
    assert digest(space["f"]) == digest(space["f"]) != digest(space["g"])


def generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("held", [threading.Lock(), generator(), threading.Thread()])
def test_what_cannot_be_compared_is_refused(held: Any) -> None:
    with pytest.raises(InputError, match=r'the function .*factor.*version="1"'):
        digest(Scale(held))
    assert function_text(Scale(held), "it", "mine:Scale", "7") == "mine:Scale version 7"


def test_a_lock_that_pickling_leaves_out() -> None:
    class Locked(Scale):
        def __getstate__(self) -> dict[str, Any]:
            return {"factor": self.factor}

    one, other = Locked(1.0), Locked(1.0)
    one.lock = threading.Lock()  # type: ignore[attr-defined]  # of no interest here
    assert digest(one) == digest(other) != digest(Locked(2.0))


def test_another_process_has_the_same_digest() -> None:
    code = (
        "from tests.test_functions import *\n"
        "print(*[digest(f) for f in (closure(2.5), Scale({'b', 'a', 'c'}), compose(0.5), uses_global, Module(1.0), "
        "Scale(np.random.default_rng(1)))])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1]
    assert len(set(runs[0].split())) == 6


def test_texts_that_say_whether_functions_differ() -> None:
    ours = function_text(closure(1.0), "it", "mine:f")
    assert not differ(ours, ours)
    assert differ(ours, function_text(closure(2.0), "it", "mine:f"))
    assert not differ(ours, "mine:f")  # a set of before
    assert differ(ours, "mine:g")
    assert not differ(ours, ours.rpartition(" ")[0][:-1] + "0 python3.1")  # another Python's bytecode
    assert differ(ours, ours.replace("mine:f", "mine:g").rpartition(" ")[0] + " python3.1")
    assert differ("resize(32)", "resize(16)")
    assert differ("mine:f version 1", "mine:f version 2")
