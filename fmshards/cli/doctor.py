"""`fmshards doctor`."""

from __future__ import annotations

import sys

import click

from fmshards.cli.options import json_option, print_json


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Say which codec engine runs on this machine, why, and how fast it is here.

    The exit code is 1 where its rows or features are not those of zfpy: report that as a bug.
    """
    from fmshards.codec.report import doctor

    found = doctor()
    if as_json:
        print_json(found)
        sys.exit(0 if found["equal"] else 1)
    speed = found["speed"]
    versions = ", ".join(f"{name} {value}" for name, value in found["versions"].items() if value)
    click.echo(f"engine    {found['engine']}: {found['why']}")
    click.echo(f"kernels   {found['kernels'] or 'not kept: each process compiles its own'}")
    click.echo(f"          the first call took {found['first_call_seconds']:.2f} s")
    for what in ("decode", "encode"):
        ratio = speed[what] / speed[f"zfpy_{what}"]
        beside = f"zfpy {speed[f'zfpy_{what}']:,} MB/s ({ratio:.2f} times)"
        click.echo(f"{what:9} {speed[what]:,} MB/s of float32 in one thread, 4 bits a value; beside it {beside}")
    click.echo(f"cuda      {found['cuda'] or 'no device'}")
    click.echo(f"results   {'equal to' if found['equal'] else 'NOT EQUAL TO'} zfpy's, bit for bit")
    click.echo(f"versions  {versions}")
    sys.exit(0 if found["equal"] else 1)
