"""Signals that end a command: what a person presses, and what schedulers send before they take a machine away."""

from __future__ import annotations

import os
import signal
import time
from types import TracebackType
from typing import Any

import click

from fmshards.errors import StoppedError

_AT_ONCE = 1.0  # seconds
_ASKING = (signal.SIGTERM, signal.SIGUSR1)


class Interrupt:
    """Ctrl-C stops what runs in an orderly way. Pressed again at once it is the same wish; later it is impatience."""

    def __init__(self) -> None:
        self._first: float | None = None

    def __call__(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            raise KeyboardInterrupt
        if now - self._first > _AT_ONCE:
            os._exit(130)


class Preemption:
    """A context manager: SIGTERM and SIGUSR1 ask what runs to stop, by `self()`; what has not ended `grace` seconds
    later is ended by StoppedError, wherever it is."""

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self._asked = self._over = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether it is asked to stop."""
        return self._asked

    def __enter__(self) -> Preemption:
        for number in _ASKING:
            self._before[number] = signal.signal(number, self._ask)
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._over and isinstance(error, KeyboardInterrupt):
            raise StoppedError(
                f"stopped as asked: the shard in work was not ended within {self.grace:g} seconds (--grace) and is "
                "left to the next run; run the same again, and it goes on"
            ) from None

    def _ask(self, number: int, frame: object) -> None:
        if not self._asked:
            self._asked = True
            name = signal.Signals(number).name
            click.echo(f"{name}: no shard is begun any more; {self.grace:g} s for the one in work", err=True)
            signal.setitimer(signal.ITIMER_REAL, max(self.grace, 1e-3))

    def _end(self, number: int, frame: object) -> None:
        self._over = True
        raise KeyboardInterrupt
