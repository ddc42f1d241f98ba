"""Claims: who is making what, so that several processes over one set do not do the same twice.

A claim is a small object in the set's folder, `.claim-<name>`, written only if absent. Its holder writes it anew every
few seconds; one that has not changed for `LEASE` seconds, as the one who looks at it counts them, is of a process that
is no more, and is taken over. No clock is compared with another one's. Nothing depends on claims but time: where two
hold one, as after a pause longer than a lease, both make the same bytes, and the set is whole once.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fmshards import store
from fmshards.errors import StoreError
from fmshards.extraction.part import Part

_PREFIX = ".claim-"
LEASE = 60.0
"""Seconds."""
_BYTES = 1000
_EVERY = LEASE / 4


@dataclass(frozen=True)
class Claim:
    """What a claim says: whose it is, where that process runs, how often it was written, and when by its own clock
    (seconds since 1970), which only people look at. space: within what the process has that number, a boot of a machine
    and a container of it."""

    name: str
    part: str
    host: str
    space: str
    process: int
    beats: int
    at: float

    @staticmethod
    def read(url: str, name: str) -> Claim | None:
        """The claim of that name of the set at `url`; None where there is none, or what is there is none."""
        try:
            found = json.loads(store.read_small(_place(url, name), _BYTES))
            part, host, space = (found[key] for key in ("part", "host", "space"))
            process, beats, at = (found[key] for key in ("process", "beats", "at"))
        except (StoreError, ValueError, TypeError, KeyError):
            return None
        good = all(isinstance(text, str) for text in (part, host, space)) and type(at) is float
        good = good and type(process) is int and type(beats) is int
        return Claim(name, part, host, space, process, beats, at) if good else None

    @property
    def gone(self) -> bool:
        """Whether it is certain that the holder is no more: a process that would be seen here, and is not there."""
        if not self.space or self.space != _space():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False


class Claims:
    """The claims of one process on the set at `url`; a context manager, which gives them back.

    Where there is but one part nothing is claimed, and nothing is written.
    """

    def __init__(self, url: str, part: Part) -> None:
        self.url, self.part = url, part
        self._held: set[str] = set()
        self._seen: dict[str, tuple[Claim | None, float]] = {}
        self._beats = 0
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def active(self) -> bool:
        """Whether there is anybody to claim against."""
        return self.part.count > 1

    def __enter__(self) -> Claims:
        if self.active:
            self._thread = threading.Thread(target=self._beat, name="fmshards-claims", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        for name in list(self._held):
            self.give_back(name)

    def take(self, name: str) -> bool:
        """Claim what has that name; False where somebody else has it."""
        if not self.active:
            return True
        with self._lock:
            mine = store.put_if_absent(_place(self.url, name), self._claim())
            if not mine and self._is_stale(name):
                store.put(_place(self.url, name), self._claim())
                mine = True
            if mine:
                self._held.add(name)
            return mine

    def give_back(self, name: str) -> None:
        """A claim that cannot be removed runs out: what it was for is no worse for that."""
        with self._lock, suppress(StoreError):
            if name in self._held:
                self._held.discard(name)
                store.remove(_place(self.url, name))

    def _is_stale(self, name: str) -> bool:
        found = Claim.read(self.url, name)
        if found is not None and (found.part == str(self.part) or found.gone):
            return True  # of the process that was started for this part before this one, or of one that has died
        before, since = self._seen.get(name, (None, 0.0))
        now = time.monotonic()
        if name not in self._seen or found != before:
            self._seen[name] = found, now
            return False
        return now - since > LEASE

    def _claim(self) -> bytes:
        self._beats += 1
        own: dict[str, Any] = {"part": str(self.part), "host": socket.gethostname()[:200], "space": _space()}
        now = {"process": os.getpid(), "beats": self._beats, "at": time.time()}
        return json.dumps({**own, **now}).encode()

    def _beat(self) -> None:
        while not self._end.wait(_EVERY):
            for name in list(self._held):
                with self._lock, suppress(StoreError):  # the next time
                    if name in self._held:
                        store.put(_place(self.url, name), self._claim())


def claims_of(url: str) -> list[Claim]:
    """The claims on the set at `url`, as they are now."""
    found = (Claim.read(url, name) for name in _names(url))
    return [claim for claim in found if claim is not None]


def remove_claims(url: str) -> None:
    """Of a set that is whole: what killed processes left. What cannot be removed stays, and does no harm."""
    with suppress(StoreError):
        for name in _names(url):
            store.remove(_place(url, name))


def _names(url: str) -> list[str]:
    return [name.removeprefix(_PREFIX) for name in store.list_names(url) if name.startswith(_PREFIX)]


def _place(url: str, name: str) -> str:
    return store.join(url, f"{_PREFIX}{name}")


def _space() -> str:
    """ "" where it is not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as boot:
            return f"{boot.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
