"""`fmshards verify SET`."""

from __future__ import annotations

import sys

import click

from fmshards.cli.options import MODEL_HELP, json_option, print_json, weights_option
from fmshards.units import bytes_text


@click.command("verify")
@click.argument("url", metavar="SET")
@click.option("--model", help=f"also check that this model wrote it, computing 8 samples again; {MODEL_HELP}")
@weights_option
@click.option("--source", help="where the images are now, if not where they were")
@click.option("--device", help="where to compute; by default cuda where there is one")
@json_option
def command(
    url: str, model: str | None, weights: str | None, source: str | None, device: str | None, as_json: bool
) -> None:
    """Read the shard set at SET (a path or a URL) from the first byte to the last and check it.

    Checked: checksums, digests, counts, the order of members. The exit code is 1 where anything is wrong; the first
    bad byte range of each shard is named.
    """
    from fmshards.extraction import verify

    report = verify(url, model, weights=weights, source=source, device=device)
    ok = not report.problems
    if as_json:
        print_json(
            {
                "set": url,
                "ok": ok,
                "samples": report.samples,
                "shards": report.shards,
                "bytes": report.bytes,
                "recomputed": report.recomputed,
                "problems": list(report.problems),
            }
        )
    else:
        for problem in report.problems:
            click.echo(f"bad: {problem}", err=True)
        if ok:
            again = f", identity matches, {report.recomputed} samples computed again" if model else ""
            click.echo(
                f"{url}: {report.samples} samples in {report.shards} shards, {bytes_text(report.bytes)}, all bytes "
                f"as written{again}"
            )
    sys.exit(0 if ok else 1)
