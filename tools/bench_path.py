"""Speed and memory of the whole path, each figure beside what it is compared with, in one run.

    python tools/bench_path.py [--only extract stream memory epoch loaders] [--reps 5]

Sides take turns and medians are compared, since machines are noisy. The table is printed and written to
tools/results/bench_path.md. Everything runs on the bundled data, repeated where more samples are needed.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import DATA, ROOT, Row, compared, in_turns, machine, write_table
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18
from torchvision.transforms import v2

import fmshards
from fmshards.clock import Clock
from fmshards.codec.zfp.codec import ZfpCodec
from fmshards.extraction.batches import decoded_batches
from fmshards.extraction.decode import Decoder
from fmshards.extraction.sources import open_source
from fmshards.model import load_model, parse_preprocess
from fmshards.stream import decode as stream_decode

TRAIN = sorted(str(p) for p in DATA.glob("cifar10-train-*.tar"))
RESNET20 = (f"{ROOT}/examples/resnet20.py:resnet20", f"{DATA}/resnet20.safetensors")
CIFAR = "normalize(imagenet)"
RECIPE = "flip+crop(pad=4)"
LAYER = "layer2"
BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--results", type=Path, default=ROOT / "tools" / "results" / "bench_path.md")
    parser.add_argument("--measure-memory", nargs=2, metavar=("SET", "BYTES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure_memory:
        print(*measure_memory(args.measure_memory[0], int(args.measure_memory[1])))
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for part in args.only:
            for row in PARTS[part](Path(scratch), args.reps):
                rows.append(row)
                print(" | ".join(row), flush=True)
    note = f"{machine()}. Medians of {args.reps} rounds in which the sides take turns."
    write_table(args.results, "tools/bench_path.py", note, ("what", "fmshards", "beside", "ratio"), rows)


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
    batch: int

    @property
    def samples(self) -> int:
        return 500 * len(self.urls)


def extraction(scratch: Path, reps: int) -> Iterator[Row]:
    """extract, start to end, beside a loop that decodes the same images in the same way and runs the same prefix."""
    torch.manual_seed(0)
    large = "resize(224)+normalize(imagenet)"
    for case, turns in (
        (Case("ResNet-20 layer2, 32 x 32", load_model(*RESNET20), LAYER, CIFAR, 32, TRAIN * 4, 250), reps),
        (Case("ResNet-18 layer3, 224 x 224", resnet18().eval(), "layer3", large, 224, TRAIN[:1], 50), min(reps, 3)),
    ):
        a, b = in_turns(turns, partial(extract_once, case, scratch), partial(forward_once, case))
        what = f"extraction, {case.name}, 4 bits, {case.samples} images"
        yield compared(what, "samples/s", a, b, "bare forward, same loader")


def extract_once(case: Case, scratch: Path) -> float:
    with tempfile.TemporaryDirectory(dir=scratch) as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = time.perf_counter()
        fmshards.extract(
            case.urls,
            out,
            model=case.model,
            layers={case.layer: 4},
            preprocess=case.preprocess,
            batch=case.batch,
            workers=1,
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
    """CPU time of an epoch of batches in one process, split into decoding, moving and all the rest."""
    url = feature_set(scratch)
    spent = {"decode": 0.0, "move": 0.0}

    def timed(what: str, function: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object, **kwargs: object) -> object:
            started = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[what] += time.thread_time() - started

        return wrapper

    plain = ZfpCodec.decode, stream_decode.move
    ZfpCodec.decode = timed("decode", plain[0])  # type: ignore[method-assign]  # put back below
    stream_decode.move = timed("move", plain[1])  # type: ignore[assignment]
    shares: list[tuple[float, float, float]] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a DataLoader's worker
    try:
        batches = fmshards.loader(url, batch_size=BATCH, num_workers=0)
        for turn in range(reps + 1):
            spent.update(decode=0.0, move=0.0)
            started = time.process_time()
            for _ in batches:
                pass
            total = time.process_time() - started
            if turn:
                shares.append((total, spent["decode"] / total, spent["move"] / total))
    finally:
        torch.set_num_threads(threads)
        ZfpCodec.decode, stream_decode.move = plain  # type: ignore[method-assign, assignment]
    decode, move = (statistics.median(s[i] for s in shares) for i in (1, 2))
    total = statistics.median(s[0] for s in shares)
    rest = 1 - decode - move
    yield (
        "streaming, layer2 at 4 bits, share of CPU time that is not decoding or augmenting",
        f"{100 * rest:.1f}%",
        f"decoding {100 * decode:.1f}%, augmenting {100 * move:.1f}%, {1e6 * total / 10_000:.0f} us a sample in all",
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
    images = DataLoader(Jpegs(TRAIN * 4), batch_size=BATCH, shuffle=True, num_workers=1, persistent_workers=True)

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        loss = F.cross_entropy(suffix(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def ours() -> float:
        started = time.perf_counter()
        for batch in shards:
            step(batch[LAYER], batch["cls"])
        return 10_000 / (time.perf_counter() - started)

    def online() -> float:
        started = time.perf_counter()
        for x, y in images:
            step(prefix(x), y)
        return 10_000 / (time.perf_counter() - started)

    suffix.train()
    a, b = in_turns(min(reps, 3), ours, online)
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
    jpegs = DataLoader(Jpegs(TRAIN * 4), batch_size=BATCH, shuffle=True)
    mapped = DataLoader(Memmap(url, scratch / "features.f16"), batch_size=BATCH, shuffle=True)

    def rate(batches: object) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter()
            for _ in batches:  # type: ignore[attr-defined]
                pass
            return samples / (time.perf_counter() - started)

        return run

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ours, unmoved, bare, images, memmap = in_turns(reps, *(rate(b) for b in (shards, still, rows, jpegs, mapped)))
    torch.set_num_threads(threads)
    size = sum(p.stat().st_size for p in Path(url, LAYER).glob("*.tar")) / samples
    half = 32 * 16 * 16 * 2
    jpeg = sum(map(os.path.getsize, TRAIN)) / 2_500
    yield compared("samples/s a core, features augmented", "samples/s", ours, images, "JPEGs decoded and augmented")
    yield compared("samples/s a core, features augmented", "samples/s", ours, memmap, "fp16 memmap, no augmentation")
    yield compared("samples/s a core, not augmented", "samples/s", unmoved, memmap, "fp16 memmap")
    yield compared("samples/s a core, rows left compressed", "samples/s", bare, memmap, "fp16 memmap")
    yield (
        "bytes a sample, base and mirror, with labels and tar overhead",
        f"{size:,.0f}",
        f"{half:,} fp16 memmap of the base alone; {jpeg:,.0f} JPEG in its tar",
        f"{size / half:.2f}",
    )


class Jpegs(Dataset[tuple[torch.Tensor, int]]):
    """Bundled JPEGs, decoded, flipped, cropped and normalised on each access."""

    def __init__(self, tars: list[str]) -> None:
        self.raw: list[tuple[bytes, int]] = []
        for path in tars:
            with tarfile.open(path) as tar:
                fields = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
            self.raw += [(fields[n], int(fields[n[:-3] + "cls"])) for n in sorted(fields) if n.endswith("jpg")]
        self.augment = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(32, padding=4)])
        self.preprocess = parse_preprocess(CIFAR)

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        image = Image.open(io.BytesIO(self.raw[i][0])).convert("RGB")
        return self.preprocess.base(self.augment(image)), self.raw[i][1]


class Memmap(Dataset[tuple[torch.Tensor, int]]):
    """The same base features as fp16 in one memory-mapped file."""

    def __init__(self, url: str, path: Path) -> None:
        still = fmshards.loader(url, batch_size=BATCH, num_workers=0, train=False)
        self.labels: list[int] = []
        self.data = np.memmap(path, np.float16, "w+", shape=(10_000, 32, 16, 16))
        for batch in still:
            at = len(self.labels)
            self.data[at : at + BATCH] = batch[LAYER].numpy()
            self.labels += batch["cls"].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.data[i].astype(np.float32)), self.labels[i]


def feature_set(scratch: Path) -> str:
    """layer2 of the bundled ResNet-20 over the bundled images four times over: 10,000 samples, mirror stored."""
    model, weights = RESNET20
    out = scratch / "layer2"
    fmshards.extract(
        TRAIN * 4, out, model=model, weights=weights, layers={LAYER: 4}, preprocess=CIFAR, recipe=RECIPE, batch=100
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
