"""The public surface, and what must hold of the repository as a whole."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import fmshards
from fmshards import errors


def test_public_names_are_what_they_say() -> None:
    for name in fmshards.__all__:
        assert getattr(fmshards, name) is not None
    assert set(fmshards.__all__) <= set(dir(fmshards))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = fmshards.no_such_name


@pytest.mark.parametrize("first", ["import fmshards.extraction", "from fmshards.extraction import extract", "pass"])
def test_extract_is_callable_whatever_was_imported_first(first: str) -> None:
    code = f"{first}\nimport fmshards\nassert callable(fmshards.extraction)\nfrom fmshards.extraction import extract"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_errors_survive_a_worker() -> None:
    for name in dir(errors):
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, errors.FmshardsError):
            error = pickle.loads(pickle.dumps(kind("what, where, what to do")))
            assert type(error) is kind
            assert str(error) == "what, where, what to do"
