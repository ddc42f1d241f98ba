"""Speed and memory of the whole path, each figure beside what it is compared with, in one run.

    python tools/bench_path.py [--only extract stream memory epoch loaders] [--reps 5]
    python tools/bench_path.py --other CHECKOUT     # extraction and streaming of two commits beside each other

Sides take turns and medians are compared, since machines are noisy. The table is printed and written to
tools/results/bench_path.md. Everything runs on the bundled data, repeated where more samples are needed.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import (
    PREPROCESS,
    RESNET20,
    SHARD,
    TRAIN,
    Jpegs,
    Memmap,
    Row,
    compared,
    consume,
    in_turns,
    jpegs,
    machine,
    median,
    on_threads,
    results,
    seconds,
    speed,
    write_table,
)
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models import resnet18
from torchvision.transforms import v2
from versions import compare

import fmshards
from fmshards.clock import Clock
from fmshards.extraction.batches import decoded_batches
from fmshards.extraction.decode import Decoder
from fmshards.extraction.sources import open_source
from fmshards.model import load_model, parse_preprocess

RECIPE = "flip+crop(pad=4, step=1)"
LAYER = "layer2"
BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--other", type=Path, metavar="CHECKOUT", help="another checkout, measured beside this one")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--measure-memory", nargs=2, metavar=("SET", "BYTES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure_memory:
        print(*measure_memory(args.measure_memory[0], int(args.measure_memory[1])))
        return
    if args.other:
        compare("path", args.other, args.reps, args.results)
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for part in args.only:
            for row in PARTS[part](Path(scratch), args.reps):
                rows.append(row)
                print(" | ".join(row), flush=True)
    note = f"{machine()}. Medians of {args.reps} rounds in which the sides take turns."
    place = args.results or results("bench_path.md")
    write_table(place, "tools/bench_path.py", note, ("what", "fmshards", "beside", "ratio"), rows)


# Extraction, beside the bare forward.


@dataclass(frozen=True)
class Case:
    """One model, cut and source to extract."""

    name: str
    model: nn.Module
    layer: str
    preprocess: str
    size: int
    urls: list[str]
    batch: int | None
    """None: what `extract` chooses."""

    @property
    def samples(self) -> int:
        return SHARD * len(self.urls)


def extraction(scratch: Path, reps: int) -> Iterator[Row]:
    """extract, start to end, beside a loop that decodes the same images in the same way and runs the same prefix."""
    torch.manual_seed(0)
    large = f"resize(224)+{PREPROCESS}"
    wide = Case("ResNet-18 layer3, 224 x 224", resnet18().eval(), "layer3", large, 224, TRAIN[:1], 50)
    for case, turns in (
        (Case("ResNet-20 layer2, 32 x 32", load_model(*RESNET20), LAYER, PREPROCESS, 32, TRAIN * 4, 250), reps),
        (wide, min(reps, 3)),
    ):
        a, b = in_turns(turns, partial(extract_once, case, scratch), partial(forward_once, case))
        what = f"extraction, {case.name}, 4 bits, {case.samples} images"
        yield compared(what, "samples/s", a, b, "bare forward, same loader")
    chosen, given = (partial(extract_once, replace(wide, batch=batch), scratch) for batch in (None, 64))
    a, b = in_turns(min(reps, 3), chosen, given)
    yield compared(f"extraction, {wide.name}, 4 bits, batch as chosen", "samples/s", a, b, "batch=64")


def extract_once(case: Case, scratch: Path) -> float:
    with tempfile.TemporaryDirectory(dir=scratch) as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {} if case.batch is None else {"batch": case.batch}
        started = time.perf_counter()
        fmshards.extract(
            case.urls,
            out,
            model=case.model,
            layers={case.layer: 4},
            preprocess=case.preprocess,
            workers=1,
            **options,
        )
        return case.samples / (time.perf_counter() - started)


def forward_once(case: Case) -> float:
    prefix, _ = fmshards.split(case.model, case.layer, torch.zeros(1, 3, case.size, case.size))
    source = open_source(case.urls)
    decoder = Decoder(source, parse_preprocess(case.preprocess))
    started = time.perf_counter()
    for found in decoded_batches(source, iter(range(len(case.urls))), case.batch, decoder, 1, False, Clock()):
        prefix(found.base)
    return case.samples / (time.perf_counter() - started)


# Streaming: where the time goes.


def streaming(scratch: Path, reps: int) -> Iterator[Row]:
    """CPU time of an epoch of batches in one process: rows alone, decoded, augmented (thetas too)."""
    url = feature_set(scratch)
    ways = ({"decode": False, "augment": False}, {"augment": False}, {})
    epochs = [fmshards.loader(url, batch_size=BATCH, num_workers=0, **way) for way in ways]
    sides = [partial(on_threads, 1, seconds(partial(consume, e), time.process_time)) for e in epochs]  # as in a worker
    rows, decoded, whole = map(median, in_turns(reps, *sides))
    yield (
        "streaming, layer2 at 4 bits, share of CPU time that is not decoding or augmenting",
        f"{100 * rows / whole:.1f}%",
        f"decoding {100 * (decoded - rows) / whole:.1f}%, augmenting {100 * (whole - decoded) / whole:.1f}%, "
        f"{1e6 * whole / 10_000:.0f} us a sample in all",
        "",
    )


# Memory.


def memory(scratch: Path, reps: int) -> Iterator[Row]:
    """What `memory=` bounds: stated beforehand, counted in the window, and seen from outside as resident memory."""
    url = feature_set(scratch)
    for budget in (16_000_000, 64_000_000):
        done = subprocess.run(
            [sys.executable, __file__, "--measure-memory", url, str(budget)], capture_output=True, text=True, check=True
        )
        needed, grown, peak = (float(v) / 1e6 for v in done.stdout.split())
        yield (
            f"memory={budget / 1e6:.0f}MB, one process, rows only",
            f"{needed:.1f} MB stated",
            f"resident memory grows by {peak:.1f} MB at the peak ({grown:.1f} MB after the epoch)",
            f"{peak / needed:.2f}",
        )


def measure_memory(url: str, budget: int) -> tuple[float, float, float]:
    """(bytes stated, growth of resident memory after an epoch, growth at its peak), in a process of its own."""
    # A first pass over another loader loads code and indices, whose memory is not the window's.
    for batch in fmshards.loader(url, batch_size=BATCH, num_workers=0, memory="8MB", decode=False):
        del batch
    batches = fmshards.loader(url, batch_size=BATCH, num_workers=0, memory=budget, decode=False)
    before = resident()
    peak = before
    for batch in batches:
        del batch
        peak = max(peak, resident())
    return batches.memory_needed, resident() - before, peak - before


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


# An epoch, beside the online prefix.


def epochs(scratch: Path, reps: int) -> Iterator[Row]:
    """A training epoch of layer3 and the classifier: from shards, and with the frozen prefix in the loop."""
    url = feature_set(scratch)
    model = load_model(*RESNET20)
    example = torch.zeros(1, 3, 32, 32)
    prefix, suffix = fmshards.split(model, LAYER, example)
    cut = next(c for c in fmshards.cuts(model, example) if c.name == LAYER)
    optimizer = torch.optim.SGD(suffix.parameters(), lr=0.01)
    shards = fmshards.loader(url, batch_size=BATCH, num_workers=1)
    images = DataLoader(photos(), batch_size=BATCH, shuffle=True, num_workers=1, persistent_workers=True)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        loss = F.cross_entropy(suffix(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def ours() -> None:
        for batch in shards:
            step(batch[LAYER], batch["cls"])

    def online() -> None:
        for x, y in images:
            step(prefix(x), y)

    suffix.train()
    a, b = in_turns(min(reps, 3), speed(ours, 10_000), speed(online, 10_000))
    flops = (cut.flops_before + 3 * cut.flops_after) / (3 * cut.flops_after)
    yield compared("training epoch from layer2", "samples/s", a, b, f"frozen prefix online; by FLOPs {flops:.2f}")


# Loading alone.


def loaders(scratch: Path, reps: int) -> Iterator[Row]:
    """Batches alone, one process: decoded and augmented features, JPEGs decoded and augmented, an fp16 memmap."""
    url = feature_set(scratch)
    samples = 10_000
    shards = fmshards.loader(url, batch_size=BATCH, num_workers=0)
    still = fmshards.loader(url, batch_size=BATCH, num_workers=0, augment=False)
    rows = fmshards.loader(url, batch_size=BATCH, num_workers=0, decode=False)
    images = DataLoader(photos(), batch_size=BATCH, shuffle=True)
    found = [(batch[LAYER].clone(), batch["cls"]) for batch in fmshards.loader(url, batch_size=BATCH, train=False)]
    x, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    mapped = DataLoader(Memmap(scratch / "features.f16", x, labels.tolist()), batch_size=BATCH, shuffle=True)
    sides = [partial(on_threads, 1, speed(partial(consume, b), samples)) for b in (shards, still, rows, images, mapped)]
    ours, unmoved, bare, decoded, memmap = in_turns(reps, *sides)
    size = sum(p.stat().st_size for p in Path(url, LAYER).glob("*.tar")) / samples
    half = 32 * 16 * 16 * 2
    jpeg = sum(map(os.path.getsize, TRAIN)) / 2_500
    yield compared("samples/s a core, features augmented", "samples/s", ours, decoded, "JPEGs decoded and augmented")
    yield compared("samples/s a core, features augmented", "samples/s", ours, memmap, "fp16 memmap, no augmentation")
    yield compared("samples/s a core, not augmented", "samples/s", unmoved, memmap, "fp16 memmap")
    yield compared("samples/s a core, rows left compressed", "samples/s", bare, memmap, "fp16 memmap")
    yield (
        "bytes a sample, base and mirror, with labels and tar overhead",
        f"{size:,.0f}",
        f"{half:,} fp16 memmap of the base alone; {jpeg:,.0f} JPEG in its tar",
        f"{size / half:.2f}",
    )


def photos() -> Jpegs:
    """The bundled JPEGs four times over, decoded, flipped, cropped and normalised at each access."""
    augment = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(32, padding=4)])
    return Jpegs(jpegs(TRAIN * 4), parse_preprocess(PREPROCESS).base, augment)


def feature_set(scratch: Path) -> str:
    """layer2 of the bundled ResNet-20 over the bundled images four times over: 10,000 samples, mirror stored."""
    model, weights = RESNET20
    out = scratch / "layer2"
    fmshards.extract(
        TRAIN * 4, out, model=model, weights=weights, layers={LAYER: 4}, preprocess=PREPROCESS, recipe=RECIPE, batch=100
    )
    return str(out)


PARTS: dict[str, Callable[[Path, int], Iterator[Row]]] = {
    "extract": extraction,
    "stream": streaming,
    "memory": memory,
    "epoch": epochs,
    "loaders": loaders,
}

if __name__ == "__main__":
    main()
