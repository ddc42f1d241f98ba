"""Whatever is given for an argument of a public function: it is taken, or an error of ours says what was expected."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fmshards
from fmshards.errors import FmshardsError
from fmshards.model import load_model

FIXTURES = Path(__file__).resolve().parent / "fixtures"
SET = str(FIXTURES / "set-mirror")
MODEL = f"{FIXTURES}/whole_numbers.py:net"


class Thing:
    """What no argument is."""


WRONG = (
    Thing(),
    -7,
    1,  # a number of an open file, too
    2.5,
    float("nan"),
    b"\xff",
    "no such thing",
    [3.5],
    ["a", None],
    {"a": 1},
    torch.zeros(2),
    lambda: 0,
)


def calls(tmp_path: Path) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Each public function, and arguments that are right."""
    example = torch.zeros(1, 3, 16, 16)
    return {
        "cuts": (fmshards.cuts, {"model": load_model(MODEL), "example": example}),
        "split": (fmshards.split, {"model": load_model(MODEL), "cut": "1", "example": example}),
        "extract": (
            fmshards.extract,
            {
                "source": str(FIXTURES / "images-1.tar"),
                "out": str(tmp_path / "set"),
                "model": MODEL,
                "layers": {"1": 4},
                "calibration": 4,
                "overwrite": True,
            },
        ),
        "plan": (
            fmshards.plan,
            {"source": str(FIXTURES / "images-1.tar"), "model": MODEL, "layers": ["1"], "samples": 2, "recipe": "none"},
        ),
        "verify": (fmshards.verify, {"url": SET, "model": MODEL, "source": str(FIXTURES / "images-{0,1}.tar")}),
        "inspect": (fmshards.inspect, {"url": SET}),
        "loader": (fmshards.loader, {"url": SET, "batch_size": 4, "num_workers": 0}),
        "FeatureDataset": (fmshards.FeatureDataset, {"url": SET, "batch_size": 4}),
        "open_shards": (fmshards.open_shards, {"url": SET}),
        "decode_chunks": (fmshards.decode_chunks, {}),
    }


def arguments() -> list[tuple[str, str]]:
    found = []
    for name, (function, _) in calls(Path()).items():
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                found.append((name, parameter.name))
    return found


@pytest.mark.parametrize(("name", "argument"), arguments())
def test_an_argument_of_a_wrong_kind_is_named(
    name: str, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # what is taken for a path is written here
    function, right = calls(tmp_path)[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for value in WRONG:
            try:
                function(**{**right, argument: value})
            except FmshardsError:
                pass
            except Exception as error:
                pytest.fail(f"{name}({argument}={value!r}) raises {type(error).__name__}: {error}")
        with pytest.raises(FmshardsError, match=rf"Thing|\b{argument}\b"):
            function(**{**right, argument: Thing()})


def test_right_arguments_are_taken(tmp_path: Path) -> None:
    for function, right in calls(tmp_path).values():
        function(**right)


def test_a_set_is_named_by_text_or_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FIXTURES)
    for function, right in calls(tmp_path).values():
        if "url" in right:
            function(**{name: value for name, value in right.items() if name != "url"}, url=Path("set-mirror"))
