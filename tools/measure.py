"""What the benchmarks share: sides that take turns, medians and ratios, a table."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "examples" / "data"

Row = tuple[str, str, str, str]


def machine(threads: int | None = None) -> str:
    """The CPU, its cores and the versions that figures depend on; no names of hosts or folders."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    used = "" if threads is None else f" ({threads} used)"
    return f"{model}, {os.cpu_count()} cores{used}, torch {torch.__version__}, Python {platform.python_version()}"


def in_turns(reps: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Each side's figures; every round runs each side once, and a first round is thrown away."""
    figures: list[list[float]] = [[] for _ in sides]
    for turn in range(reps + 1):
        for side, found in zip(sides, figures, strict=True):
            value = side()
            if turn:
                found.append(value)
    return figures


def speed(work: Callable[[], object], amount: float) -> Callable[[], float]:
    """A side: `amount` a second of what `work` does."""

    def run() -> float:
        began = time.perf_counter()
        work()
        return amount / (time.perf_counter() - began)

    return run


def ratio(ours: list[float], other: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(ours, other, strict=True))


def compared(what: str, unit: str, ours: list[float], other: list[float], note: str) -> Row:
    """A row: medians, and the median of the rounds' ratios."""
    return (
        what,
        f"{statistics.median(ours):,.0f} {unit}",
        f"{statistics.median(other):,.0f} {unit}: {note}",
        f"{ratio(ours, other):.2f}",
    )


def write_table(path: Path, title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown page with one table and write it."""
    lines = [" | ".join(header), " | ".join(["---"] * len(header)), *(" | ".join(row) for row in rows)]
    text = "\n".join([f"# {title}", "", note, "", *(f"| {line} |" for line in lines), ""])
    print("\n" + text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
