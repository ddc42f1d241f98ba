"""`fmshards bench SET`."""

from __future__ import annotations

from typing import Any

import click

from fmshards.cli.options import json_option, print_json, table
from fmshards.tally import ODD
from fmshards.units import bytes_text


@click.command("bench")
@click.argument("url", metavar="SET")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="how long to stream, from the first batch")
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--workers", type=int, metavar="N", help="as the loader's num_workers; by default as many as it chooses")
@click.option("--layer", "layers", multiple=True, metavar="NAME", help="stream this layer alone; may be repeated")
@click.option("--memory", default="1GB", show_default=True, help="as the loader's")
@click.option("--dtype", default="float32", show_default=True, help="of the features")
@click.option("--no-augment", is_flag=True, help="features as they are")
@click.option("--rows", is_flag=True, help="leave rows compressed, as for a decoder on a GPU")
@json_option
def command(
    url: str,
    seconds: float,
    batch_size: int,
    workers: int | None,
    layers: tuple[str, ...],
    memory: str,
    dtype: str,
    no_augment: bool,
    rows: bool,
    as_json: bool,
) -> None:
    """Stream the shard set at SET (a path or a URL) without a trainer; say how fast it is, what limits it, and what to
    change."""
    from fmshards.stream.stats import STAGES
    from fmshards.stream.trial import bench

    found = bench(
        url,
        seconds,
        batch_size=batch_size,
        num_workers=workers,
        layers=list(layers) or None,
        memory=memory,
        dtype=dtype,
        augment=not no_augment,
        decode=not rows,
    )
    if as_json:
        print_json(found)
        return
    how = f"{found['workers']} workers" if found["workers"] else "no workers"
    click.echo(
        f"{found['set']}: {found['samples_s']:,.0f} samples/s, {bytes_text(found['bytes_s'])}/s from the store; "
        f"{how}, batches of {found['batch_size']}, the first after {found['first_s']:.1f} s"
    )
    shares = [f"{100 * found['shares'][stage]:.0f}%" for stage in STAGES]
    table(list(zip(shares, STAGES.values(), strict=True)), ["share", "of workers' time"])
    for line in _odd(found["stats"]):
        click.echo(line)
    click.echo(f"most of it goes into {found['limit']}; what may help:")
    for line in found["advice"]:
        click.echo(f"  {line}")


def _odd(stats: dict[str, Any]) -> list[str]:
    """What a store did that it need not have done."""
    return [f"{name}: {stats[name]:.0f}" for name in ODD if stats[name]]
