"""`fmshards plan SOURCE`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from fmshards.cli.options import MODEL_HELP, json_option, print_json, table, weights_option
from fmshards.units import bytes_text, count_text, flops_text, time_text

if TYPE_CHECKING:
    from fmshards.planning import CutReport, Proposal


@click.command("plan")
@click.argument("source")
@click.option("--model", required=True, help=MODEL_HELP)
@weights_option
@click.option(
    "--layer", "layers", multiple=True, metavar="NAME", help="a cut to look at; by default four sensible ones"
)
@click.option("--max-drop", help="accuracy that may be lost: 0.5%, the default where no other bound is given")
@click.option("--max-bytes", help="bytes a sample, the mirror's with it: 20kB; alone, the best rate that fits")
@click.option("--recipe", help="augmentation; by default flips, and crops of an eighth of the side; none for none")
@click.option("--mirror", help="as extract has it; by default the fewest bytes within 2 points of the stored mirror")
@click.option("--samples", default=300, show_default=True, help="photos to look at")
@click.option(
    "--suffix",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "trained", "fresh"]),
    help="whether the rest of the network is trained already, or will be trained anew: a linear probe judges then",
)
@click.option("--speed", type=float, help="samples/s that your trainer takes; by default as measured here")
@click.option("--preprocess", help="as extract has it")
@click.option("--batch", type=int, help="samples in one forward; by default 64, on a CPU 8")
@click.option("--device", help="cpu, cuda, cuda:1 ...; by default cuda where there is one")
@click.option("--precision", default="float32", show_default=True, type=click.Choice(["float32", "bf16", "fp16"]))
@click.option("--filter", type=click.Choice(["zstd"]), help="count bytes as this makes them; none by default")
@click.option("--image-field", help="the field that holds the image; by default the only one that can")
@click.option("--orientation", type=click.Choice(["apply", "refuse", "ignore"]), help="as extract has it")
@click.option("--classes", metavar="FILE|SET", help="class names in the order of their numbers: a file, or a set")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", metavar="FILE", help="write the answer there, for fmshards extract --plan FILE")
@json_option
def command(source: str, layers: tuple[str, ...], out: str | None, as_json: bool, **options: Any) -> None:
    """Find the cut, codec, rate and mirror that serve the images at SOURCE and a model, within a budget.

    Measured here on a sample, and judged by the task: the accuracy that a rate costs, told by the rest of the
    network where it is trained for the labels, else by a linear probe on pooled features, as a stand-in. Figures come
    with their standard errors. Seconds are this machine's.
    """
    from fmshards.extraction import plan

    found = plan(source, layers=list(layers) or None, progress=True, **options)
    if out is not None:
        found.save(out)
    if as_json:
        print_json(found.to_json())
        return
    _print(found)
    if found.options is None:
        click.echo("nothing is proposed: no cut has a rate within the budget")
    elif out is not None:
        words = ["fmshards", "extract", source, "OUT", "--model", options["model"], "--plan", out]
        click.echo(f"wrote {out}: {shlex.join(words)}")
    else:
        told = " ".join(f"--layer {name}:{rate}" for name, rate in found.options["layers"].items())
        for name in ("recipe", "mirror"):
            told += f" --{name} '{found.options[name]}'" if name in found.options else ""
        click.echo(f"proposed: {told}")


def _print(found: Proposal) -> None:
    size = "" if found.photo_bytes is None else f", {bytes_text(found.photo_bytes)} an image"
    total = "" if found.total is None else f" of about {found.total:,}"
    click.echo(f"{count_text(found.photos, 'photo')}{total}{size}, looked at in {time_text(found.seconds)}")
    header = ["cut", "rate", "mirror", "drop", "agreement", "bytes", "of image", "set", "read/s"]
    table([_row(report) for report in found.cuts], [*header, "saved an epoch", "seconds", "pays after"])
    moved = [row for report in found.cuts for row in _moves(report)]
    if moved:
        click.echo("features moved, beside the truly moved image:")
        table(moved, ["cut", "move", "drop", "agreement", "unmoved", "error dB"])
    for note in found.notes:
        click.echo(f"- {note}")


def _row(report: CutReport) -> list[str]:
    trial, worth = report.chosen, report.worth
    if trial is None or worth is None:
        return [report.cut.name, "none fits", *[""] * 10]
    seen = trial.outcome
    return [
        report.cut.name,
        trial.rate,
        report.mirror,
        seen.drop.percent(),
        seen.agreement.percent(),
        bytes_text(worth.bytes),
        "" if worth.of_photo is None else f"{worth.of_photo:.2f}",
        "" if worth.total is None else bytes_text(worth.total),
        bytes_text(worth.bandwidth),
        "" if worth.flops_saved is None else flops_text(worth.flops_saved),
        "" if worth.seconds_saved is None else f"{worth.seconds_saved:.1f}",
        "never" if worth.pays_after is None else count_text(worth.pays_after, "epoch"),
    ]


def _moves(report: CutReport) -> list[list[str]]:
    if report.moves is None:
        return []
    rows = []
    for moved in (*report.moves.flips.values(), *report.moves.others):
        outcome, still = moved.outcome, moved.still
        rows.append(
            [
                report.cut.name,
                moved.what + (" (worse than none)" if moved.worse_than_still else ""),
                "" if outcome is None else outcome.drop.percent(),
                "" if outcome is None else outcome.agreement.percent(),
                "" if still is None else still.agreement.percent(),
                "exact" if moved.db is None else f"{moved.db:.1f}",
            ]
        )
    return rows
