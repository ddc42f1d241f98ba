"""The public surface, and what must hold of the repository as a whole."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fmshards
from fmshards import errors
from fmshards.cli.extract import command

ROOT = Path(__file__).resolve().parent.parent
ROOMS = [path.parent for path in sorted((ROOT / "fmshards").rglob("*/__init__.py"))]


def test_public_names_are_what_they_say() -> None:
    for name in fmshards.__all__:
        assert getattr(fmshards, name) is not None
    assert set(fmshards.__all__) <= set(dir(fmshards))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = fmshards.no_such_name


@pytest.mark.parametrize("first", ["extraction", "model", "stream", "reader.inspection", "codec.report", "cli"])
def test_public_names_are_functions_and_classes_whatever_was_imported_first(first: str) -> None:
    code = (
        f"import fmshards.{first}\nimport fmshards\n"
        "wrong = [name for name in fmshards.__all__[1:] if not callable(getattr(fmshards, name))]\n"
        "assert not wrong, wrong"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("url", [None, 3, b"set", [], "", Path()])
def test_inspect_names_what_is_no_place_of_a_set(url: object) -> None:
    with pytest.raises(errors.FmshardsError, match="set"):
        fmshards.inspect(url)


@pytest.mark.parametrize("room", ROOMS, ids=[room.relative_to(ROOT / "fmshards").as_posix() for room in ROOMS])
def test_a_room_names_its_files_and_no_others(room: Path) -> None:
    files = {path.name for path in room.glob("*.py")} - {"__init__.py"}
    rooms = {f"{path.parent.name}/" for path in room.glob("*/__init__.py")}
    said = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    assert set(re.findall(r"\b\w+\.py\b|\b\w+/(?=[\s,])", said)) == files | rooms


def test_files_that_are_named_are_there() -> None:
    there = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    for path in [*(ROOT / "fmshards").rglob("*.py"), *ROOT.glob("*.md")]:
        for name in re.findall(r"\b[\w/]+\.py\b", path.read_text()):
            if name not in ("path/to/file.py", "file.py", "fmshards/codec/NAME/codec.py"):  # a user's
                assert any(f"/{known}".endswith(f"/{name}") for known in there), f"{path} names {name}"


def test_every_room_stands_in_the_architecture() -> None:
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("## The rooms")[2].partition("## Words")[0]
    top = [path for path in (ROOT / "fmshards").iterdir() if not path.name.startswith("__")]
    for path in top:
        if path.suffix == ".py" or (path / "__init__.py").exists():
            assert f"`{path.name}{'' if path.suffix else '/'}`" in table


def test_what_is_declared_is_what_an_index_wants() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.15"
    said = {line.rpartition(":: ")[2] for line in project["classifiers"] if line.startswith("Programming Language")}
    assert {"3.11", "3.12", "3.13", "3.14"} <= said
    for name in ("authors", "urls", "keywords", "license", "readme", "description"):
        assert project[name]
    # What an index lists, the README names.
    readme = (ROOT / "README.md").read_text()
    for extra in project["optional-dependencies"]:
        assert f"[{extra}]" in readme


ROOMS = sorted(path.parent for path in (ROOT / "fmshards").rglob("__init__.py"))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_a_room_names_its_files(room: Path) -> None:
    """In the first lines of its `__init__.py`; of the package itself ARCHITECTURE.md does."""
    there = {path.name for path in room.glob("*.py")} - {"__init__.py", "__main__.py"}
    if room.name == "fmshards":
        said = (ROOT / "ARCHITECTURE.md").read_text()
    else:
        said = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
        assert set(re.findall(r"\b\w+\.py\b", said)) <= there
    if len(there) > 1:  # a room of one file needs no list
        assert not {name for name in there if not re.search(rf"\b{re.escape(name)}", said)}


def test_the_readme_names_every_option_of_extract() -> None:
    readme = (ROOT / "README.md").read_text()
    options = [name for param in command.params for name in param.opts if name.startswith("--")]
    assert len(options) > 20
    assert [name for name in options if not re.search(rf"{name}\b", readme)] == []
    python_only = {"version", "drop_fields"}
    assert [name for name in python_only if f"`{name}=`" not in readme] == []


def test_errors_survive_a_worker() -> None:
    for name in dir(errors):
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, errors.FmshardsError):
            error = pickle.loads(pickle.dumps(kind("what, where, what to do")))
            assert type(error) is kind
            assert str(error) == "what, where, what to do"
