"""The figures of `bench_stream.py`, its page and its chart."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from measure import table

COLOURS = {"fmshards": "#0072b2", "other": "#9a9a9a"}
ROW, BAR, LABEL, WIDTH, TOP = 18, 12, 190, 330, 26  # pixels of the chart


@dataclass
class Figures:
    """found[f"{link:g}/{workers}/{side}"]: each round's answer of `stream_peers.measure`, the first one, which is not
    counted but for its memory, among them. links: MB/s, 0 for the local disk. held: `bench_stream.Held`."""

    sides: list[str]
    workers: list[int]
    store_workers: list[int]
    links: list[float]
    held: Any
    found: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def workers_at(self, link: float) -> list[int]:
        """The numbers of workers that are measured there."""
        return self.store_workers if link else self.workers

    def add(self, link: float, workers: int, side: str, turn: int, found: dict[str, Any]) -> None:
        self.found.setdefault(f"{link:g}/{workers}/{side}", []).append({"round": turn, **found})

    def of(self, link: float, workers: int, side: str, value: Callable[[dict[str, Any]], float]) -> list[float]:
        """A value of each round that counts and did not fail."""
        answers = self.found[f"{link:g}/{workers}/{side}"]
        return [value(each) for each in answers if each["round"] and "error" not in each]

    def failed(self, link: float, workers: int, side: str) -> list[str]:
        return [each["error"] for each in self.found[f"{link:g}/{workers}/{side}"] if "error" in each]

    def memory(self, workers: int, side: str) -> float | None:
        """MB that a loader of the local copy took at its peak."""
        answers = self.found[f"0/{workers}/{side}"]
        return next((each["memory"] / 1e6 for each in answers if "memory" in each), None)


def rate(found: dict[str, Any]) -> float:
    return float(found["samples"] / found["seconds"])


def cpu(found: dict[str, Any]) -> float:
    """CPU seconds of a thousand samples."""
    return float(1000 * found["cpu"] / found["samples"])


def page(figures: Figures, note: str, picture: str) -> list[str]:
    """The lines of the page."""
    lines = ["# tools/bench_stream.py", "", note, "", f"![samples a second]({picture})", ""]
    lines += ["## What each holds", "", *table(("side", "bytes a sample", "error, dB"), _held(figures)), ""]
    lines += [
        "## From a warm local disk",
        "",
        "Samples/s, the quartiles in brackets; a first epoch is not counted.",
        "",
    ]
    lines += [*_matrix(figures, 0.0, rate, "{:,.0f}"), ""]
    lines += [
        "CPU seconds a thousand samples, of all processes:",
        "",
        *_matrix(figures, 0.0, cpu, "{:.3f}"),
        "",
    ]
    lines += ["Milliseconds from making the loader to its first batch:", ""]
    lines += [*_matrix(figures, 0.0, lambda found: 1000 * float(found["first"]), "{:,.0f}"), ""]
    lines += ["MB of memory at the peak, beyond what the process with its packages has:", "", *_memory(figures), ""]
    for link in filter(None, figures.links):
        lines += [
            f"## From a store behind {link:g} MB/s",
            "",
            "Samples/s of one epoch, the loader's start included.",
            "",
        ]
        lines += [*_matrix(figures, link, rate, "{:,.0f}"), ""]
    lines += ["## Side by side", "", *_verdicts(figures), ""]
    failures = list(_failures(figures))
    return lines + (["## What failed", "", *failures] if failures else [])


def _held(figures: Figures) -> Iterator[Sequence[str]]:
    for side in figures.sides:
        decibels = figures.held.decibels[side]
        yield side, f"{figures.held.bytes[side]:,.0f}", "as fp16" if decibels is None else f"{decibels:.1f}"


def _matrix(figures: Figures, link: float, value: Callable[[dict[str, Any]], float], form: str) -> list[str]:
    rows = []
    for side in figures.sides:
        cells = [_cell(figures.of(link, workers, side, value), form) for workers in figures.workers_at(link)]
        rows.append([side, *cells])
    return table(("side", *(f"{workers} workers" for workers in figures.workers_at(link))), rows)


def _cell(values: Sequence[float], form: str) -> str:
    if not values:
        return "failed"
    low, middle, high = quartiles(values)
    return f"{form.format(middle)} ({form.format(low)} to {form.format(high)})"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile; of one value, three times it."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _memory(figures: Figures) -> list[str]:
    rows = []
    for side in figures.sides:
        found = [figures.memory(workers, side) for workers in figures.workers]
        rows.append([side, *("failed" if value is None else f"{value:,.0f}" for value in found)])
    return table(("side", *(f"{workers} workers" for workers in figures.workers)), rows)


def _verdicts(figures: Figures) -> list[str]:
    """fmshards' sides, not augmented, against the fastest peer that holds fp16, and that holds the same bytes."""
    own = [side for side in figures.sides if side.startswith("fmshards ") and "," not in side]
    peers = [side for side in figures.sides if not side.startswith("fmshards ")]
    rows = []
    for side in own:
        held = figures.held.bytes[side]
        for title, chosen in (
            ("fp16", [peer for peer in peers if figures.held.decibels[peer] is None]),
            ("the same bytes", [peer for peer in peers if 0.8 < figures.held.bytes[peer] / held < 1.2]),
        ):
            if not chosen:
                continue
            for link in figures.links:
                cells = [
                    _against(figures, link, count, side, chosen) if count in figures.workers_at(link) else ""
                    for count in figures.workers
                ]
                rows.append([side, f"fastest peer with {title}", f"{link:g} MB/s" if link else "local", *cells])
    header = ("side", "beside", "from", *(f"{workers} workers" for workers in figures.workers))
    return ["Times the samples/s of the fastest peer, by medians:", "", *table(header, rows)]


def _against(figures: Figures, link: float, workers: int, side: str, peers: Sequence[str]) -> str:
    ours = figures.of(link, workers, side, rate)
    found = {peer: figures.of(link, workers, peer, rate) for peer in peers}
    medians = {peer: statistics.median(values) for peer, values in found.items() if values}
    if not ours or not medians:
        return "failed"
    best = max(medians, key=lambda peer: medians[peer])
    return f"{statistics.median(ours) / medians[best]:.2f} ({best})"


def _failures(figures: Figures) -> Iterator[str]:
    for link in figures.links:
        for workers in figures.workers_at(link):
            for side in figures.sides:
                errors = figures.failed(link, workers, side)
                if errors:
                    rounds = len(figures.found[f"{link:g}/{workers}/{side}"])
                    where = f"{link:g} MB/s" if link else "local"
                    yield f"- {side}, {where}, {workers} workers: {len(errors)} of {rounds} rounds: `{errors[0]}`"


def chart(figures: Figures) -> str:
    """Bars of samples/s, a panel for each link, as SVG text: medians of the best number of workers, quartiles as
    lines."""
    height = TOP + ROW * len(figures.sides) + 16
    width = LABEL + WIDTH + 90
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * width}" height="{height * -(-len(figures.links) // 2)}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for place, link in enumerate(figures.links):
        out.append(f'<g transform="translate({place % 2 * width},{place // 2 * height})">')
        out += _panel(figures, link)
        out.append("</g>")
    return "\n".join([*out, "</svg>"]) + "\n"


def _panel(figures: Figures, link: float) -> Iterator[str]:
    where = f"a store behind {link:g} MB/s" if link else "a warm local disk"
    yield f'<text x="8" y="16" font-size="12" font-weight="bold">Samples/s from {where}, best number of workers</text>'
    best = {}
    for side in figures.sides:
        found = [figures.of(link, workers, side, rate) for workers in figures.workers_at(link)]
        best[side] = max((quartiles(values) for values in found if values), key=lambda each: each[1], default=None)
    most = max((each[2] for each in best.values() if each), default=1.0)
    for row, (side, each) in enumerate(best.items()):
        y = TOP + ROW * row
        yield f'<text x="{LABEL - 6}" y="{y + 10}" text-anchor="end">{escape(side)}</text>'
        if each is None:
            yield f'<text x="{LABEL + 4}" y="{y + 10}" fill="#888">failed</text>'
            continue
        low, middle, high = (value / most * WIDTH for value in each)
        colour = COLOURS["fmshards" if side.startswith("fmshards") else "other"]
        yield f'<rect x="{LABEL}" y="{y}" width="{middle:.1f}" height="{BAR}" fill="{colour}"/>'
        ends = f'x1="{LABEL + low:.1f}" x2="{LABEL + high:.1f}"'
        yield f'<line {ends} y1="{y + BAR / 2}" y2="{y + BAR / 2}" stroke="#222"/>'
        yield f'<text x="{LABEL + high + 5:.1f}" y="{y + 10}" fill="#444">{each[1]:,.0f}</text>'
