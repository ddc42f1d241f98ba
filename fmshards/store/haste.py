"""Stragglers: an answer that is far later than others is asked for again, long before its time-out.

A request of an object store takes some tens of milliseconds, and one of some hundreds takes seconds or is never
answered. Chunks are used in order, so that one such holds up all of them. The first try of a read is given up early
therefore, and each further one waits twice as long, up to what a store is waited for. A second request beside the first
(hedging) would come sooner, and would take a thread for each request.

Where many answers are late it is not the request that is slow but the store: then they are waited for longer.
"""

from __future__ import annotations

from fmshards import tally

_FIRST = 2.0
"""Seconds without a byte after which the first try of a read is given up, at the beginning."""
_MANY, _SHARE = 4, 1 / 20
"""Late answers, of all since it was last doubled, after which that time is doubled."""


class Haste:
    """How long each try of a read waits for its next byte: at most `stall` seconds. One for all threads of a process:
    what they do at the same time may be counted wrong, and nothing comes of it."""

    def __init__(self, stall: float) -> None:
        self._stall, self._first = stall, min(_FIRST, stall)
        self._asked = self._late = 0
        self._next: dict[tuple[str, int], float] = {}

    def wait(self, url: str, start: int) -> float:
        """Seconds for the read of `url` from byte `start` that is about to be tried."""
        self._asked += 1
        return self._next.pop((url, start), self._first)

    def gave_up(self, url: str, reached: int, waited: float) -> None:
        """No byte came after `reached` for the seconds that `wait` said."""
        if waited >= self._stall:
            return
        tally.count("stragglers")
        self._next[url, reached] = min(2 * waited, self._stall)
        self._late += 1
        if self._late >= _MANY and self._late > _SHARE * self._asked and waited >= self._first:
            self._first = min(2 * self._first, self._stall)
            self._asked = self._late = 0
