"""`fmshards cuts MODEL`."""

from __future__ import annotations

import click

from fmshards.cli.options import json_option, print_json, table, weights_option
from fmshards.units import bytes_text

_KERNELS = (1, 3)
_MAPPED = "mirror mapped 1x1 / 3x3"


@click.command("cuts")
@click.argument("model")
@weights_option
@click.option("--size", default=224, show_default=True, help="height and width of the example image")
@click.option("--rate", help="also the bytes at this rate: bits a value, int4, int4-channel, fp16 ...")
@click.option("--all", "everything", is_flag=True, help="also the cuts that are no module's output")
@json_option
def command(model: str, weights: str | None, size: int, rate: str | None, everything: bool, as_json: bool) -> None:
    """List every point of MODEL where exactly one tensor is alive, the sensible ones first.

    MODEL is torchvision:NAME, timm:NAME, package.module:factory or path/to/file.py:factory. Shares are of the whole
    model's FLOPs for one sample: those before the cut, and those of a mirror mapped there (--mirror mapped(kernel=1) or
    (kernel=3)), which training spends on every flipped sample, for as many channels in as out.
    """
    import warnings
    from dataclasses import asdict

    from fmshards.model import blank_image, cuts, load_model, row_bytes

    with warnings.catch_warnings():
        # Where a model can be cut does not depend on its weights.
        warnings.simplefilter("ignore", UserWarning)
        network = load_model(model, weights)
    found = cuts(network, blank_image(network, (size, size)))
    sizes = {} if rate is None else {c.name: row_bytes(c, rate) for c in found}
    if as_json:
        mapped = {c.name: {k: c.spec.map_multiplications(k) for k in _KERNELS} for c in found}
        more = {c.name: {"row_bytes": sizes[c.name]} if sizes else {} for c in found}
        print_json([{**asdict(c), "mirror_multiplications": mapped[c.name], **more[c.name]} for c in found])
        return
    shown = [c for c in found if everything or c.module is not None] or found
    total = shown[0].flops_before + shown[0].flops_after
    rows: list[list[str]] = []
    for cut in shown:
        rows.append(
            [
                cut.name,
                cut.kind,
                "x".join(map(str, cut.shape)),
                bytes_text(cut.bytes),
                *([bytes_text(sizes[cut.name])] if sizes else []),
                _share(cut.flops_before, total),
                " / ".join(_share(2 * cut.spec.map_multiplications(k), total) for k in _KERNELS),
                "; ".join(cut.warnings) or (cut.problem or ""),
            ]
        )
    at_rate = [f"bytes at {rate}"] if sizes else []
    table(rows, ["cut", "kind", "shape", "bytes", *at_rate, "FLOPs before", _MAPPED, "notes"])
    hidden = len(found) - len(shown)
    if hidden:
        click.echo(f"({hidden} more cuts between modules: --all)")


def _share(flops: int, total: int) -> str:
    return f"{100 * flops / max(total, 1):.1f}%"
