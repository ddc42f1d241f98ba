"""What the stream's tests share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from fmshards.errors import FmshardsError


def error_of(kind: type[FmshardsError], batches: Iterable[Any]) -> str:
    """The message of the error that reading all of `batches` ends in.

    The traceback is dropped: torch waits 5 s for each worker of an iterator that is left to the garbage collector.
    """
    message = None
    try:
        for _ in batches:
            pass
    except kind as error:
        message = str(error)
        error.__traceback__ = None
    if message is None:
        pytest.fail(f"expected {kind.__name__}")
    return message
