"""CPU time and memory of a process and of all that it started, as Linux counts them."""

from __future__ import annotations

import os
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its descendants, also of those that ended and were waited for."""
    total = 0
    for each in family(pid):
        fields = _text(f"/proc/{each}/stat").rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / _TICK


def memory_bytes(pid: int) -> int:
    """Anonymous and shared memory of a process and of its descendants. What some of them share counts once, so the sum
    is what they take together; files that they map are the page cache's."""
    total = 0
    for each in family(pid):
        for line in _text(f"/proc/{each}/smaps_rollup").splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += 1024 * int(line.split()[1])
    return total


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for thread in _names(f"/proc/{pid}/task"):
        for child in _text(f"/proc/{pid}/task/{thread}/children").split():
            found += family(int(child))
    return found


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""  # the process has ended meanwhile
