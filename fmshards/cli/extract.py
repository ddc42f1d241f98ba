"""`fmshards extract SOURCE OUT`."""

from __future__ import annotations

from typing import Any

import click

from fmshards.cli.options import MODEL_HELP, json_option, print_json, weights_option
from fmshards.cli.signals import Preemption
from fmshards.units import bytes_text, count_text


@click.command("extract")
@click.argument("source")
@click.argument("out")
@click.option("--model", required=True, help=MODEL_HELP)
@weights_option
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME:RATE",
    help="a cut and its rate: bits a value (ZFP); int2 to int8, or int2-channel to int8-channel; fp32, fp16, bf16; or "
    "auto, found as fmshards plan does; may be repeated",
)
@click.option("--plan", metavar="FILE", help="the options of a file that fmshards plan wrote, in place of --layer")
@click.option(
    "--preprocess",
    help="timm, torchvision, or text such as 'resize(256)+normalize(imagenet)'; by default the model's own, for a file "
    "the PREPROCESS in it",
)
@click.option("--recipe", help="augmentation, such as 'flip+crop(pad=32)'; none by default")
@click.option(
    "--mirror",
    help="where features of flipped images come from: stored, the default; mapped, mapped(kernel=1), none; or stored "
    "in part, as stored(0.3) or stored(0.3, rest=flip, rate=2)",
)
@click.option("--views", default=0, show_default=True, help="stored views of the sensitive channels")
@click.option("--sensitive", help="which channels views hold: a fraction, threshold(0.9), or a list [0,3,5]")
@click.option("--calibration", type=int, help="samples that calibration looks at; by default an eighth, 16 to 512")
@click.option("--batch", type=int, help="samples in one forward; by default 64, on a CPU 8")
@click.option("--device", help="cpu, cuda, cuda:1 ...; by default cuda where there is one")
@click.option("--precision", default="float32", show_default=True, type=click.Choice(["float32", "bf16", "fp16"]))
@click.option("--workers", default=0, show_default=True, help="processes that decode images")
@click.option("--chunk", type=int, help="samples in a chunk; by default 4 MB of the largest row, 8 to 256")
@click.option("--filter", type=click.Choice(["zstd"]), help="make members smaller without loss; none by default")
@click.option("--shard-size", type=int, help="samples in a shard, of anything but tars (4096)")
@click.option(
    "--image-field", help="the field or column that holds the image; by default the only one that can, or url"
)
@click.option(
    "--orientation",
    type=click.Choice(["apply", "refuse", "ignore"]),
    help="what becomes of photos that their EXIF says are to be turned; apply by default",
)
@click.option("--classes", metavar="FILE|SET", help="class names in the order of their numbers: a file, or another set")
@click.option("--fields", metavar="NAME,NAME", help="the fields that travel with a feature; by default all")
@click.option("--drop-field", "drop_fields", multiple=True, metavar="NAME", help="a field that does not travel")
@click.option(
    "--channel-order",
    "order",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "none"]),
    help="store channels like beside like, where that lowers the error of a ZFP rate",
)
@click.option("--seed", default=0, show_default=True)
@click.option("--overwrite", is_flag=True, help="replace a shard set that differs")
@click.option(
    "--part",
    metavar="I/N",
    help="this process is part I, from 0, of N that make the set together; by default as torchrun, Slurm or Kubernetes "
    "says in the environment, else the only one",
)
@click.option(
    "--grace",
    default=25.0,
    show_default=True,
    type=click.FloatRange(0, 86400),
    help="seconds for the shard in work after SIGTERM or SIGUSR1",
)
@click.option(
    "--ray",
    "address",
    is_flag=False,
    flag_value="",
    metavar="[ADDRESS]",
    help="make the set by tasks of a Ray cluster: the one at ADDRESS, else where RAY_ADDRESS says, else this machine",
)
@click.option("--ray-tasks", "tasks", type=click.IntRange(1), help="how many; by default as many as there is room for")
@click.option("--ray-cpus", "cpus", type=click.FloatRange(0), help="CPUs of a task; by default one more than --workers")
@click.option("--ray-gpus", "gpus", type=click.FloatRange(0), help="GPUs of a task; by default 1 where there are any")
@click.option("--log-json", is_flag=True, help="progress as a JSON object a line on standard error, for machines")
@json_option
def command(
    source: str,
    out: str,
    layers: tuple[str, ...],
    grace: float,
    address: str | None,
    tasks: int | None,
    cpus: float | None,
    gpus: float | None,
    log_json: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run the frozen layers of a model once over SOURCE and write a shard set at OUT.

    SOURCE is WebDataset shards or Parquet files (braces, *), a folder of these or of images in class folders, or a
    list of URLs (.txt, .csv, .tsv, .jsonl); at a path or a URL. What is already whole in OUT is kept, so that the same
    command continues where it was stopped; run in several processes or on several machines at a time, it shares the
    work.

    Exits with 0 when the set is whole, 75 when the same is to be run again, 65 when what was given cannot be used, 74
    when a disk or store refuses, 70 for a fault of its own.
    """
    if not layers and options["plan"] is None:
        raise click.UsageError("Missing option '--layer' (NAME:RATE), or '--plan' (a file of fmshards plan).")
    from fmshards.extraction import extract, extract_on_ray

    options |= {"layers": layers or None, "progress": "json" if log_json else True}
    if address is None and (tasks, cpus, gpus) != (None, None, None):
        raise click.UsageError("--ray-tasks, --ray-cpus and --ray-gpus have no meaning without --ray.")
    with Preemption(grace) as stop:
        if address is None:
            manifest = extract(source, out, stop=stop, **options)
        else:
            options |= {"address": address or None, "tasks": tasks, "cpus": cpus, "gpus": gpus}
            manifest = extract_on_ray(source, out, stop=stop, **options)
    sizes = {name: sum(s.bytes for s in shards) for name, shards in manifest.shards.items()}
    errors = {name: error["db"] for name, error in manifest.errors.items()}
    if as_json:
        print_json({"set": out, "samples": manifest.samples, "bytes": sizes, "error_db": errors})
        return
    click.echo(f"{out}: {count_text(manifest.samples, 'sample')}")
    for name, size in sizes.items():
        quality = "exact" if errors[name] is None else f"relative squared error {errors[name]:.1f} dB"
        click.echo(f"  {name}: {bytes_text(size)} in {count_text(len(manifest.shards[name]), 'shard')}, {quality}")
