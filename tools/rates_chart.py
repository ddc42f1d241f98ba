"""Panels of lines over bytes a sample, as SVG text: what `check_rates.py` draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 300, 190  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 26, 36  # around what is drawn in it
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00")  # Okabe and Ito's: they differ for colour-blind eyes too
MARKS = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True)
class Line:
    """points: (bytes, value, standard error), in order. style: which colour and mark."""

    name: str
    style: int
    points: Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Panel:
    """jpeg: bytes where the upright line stands. level: a value that a level line marks. lowest: of the values."""

    title: str
    value: str
    lines: Sequence[Line]
    jpeg: float
    level: float
    lowest: float
    highest: float


def chart(panels: Sequence[Panel], columns: int) -> str:
    """An SVG picture: panels in rows, and the legend in the first free place."""
    places = len(panels) + 1
    height, width = HEIGHT * math.ceil(places / columns), WIDTH * columns
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for place, panel in enumerate(panels):
        out += _shifted(place, columns, _panel(panel, f"inside{place}"))
    names = {line.name: line.style for panel in panels for line in panel.lines}
    out += _shifted(len(panels), columns, _legend(names))
    return "\n".join([*out, "</svg>"]) + "\n"


def _shifted(place: int, columns: int, inside: list[str]) -> list[str]:
    return [f'<g transform="translate({place % columns * WIDTH},{place // columns * HEIGHT})">', *inside, "</g>"]


def _panel(panel: Panel, clip: str) -> list[str]:
    sizes = [panel.jpeg, *(x for line in panel.lines for x, _, _ in line.points)]
    least, most = math.log(min(sizes) / 1.15), math.log(max(sizes) * 1.15)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def at(size: float) -> float:
        return LEFT + (math.log(size) - least) / (most - least) * (right - LEFT)

    def up(value: float) -> float:
        return bottom - (value - panel.lowest) / (panel.highest - panel.lowest) * (bottom - TOP)

    out = [
        f'<text x="{LEFT}" y="16" font-size="12" font-weight="bold">{escape(panel.title)}</text>',
        f'<clipPath id="{clip}"><rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}"/></clipPath>',
    ]
    for value in _steps(panel.lowest, panel.highest):
        y = up(value)
        out.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        out.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end" fill="#444">{value:.2f}</text>')
    last = -math.inf
    for size in (m * 10**e for e in range(10) for m in (1, 2, 5)):
        if least <= math.log(size) <= most and at(size) > last + 38:
            last = at(size)
            out.append(f'<line x1="{last:.1f}" y1="{bottom}" x2="{last:.1f}" y2="{bottom + 4}" stroke="#444"/>')
            out.append(f'<text x="{last:.1f}" y="{bottom + 16}" text-anchor="middle" fill="#444">{_size(size)}</text>')
    jpeg, level = at(panel.jpeg), up(panel.level)
    out += [
        f'<text x="{(LEFT + right) / 2}" y="{bottom + 30}" text-anchor="middle" fill="#444">'
        f"{escape(panel.value)} by bytes a sample</text>",
        f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" fill="none" stroke="#444"/>',
        f'<line x1="{jpeg:.1f}" y1="{TOP}" x2="{jpeg:.1f}" y2="{bottom}" stroke="#444" stroke-dasharray="5 3"/>',
        f'<line x1="{LEFT}" y1="{level:.1f}" x2="{right}" y2="{level:.1f}" stroke="#888" stroke-dasharray="1 3"/>',
        f'<g clip-path="url(#{clip})">',
    ]
    for line in panel.lines:
        colour, places = COLOURS[line.style], [(at(x), up(y)) for x, y, _ in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        for (x, y), (_, value, error) in zip(places, line.points, strict=True):
            if error:
                ends = f'y1="{up(value - error):.1f}" x2="{x:.1f}" y2="{up(value + error):.1f}"'
                out.append(f'<line x1="{x:.1f}" {ends} stroke="{colour}"/>')
            out.append(_mark(line.style, x, y))
    return [*out, "</g>"]


def _legend(names: dict[str, int]) -> list[str]:
    out = []
    for row, (name, style) in enumerate(names.items()):
        y = TOP + 14 + 20 * row
        out.append(
            f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + 30}" y2="{y}" stroke="{COLOURS[style]}" stroke-width="1.6"/>'
        )
        out.append(_mark(style, LEFT + 15, y))
        out.append(f'<text x="{LEFT + 40}" y="{y + 4}">{escape(name)}</text>')
    for row, (dashes, text) in enumerate((("5 3", "the JPEG's bytes"), ("1 3", "uncompressed")), len(names)):
        y = TOP + 14 + 20 * row
        out.append(f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + 30}" y2="{y}" stroke="#444" stroke-dasharray="{dashes}"/>')
        out.append(f'<text x="{LEFT + 40}" y="{y + 4}">{text}</text>')
    return out


def _mark(style: int, x: float, y: float) -> str:
    colour = COLOURS[style]
    if MARKS[style] == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8" fill="{colour}"/>'
    corners = {
        "square": ((-2.6, -2.6), (2.6, -2.6), (2.6, 2.6), (-2.6, 2.6)),
        "diamond": ((0, -3.6), (3.6, 0), (0, 3.6), (-3.6, 0)),
        "triangle": ((0, -3.6), (3.4, 2.6), (-3.4, 2.6)),
    }[MARKS[style]]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" fill="{colour}"/>'


def _steps(lowest: float, highest: float) -> list[float]:
    """Round values between the two, three to six of them."""
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (highest - lowest) / s <= 6)
    first = math.ceil(lowest / step - 1e-9)
    return [i * step for i in range(first, math.floor(highest / step + 1e-9) + 1)]


def _size(size: float) -> str:
    return f"{size / 1000:g} kB" if size >= 1000 else f"{size:g} B"
