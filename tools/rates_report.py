"""What `check_rates.py` found, as a page and as a chart."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from measure import table
from rates_chart import Line, Panel, chart
from rates_nets import Net

from fmshards.codec import codec_name

Found = dict[str, Any]
Measured = Sequence[tuple[Net, dict[str, dict[str, Found]], dict[str, Found]]]
"""Of each network: by cut and rate, what the published suffix makes of it; by rate, suffixes trained anew."""

SERIES = ("zfp", "int", "int + zstd", "dct")
ALL = ("zfp", "zfp + zstd", *SERIES[1:])
WANTED = (0.95, 0.98)


def series(stages: dict[str, Found], name: str) -> list[tuple[str, float, Found]]:
    """(rate, bytes a sample, what was found) of one codec, from the smallest on."""
    codec, _, filtered = name.partition(" + ")
    size = "filtered" if filtered else "bytes"
    own = [(rate, float(f[size]), f) for rate, f in stages.items() if size in f and codec_name(rate) == codec]
    return sorted(own, key=lambda point: point[1])


def title(net: Net, layer: str) -> str:
    return f"{net.title.partition(',')[0]}, {layer.removeprefix('net.')}"


# The chart.


def drawn(measured: Measured) -> str:
    panels = []
    for net, stages, _ in measured:
        for layer, found in stages.items():
            lines = [
                Line(name, style, [(size, *f["agreement"]) for _, size, f in series(found, name)])
                for style, name in enumerate(SERIES)
                if series(found, name)
            ]
            panels.append(Panel(title(net, layer), "agreement", lines, net.jpeg, 1.0, 0.5, 1.02))
    for net, _, trained in measured:
        if net.task is not None and "fp32" in trained:
            lines = [
                Line(name, style, [(size, *mean(f["images"])) for _, size, f in series(trained, name)])
                for style, name in enumerate(SERIES)
                if series(trained, name)
            ]
            if not lines:
                continue
            level = statistics.mean(trained["fp32"]["images"])
            values = [level, *(y for line in lines for _, y, _ in line.points)]
            text = f"{title(net, net.task.layer)}, trained anew"
            panels.append(Panel(text, "accuracy", lines, net.jpeg, level, min(values) - 0.02, max(values) + 0.02))
    return chart(panels, 3)


# The page.


def page(measured: Measured, arguments: str, machine: str, picture: str) -> list[str]:
    spent = sum(
        f["seconds"] for _, stages, trained in measured for part in (*stages.values(), trained) for f in part.values()
    )
    return [
        "# Rates: what they cost and what they keep",
        "",
        f"![agreement and accuracy by bytes a sample, beside the JPEG's]({picture})",
        "",
        f"`python tools/check_rates.py{arguments}`",
        "",
        f"{machine}; {spent / 60:.0f} minutes of CPU time. Bytes: of one reference of a sample, its rows as members "
        "without the tar's headers; a stored mirror doubles them. JPEG: the mean of these images as the data set has "
        "them. Rates that are bare numbers are zfp's; `+ zstd`: with `--filter zstd`. Codecs are fitted on other "
        "images than are measured.",
        "",
        "Agreement: how often the published rest of the network decides for the decoded feature as for the feature "
        "itself. Accuracy and loss: by how much its share of right answers and its cross entropy change. A figure "
        "after ± is a standard error.",
        "",
        *in_short(measured),
        *anew(measured),
        *beside(measured),
        *(line for net, stages, _ in measured for line in whole(net, stages)),
    ]


def in_short(measured: Measured) -> Iterator[str]:
    yield "## In short"
    for wanted in WANTED:
        yield ""
        yield f"The fewest bytes a sample, and of the JPEG's, with an agreement of {wanted} or more:"
        yield ""
        rows = []
        for net, stages, _ in measured:
            for layer, found in stages.items():
                cells = [least(series(found, name), wanted, net.jpeg) for name in ALL]
                rows.append((title(net, layer), f"{net.jpeg:,.0f}", *cells))
        yield from table(("cut", "JPEG", *ALL), rows)


def least(points: list[tuple[str, float, Found]], wanted: float, jpeg: float) -> str:
    good = [(size, rate) for rate, size, f in points if f["agreement"][0] >= wanted]
    return "none" if not good else f"{min(good)[0]:,.0f}, {min(good)[0] / jpeg:.2f} (`{min(good)[1]}`)"


def whole(net: Net, stages: dict[str, dict[str, Found]]) -> Iterator[str]:
    if not stages:
        return
    first = next(iter(next(iter(stages.values())).values()))
    yield ""
    yield f"## {net.title}"
    yield ""
    yield (
        f"{len(net.test)} images, codecs fitted on {len(net.fitted)} others; JPEG {net.jpeg:,.0f} bytes; accuracy "
        f"uncompressed {first['uncompressed']:.3f} ± {error(first['uncompressed'], net):.3f}."
    )
    header = (
        "rate",
        "bits",
        "bytes",
        "of JPEG",
        "+ zstd",
        "of JPEG",
        "error dB",
        "agreement",
        "accuracy",
        "loss",
    )
    for layer, found in stages.items():
        yield ""
        yield f"### {layer.removeprefix('net.')}"
        yield ""
        yield from table(header, (row(net, rate, f) for rate, f in found.items()))


def row(net: Net, rate: str, f: Found) -> tuple[str, ...]:
    return (
        f"`{rate}`",
        f"{bits(f):.2f}",
        f"{f['bytes']:,}",
        f"{f['bytes'] / net.jpeg:.2f}",
        f"{f['filtered']:,.0f}",
        f"{f['filtered'] / net.jpeg:.2f}",
        f"{f['db']:.1f}",
        f"{f['agreement'][0]:.3f} ± {f['agreement'][1]:.3f}",
        *(f"{f[name][0]:+.3f} ± {f[name][1]:.3f}" for name in ("accuracy", "loss")),
    )


def anew(measured: Measured) -> Iterator[str]:
    """Suffixes trained from decoded features."""
    for net, _, trained in measured:
        if net.task is None or "fp32" not in trained:
            continue
        seeds = len(trained["fp32"]["images"])
        tested = f"{len(net.task.test)} images" if net.task.test else "those left out, other ones for each seed"
        yield ""
        yield f"## Trained anew: {title(net, net.task.layer)}"
        yield ""
        yield (
            f"{net.task.what[0].upper()}{net.task.what[1:]}; `{net.task.recipe}`, mirror stored, {net.task.epochs} "
            f"epochs, mean of {seeds} seed(s), tested on {tested}. Lost: beside uncompressed, seed by seed. On images: "
            "as a network that runs whole; on features: as evaluation from a set of that rate sees them."
        )
        yield ""
        rows = []
        for rate, f in trained.items():
            lost = [a - b for a, b in zip(trained["fp32"]["images"], f["images"], strict=True)]
            size = f"{f['bytes']:,}", f"{f['bytes'] / net.jpeg:.2f}"
            rows.append((f"`{rate}`", *size, shown(f["images"]), shown(lost, "+"), shown(f["features"])))
        yield from table(("rate", "bytes", "of JPEG", "accuracy on images", "lost", "accuracy on features"), rows)


def beside(measured: Measured) -> Iterator[str]:
    """`dct` and the others, cut by cut; nothing where there is no `dct`."""
    cuts = [(net, layer, found) for net, stages, _ in measured for layer, found in stages.items()]
    if not any(series(found, "dct") for _, _, found in cuts):
        return
    yield ""
    yield "## `dct` beside the others"
    yield ""
    yield (
        "Agreement of `dct` at b bits; of zfp at 2b and 4b, and of int3: ✓ where `dct`'s is no less, ~ where it is "
        "less by no more than the standard error of the difference of two such shares."
    )
    yield ""
    rows = [
        (title(net, layer), f"{b:g}", *beside_at(b, found))
        for net, layer, found in cuts
        for b in (0.5, 1, 1.5, 2)
        if f"dct{b:g}" in found
    ]
    yield from table(("cut", "b", "dct", "zfp at 2b", "zfp at 4b", "int3"), [row for row in rows if len(row) == 6])
    yield ""
    yield "Bytes a sample: `int4` with zstd; the least `dct` whose agreement is within .01 of `int4`'s: ✓ where fewer."
    yield ""
    yield from table(
        ("cut", "int4 + zstd", "dct"),
        [(title(net, layer), *near_int4(found)) for net, layer, found in cuts if "int4" in found],
    )
    yield ""
    yield "The lowest rate at which a suffix trained anew loses .003 or less, by the mean (its error is above):"
    yield ""
    tasks = [(net, trained) for net, _, trained in measured if "fp32" in trained]
    rows = [
        (title(net, net.task.layer), where, *(spared(trained, name, where) for name in ("zfp", "int", "dct")))
        for net, trained in tasks
        for where in ("images", "features")
    ]
    yield from table(("cut", "tested on", "zfp", "int", "dct"), rows)


def beside_at(b: float, found: dict[str, Found]) -> list[str]:
    ours, own = found[f"dct{b:g}"]["agreement"]
    cells = [f"{ours:.3f}"]
    for rate in (f"{2 * b:g}", f"{4 * b:g}", "int3"):
        if rate in found:
            other, error = found[rate]["agreement"]
            mark = " ✓" if ours >= other else " ~" if other - ours <= (own**2 + error**2) ** 0.5 else ""
            cells.append(f"{other:.3f}{mark}")
    return cells


def near_int4(found: dict[str, Found]) -> tuple[str, str]:
    wanted, size = found["int4"]["agreement"][0] - 0.01, found["int4"]["filtered"]
    near = [(own, rate) for rate, own, f in series(found, "dct") if f["agreement"][0] >= wanted]
    if not near:
        return f"{size:,.0f}", "none"
    return f"{size:,.0f}", f"{near[0][0]:,.0f} (`{near[0][1]}`){' ✓' if near[0][0] < size else ''}"


def spared(trained: dict[str, Found], name: str, where: str) -> str:
    plain = mean(trained["fp32"][where])[0]
    good = [rate for rate, _, f in series(trained, name) if mean(f[where])[0] >= plain - 0.003]
    return f"`{good[0]}`" if good else "none"


def bits(f: Found) -> float:
    return 8 * float(f["bytes"]) / float(f["values"])


def error(part: float, net: Net) -> float:
    """The standard error of a share of the net's test images."""
    return float((part * (1 - part) / len(net.test)) ** 0.5)


def mean(values: Sequence[float]) -> tuple[float, float]:
    """(mean, its standard error; 0 of one value)."""
    return statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def shown(values: Sequence[float], sign: str = "") -> str:
    return f"{mean(values)[0]:{sign}.3f} ± {mean(values)[1]:.3f}"
