"""`fmshards status SET`."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from fmshards.cli.options import json_option, print_json
from fmshards.units import count_text

_NAMED = 8


@click.command("status")
@click.argument("url", metavar="SET")
@json_option
def command(url: str, as_json: bool) -> None:
    """Say how far the shard set at SET (a path or a URL) is: what is there, being made, stale and missing.

    Exits with 0 when the set is whole, else with 75, as an extraction that is to be run again.
    """
    from fmshards.extraction import status

    found = status(url)
    if as_json:
        claims = {name: [_claim(claim) for claim in getattr(found, name)] for name in ("running", "stale")}
        counts = {"set": found.url, "whole": found.whole, "inputs": found.inputs, "done": found.done}
        print_json({**counts, **claims, "missing": list(found.missing)})
    else:
        click.echo(f"{found.url}: {found.done:,} of {count_text(found.inputs, 'input shard')} done")
        for name in ("running", "stale"):
            for claim in getattr(found, name):
                ago = max(0.0, time.time() - claim.at)
                where = f"part {claim.part} on {claim.host}, process {claim.process}"
                click.echo(f"  {name}: {claim.name}, {where}, heard of {ago:.0f} s ago")
        if found.missing:
            more = ", ..." if len(found.missing) > _NAMED else ""
            click.echo(f"  missing: {len(found.missing):,}: {', '.join(found.missing[:_NAMED])}{more}")
        if not found.whole:
            click.echo("  not whole; extract, run again, goes on with it")
    sys.exit(0 if found.whole else 75)


def _claim(claim: Any) -> dict[str, Any]:
    return {"shard": claim.name, "part": claim.part, "host": claim.host, "process": claim.process, "at": claim.at}
