"""`fmshards verify SET`."""

from __future__ import annotations

import sys

import click

from fmshards.cli.options import MODEL_HELP, json_option, print_json, weights_option
from fmshards.errors import FmshardsError
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

    try:
        report = verify(url, model, weights=weights, source=source, device=device)
    except FmshardsError as error:
        if not as_json:
            raise
        # What could not be checked is not well either, and who reads JSON gets JSON.
        unknown = dict.fromkeys(("samples", "shards", "bytes", "recomputed"))
        print_json({"set": url, "ok": False, **unknown, "problems": [str(error)]})
        sys.exit(1)
    problems = [str(problem) for problem in report.problems]
    if as_json:
        counts = {name: getattr(report, name) for name in ("samples", "shards", "bytes", "recomputed")}
        print_json({"set": url, "ok": not problems, **counts, "problems": problems})
    else:
        for problem in problems:
            click.echo(f"bad: {problem}", err=True)
        if not problems:
            again = f", identity matches, {report.recomputed} samples computed again" if model else ""
            click.echo(
                f"{url}: {report.samples} samples in {report.shards} shards, {bytes_text(report.bytes)}, all bytes "
                f"as written{again}"
            )
    sys.exit(1 if problems else 0)
