"""`fmshards inspect SET`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from fmshards.cli.options import json_option, print_json, table
from fmshards.errors import InputError
from fmshards.units import bytes_text, count_text, short_digests


@click.command("inspect")
@click.argument("url", metavar="SET")
@click.option("--sample", type=int, metavar="I", help="look at one sample's features instead")
@json_option
def command(url: str, sample: int | None, as_json: bool) -> None:
    """Say what the shard set at SET (a path or a URL) holds: how much, at which rates, how exact, made from what."""
    if sample is not None:
        _sample(url, sample, as_json)
        return
    from fmshards.reader.inspection import inspect
    from fmshards.shards.describe import mirror_text

    found = inspect(url)
    if as_json:
        print_json({"set": url, **found})
        return
    _summary(url, found)
    header = [
        "layer",
        "kind",
        "shape",
        "codec, bits",
        "row bytes",
        "bytes a sample",
        "fp32 bytes",
        "error dB",
        "worst channel dB",
    ]
    table([_layer_row(layer) for layer in found["layers"]], [*header, "mirror dB"])
    for layer in found["layers"]:
        if (text := mirror_text(layer)) is not None:
            click.echo(text)
    click.echo(f"recipe: {_short(found['recipe'])}; loader(recipe=...) can be given others, of these terms:")
    for term, how in found["serves"].items():
        click.echo(f"  {term}: {how}")
    for term, why in found["refuses"].items():
        click.echo(f"  not {term}: {why}")
    for title in ("identity", "options", "provenance"):
        click.echo(f"{title}:")
        for key, value in _flat({k: v for k, v in found[title].items() if k not in _FOR_PROGRAMS}):
            click.echo(f"  {key}: {_short(value)}")


def _summary(url: str, found: dict[str, Any]) -> None:
    holds = f"chunks of {found['chunk']}, each holding {', '.join(found['members'])}"
    shards = count_text(found["shards"], "shard")
    if found["whole"]:
        size = bytes_text(found["bytes"])
        click.echo(f"{url}: {found['samples']} samples in {shards} a layer, {size}, {holds}")
        return
    click.echo(f"{url}: unfinished, {shards} a layer, {holds}")
    missing = [f"{count} of {shards} of {layer}" for layer, count in found["missing"].items() if count]
    click.echo(f"missing: {', '.join(missing) or 'nothing but manifest.json'}; the same extract goes on with it")


def _layer_row(layer: dict[str, Any]) -> list[str]:
    error, size = layer["error"], layer["bytes_a_sample"]
    return [
        layer["name"],
        layer["kind"],
        "x".join(map(str, layer["shape"])),
        f"{layer['codec']} {layer['rate']:.3g}" + (f" + {layer['filter']}" if layer["filter"] else ""),
        str(layer["row_bytes"]),
        "" if size is None else f"{size:.0f}",
        f"{layer['fp32_bytes']}",
        _db(error and error["db"], error),
        _db(error and error["worst_channel_db"], error),
        _db(layer["mirror_error_db"], layer["mirror_error_db"]),
    ]


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested objects as "outer.inner" and their values, sorted."""
    for key, value in sorted(values.items()):
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _sample(url: str, index: int, as_json: bool) -> None:
    from fmshards.stream import open_shards

    samples = open_shards(url)
    try:
        sample = samples[index]
    except IndexError:
        raise InputError(f"{url} has samples 0 to {len(samples) - 1}, not {index}") from None
    layers = {}
    for name in (layer.name for layer in samples.catalog.layers):
        x = sample[name].float()
        layers[name] = {
            "shape": list(x.shape),
            "min": x.min().item(),
            "max": x.max().item(),
            "mean": x.mean().item(),
            "std": x.std(correction=0).item(),
            "zeros": (x == 0).float().mean().item(),
        }
    fields = {k: _short(v) for k, v in sample.items() if k not in layers and not k.startswith("__")}
    found = {"index": index, "key": sample["__key__"], "fields": fields, "layers": layers}
    if as_json:
        print_json(found)
        return
    click.echo(f"sample {index}: {found['key']}")
    for key, value in fields.items():
        click.echo(f"  {key}: {value}")
    table(
        [[name, "x".join(map(str, v["shape"])), *(f"{v[k]:.4g}" for k in _NUMBERS)] for name, v in layers.items()],
        ["layer", "shape", *_NUMBERS],
    )


_FOR_PROGRAMS = ("mirror_maps", "parts", "probe")
"""Of provenance: lines by the hundred that tell whether a model is the set's, and what is told above; --json has
them."""
_NUMBERS = ("min", "max", "mean", "std", "zeros")


def _db(value: float | None, known: object) -> str:
    if value is not None:
        return f"{value:.1f}"
    return "exact" if known else ""


def _short(value: Any) -> str:
    text = short_digests(str(value))  # --json has them whole
    return text if len(text) <= 200 else text[:197] + "..."
