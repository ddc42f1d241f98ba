"""The streaming order: how well it shuffles, how even its fetches are, and what it costs for a hundred million samples.

    python tools/bench_order.py            # about a minute on one core; writes tools/results/bench_order.md

No images and no shards: an order is arithmetic. Beside it stand a perfect permutation of the samples, and chunks that
are permuted whole and shuffled inside, the coarse way (one lane, a window of one chunk).
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine, results, seconds, table, write_page
from numpy.typing import NDArray

from fmshards.codec import FeatureSpec, codec_for
from fmshards.reader import Catalog
from fmshards.shards import Grid, InputShard, LayerPlan, Manifest, Plan, ShardEntry
from fmshards.stream import order
from fmshards.stream.course.state import go_on
from fmshards.stream.order import Part
from fmshards.stream.order.deal import Deal, Job, Leg, choose_deal, memory_needed

Ids = NDArray[np.int64]

FREE = (None, None, None)
"""A deal of no given G, K, M."""

TOGETHER = 16
"""Batches over which fetches are counted: about as many as workers make ahead."""


@dataclass(frozen=True)
class Made:
    """An epoch's batches [T, B], as numbers of samples; the chunks fetched before each of them by one worker of one
    rank, for all of these workers [T, workers]."""

    batches: Ids
    fetches: Ids


def made(legs: tuple[Leg, ...], sizes: Ids, workers: int, seed: int = 0) -> Made:
    """The batches that are left of an epoch's last leg."""
    deal, done = legs[-1].deal, legs[-1].done
    firsts = np.cumsum(sizes) - sizes
    batches = np.empty((deal.batches - done, deal.batch), np.int64)
    fetches = np.zeros((deal.batches - done, workers), np.int64)
    for worker in range(workers):
        sample = np.empty(deal.lane_places * deal.groups * deal.lanes // workers, np.int64)
        for stretch in order.training(legs, sizes, seed, 0, Part(worker=worker, workers=workers)):
            before = 0
            for i, need in enumerate([*stretch.need.tolist(), len(stretch.chunk)]):
                if need > before:
                    rows = slice(stretch.start[before], stretch.start[need - 1] + stretch.count[need - 1])
                    chunk = np.repeat(stretch.chunk[before:need], stretch.count[before:need])
                    sample[stretch.place[rows]] = firsts[chunk] + stretch.row[rows]
                if i == len(stretch.batches):
                    break
                number = int(stretch.batches[i]) - done
                batches[number] = sample[stretch.emit[i]]
                fetches[number, worker] = max(need - before, 0)
                before = max(before, need)
    return Made(batches, fetches)


def alike(batches: Ids, kind: NDArray[np.integer]) -> float:
    """Pairs of a batch that are of one kind, the mean over batches."""
    kinds = np.sort(kind[batches], axis=1)
    pairs = 0
    for row in kinds:
        count = np.unique(row, return_counts=True)[1]
        pairs += int((count * (count - 1)).sum()) // 2
    return pairs / len(batches)


def entropy(batches: Ids, label: NDArray[np.integer]) -> float:
    """Bits of the labels of a batch, the mean over batches."""
    bits = 0.0
    for row in label[batches]:
        share = np.unique(row, return_counts=True)[1] / len(row)
        bits -= float((share * np.log2(share)).sum())
    return bits / len(batches)


def shuffled(samples: int, chunk: int, classes: int, batch: int, row_bytes: int) -> list[str]:
    """How like a perfect permutation batches are."""
    sizes = np.full(samples // chunk, chunk, np.int64)
    samples = int(sizes.sum())
    label = np.arange(samples) * classes // samples
    chunk_of = np.arange(samples) // chunk
    job = Job(samples, len(sizes), chunk, row_bytes, batch, 1, 4, 1 << 30)
    perfect = np.random.default_rng(0).permutation(samples)[: samples // batch * batch].reshape(-1, batch)
    least = alike(perfect, chunk_of)
    rows = [("a perfect permutation", "", f"{least:.1f}", "1", f"{entropy(perfect, label):.2f}")]
    stopped = Leg(choose_deal(job), samples // batch // 2)
    sides: list[tuple[str, tuple[Leg, ...], int]] = [
        ("`memory='8GB'`, 4 workers", (Leg(choose_deal(replace(job, memory=8 << 30))),), 4),
        ("`memory='1GB'`, 4 workers", (Leg(choose_deal(job)),), 4),
        ("the same, its second half dealt anew to 3 workers", go_on((stopped,), replace(job, workers=3), FREE), 3),
        ("`memory='1GB'`, no workers", (Leg(choose_deal(replace(job, workers=0))),), 1),
        ("`memory='200MB'`, 4 workers", (Leg(choose_deal(replace(job, memory=200_000_000))),), 4),
        ("coarse: chunks permuted whole, shuffled inside", (Leg(Deal(samples, chunk, batch, 1, 1, 1)),), 1),
    ]
    for name, legs, workers in sides:
        deal, batches = legs[-1].deal, made(legs, sizes, workers).batches
        pairs = alike(batches, chunk_of)
        shape = f"{deal.groups} x {deal.lanes}, {deal.window}"
        rows.append((name, shape, f"{pairs:,.1f}", f"{pairs / least:,.0f}", f"{entropy(batches, label):.2f}"))
    return table(("order", "G x K, M", "pairs of one chunk", "times perfect", "bits of labels"), rows)


def fetched(chunk: int) -> list[str]:
    """How evenly chunks are fetched, all workers together."""
    rows = []
    for samples, what in ((1_000_000, "1,000,000"), (1 << 20, "1,048,576, whose lanes are whole chunks")):
        for window in (1, 4, 16):
            sizes = np.full(samples // chunk, chunk, np.int64)
            deal = Deal(int(sizes.sum()), chunk, 256, 1, 64, window)
            fetches = made((Leg(deal),), sizes, 1).fetches[:, 0]
            full = fetches[deal.span // deal.share : -deal.span // deal.share]
            some = np.convolve(full, np.ones(TOGETHER), "valid") / TOGETHER
            cells = (full.mean(), some.max(), full.max(), fetches[0])
            rows.append((what, f"1 x 64, {window}", *(f"{cell:.2f}" for cell in cells[:2]), *map(str, cells[2:])))
    most = f"the most over {TOGETHER} batches"
    return table(("samples", "G x K, M", "chunks a batch, mean", most, "over one", "before the first"), rows)


def large(samples: int, shard: int, chunk: int, workers: int) -> list[str]:
    """Seconds and memory of everything that grows with the set, on one worker of four."""
    rows = []
    catalog = measured(rows, "manifest.json, made into a catalog", lambda: read(manifest_bytes(samples, shard, chunk)))
    sizes = measured(rows, "lengths of all chunks", lambda: catalog.sizes)
    job = Job(samples, catalog.chunks, chunk, 4096, 256, 1, workers, 4 << 30)
    deal = choose_deal(job)
    part = Part(worker=0, workers=workers)
    first = Leg(deal)
    half = Leg(deal, deal.batches // 2)
    anew = go_on((half,), replace(job, workers=3), FREE)

    def begin(legs: tuple[Leg, ...], part: Part = part) -> list[order.Stretch]:
        return list(islice(order.training(legs, sizes, 0, 0, part), 1))

    measured(rows, "an epoch's first batches", lambda: begin((first,)))
    measured(rows, "the batches after half of it", lambda: begin((half,)))
    measured(rows, "the same, dealt anew to 3 workers", lambda: begin(anew, Part(workers=3)))
    measured(rows, "a thousand batches more", lambda: thousand(order.training((first,), sizes, 0, 0, part)))
    note = (
        f"{samples:,} samples in {samples // shard:,} shards and {catalog.chunks:,} chunks of {chunk}; "
        f"G x K = {deal.groups} x {deal.lanes}, M = {deal.window}; one worker of {workers}. Peak: what Python and "
        "numpy held at most while it ran, `tracemalloc`. A rank states "
        f"{memory_needed(deal, job) / 1e6:,.0f} MB for all its workers, most of it rows."
    )
    return [note, "", *table(("what", "CPU seconds", "peak, MB", "kept, MB"), rows)]


def thousand(stretches: Iterator[order.Stretch]) -> int:
    count = 0
    while count < 1000:
        count += len(next(stretches).batches)
    return count


def measured(rows: list[tuple[str, ...]], name: str, work: Callable[[], Any]) -> Any:
    """What `work` returns; a row for its seconds of CPU, without tracing, and its memory, in a second run."""
    took = seconds(work, time.process_time)()
    tracemalloc.start()
    out = work()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    rows.append((name, f"{took:.2f}", f"{peak / 1e6:,.1f}", f"{kept / 1e6:,.1f}"))
    return out


def manifest_bytes(samples: int, shard: int, chunk: int) -> bytes:
    """The manifest of a set that nobody has written."""
    codec = codec_for("4", FeatureSpec("map", (32, 16, 16)))
    layer = LayerPlan(
        name="layer2",
        cut="layer2",
        codec=codec.config(),
        view_codec=None,
        sensitive=(),
        similarity=None,
        grid=Grid((2.0, 2.0), (0.5, 0.5)),
        flops=1,
        dtype="float32",
        nonnegative=True,
        mirror_error=None,
        mirror_channels=(),
        mirror_codec=None,
    )
    names = [f"{number:06d}" for number in range(samples // shard)]
    plan = Plan(
        identity={"layers": {"layer2": {"cut": "layer2", "prefix": "0" * 64}}, "seed": 0},
        options={},
        provenance={},
        inputs=tuple(InputShard(name, f"{name}.tar", None, shard, None) for name in names),
        chunk=chunk,
        base_size=(32, 32),
        recipe={"steps": []},
        mirror={"way": "none"},
        views=0,
        references=("base",),
        members=("base",),
        layers=(layer,),
        classes=None,
        calibration=None,
    )
    size = shard * (codec.row_bytes + 100)
    entries = tuple(ShardEntry(f"{name}.tar", shard, size, "0" * 64, size - 20_000, 10_000) for name in names)
    return Manifest(plan, {"layer2": entries}, {}, samples).to_bytes()


def read(data: bytes) -> Catalog:
    manifest = Manifest.from_bytes(data, "manifest.json")
    catalog = Catalog("set", manifest, manifest.plan.layers)
    catalog.check()
    return catalog


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000, help="of the set whose shuffling is looked at")
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--row-bytes", type=int, default=8192)
    parser.add_argument("--large", type=int, default=100_000_000, help="samples of the set whose costs are measured")
    parser.add_argument("--out", type=Path, default=results("bench_order.md"))
    options = parser.parse_args()
    write_page(
        options.out,
        [
            "# The streaming order",
            "",
            f"`python tools/bench_order.py --samples {options.samples} --large {options.large}`",
            "",
            f"{machine(1)}",
            "",
            "## How well it shuffles",
            "",
            f"{options.samples:,} samples sorted by label, {options.classes:,} labels, chunks of {options.chunk}, "
            f"batches of {options.batch}, rows of {options.row_bytes} bytes. *Pairs of one chunk*: of a batch's "
            f"{options.batch * (options.batch - 1) // 2:,} pairs, how many come from one chunk. *Bits of labels*: the "
            "entropy of a batch's labels.",
            "",
            *shuffled(options.samples, options.chunk, options.classes, options.batch, options.row_bytes),
            "",
            "## How evenly it fetches",
            "",
            "Chunks that are fetched before a batch of 256, once windows are full and before they empty. An epoch "
            "begins with a chunk or more for each lane. Where lanes are whole chunks, all lanes come to a new one at "
            "about the same time.",
            "",
            *fetched(options.chunk),
            "",
            "## What it costs",
            "",
            *large(options.large, 10_000, options.chunk, 4),
        ],
    )


if __name__ == "__main__":
    main()
