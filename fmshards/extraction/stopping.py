"""Ending an extraction before it is done, as it is asked to; and waiting for other processes, not deaf to that."""

from __future__ import annotations

import time
from collections.abc import Callable

_POLL = 1.0  # seconds between two looks at what others do
_LOOK = 0.1


def never() -> bool:
    """Nobody asks this extraction to stop."""
    return False


def wait(stop: Callable[[], bool]) -> None:
    """A moment, or until `stop` says True."""
    until = time.monotonic() + _POLL
    while time.monotonic() < until and not stop():
        time.sleep(_LOOK)
