"""After each of these tests nothing is left behind: no thread, process, socket, file or shared memory."""

from __future__ import annotations

import gc
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.servers.fixtures import forget_clients, s3  # noqa: F401  # a fixture

_STAY = ("resource_tracker", "forkserver")
"""Processes of Python's own, one of each for a whole run."""


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    pytest.importorskip("s3fs", reason="fsspec reads s3 through s3fs")
    from fsspec.asyn import get_loop

    get_loop()  # with its thread and its sockets, which stay
    before = left()
    yield
    forget_clients()
    until = time.monotonic() + 10
    while (more := {what: sorted(found - before[what]) for what, found in left().items() if found - before[what]}) and (
        time.monotonic() < until
    ):
        gc.collect()
        time.sleep(0.1)
    forget_clients()  # also those that the last threads to end have made
    assert not more


def left() -> dict[str, set[str]]:
    """What a test may leave, by kind. fsspec's one thread stays by design, and those that look up names for it."""
    return {
        "threads": {
            str(thread.ident) for thread in threading.enumerate() if not thread.name.startswith(("fsspec", "asyncio"))
        },
        "processes": set(_children()),
        "sockets": set(_sockets()),
        "shared memory": set(_shared()),
        "files": {name for name in os.listdir(tempfile.gettempdir()) if "fmshards" in name},
    }


def _children() -> Iterator[str]:
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread or a process that has just ended
            for pid in (task / "children").read_text().split():
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
                if not any(name in command for name in _STAY):
                    yield f"{pid} {command}"


def _shared() -> Iterator[str]:
    """What this process has mapped, and what processes that are no more have left to it."""
    maps = Path("/proc/self/maps").read_text()
    for name in os.listdir("/dev/shm"):
        owner = re.match(r"torch_(\d+)_", name)
        if f"/dev/shm/{name}" in maps or (owner and not Path(f"/proc/{owner[1]}").exists()):
            yield name


def _sockets() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith("socket:"):
            yield target
