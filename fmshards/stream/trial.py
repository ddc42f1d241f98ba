"""`fmshards bench`: a set streamed without a trainer, what limits it, and what to change."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from fmshards.errors import InputError
from fmshards.place import cores
from fmshards.stream.dataset import FeatureDataset
from fmshards.stream.loading import FeatureLoader, loader
from fmshards.stream.stats import STAGES

LIMITS = {
    "store_s": "the store",
    "window_s": "order and window",
    "decode_s": "decoding",
    "augment_s": "augmenting",
    "consumer_s": "handing batches to the main process",
}


def bench(url: str | os.PathLike[str], seconds: float = 10.0, **options: Any) -> dict[str, Any]:
    """Stream the set at `url` for some seconds, from the first batch on, over as many epochs as that takes.

    options: those of `loader`. The answer, plain data for JSON: `samples_s` and `bytes_s`, a second; `first_s`, to the
    first batch; `workers`, `batch_size`, `samples`, `seconds`; `shares`, each stage's of the time that the workers had;
    `limit`, the stage that took most of it, one of LIMITS; `advice`, what may be changed; `stats`, as `loader.stats`.
    Raises InputError where `seconds` is no positive number, and as `loader`.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        raise InputError(f"seconds is a positive number, found {seconds!r}")
    made = time.perf_counter()
    batches = loader(url, **options)
    dataset = batches.dataset
    if not isinstance(dataset, FeatureDataset):
        raise InputError(f"url: expected that of one set, found several: {url}")
    epochs = _epochs(batches)
    next(epochs)
    began, before, samples = time.perf_counter(), batches.stats(), 0
    for batch in epochs:
        samples += len(batch["valid"])
        if time.perf_counter() - began >= seconds:
            break
    took = time.perf_counter() - began
    stats = {name: value - before[name] for name, value in batches.stats().items()}
    return _report(batches, dataset, stats, samples, took, began - made)


def _epochs(batches: FeatureLoader) -> Iterator[dict[str, Any]]:
    while True:
        yield from batches


def _report(
    batches: FeatureLoader,
    dataset: FeatureDataset,
    stats: dict[str, float],
    samples: int,
    took: float,
    first: float,
) -> dict[str, Any]:
    busy = sum(stats[stage] for stage in STAGES) or 1.0
    shares = {stage: stats[stage] / busy for stage in STAGES}
    limit = max(shares, key=lambda stage: shares[stage])
    return {
        "set": dataset.catalog.url,
        "samples_s": samples / took,
        "bytes_s": stats["bytes"] / took,
        "first_s": first,
        "workers": batches.num_workers,
        "batch_size": dataset.batch_size,
        "samples": samples,
        "seconds": took,
        "shares": shares,
        "limit": LIMITS[limit],
        "advice": _advice(limit, batches, dataset),
        "stats": stats,
    }


def _advice(limit: str, batches: FeatureLoader, dataset: FeatureDataset) -> list[str]:
    """What may be changed where a stage takes most of the time, the cheapest first."""
    out = []
    if batches.num_workers < cores() and limit != "consumer_s":
        out.append(f"more workers: num_workers={batches.num_workers + 1}, of {cores()} cores")
    if limit == "store_s":
        layers = [layer.base_codec for layer in dataset.catalog.layers]
        if any(codec.filter is None for codec in layers):
            out.append("fewer bytes: a set of a lower rate, or with --filter zstd, which pays while a store is slow")
        out.append("a copy of the set nearer by")
    elif limit in ("decode_s", "augment_s") and dataset.decodes:
        out.append("decode and augment on the GPU: decode=False here, and fmshards.FeatureDecoder on the rows there")
        if limit == "augment_s" and dataset.augment:
            out.append("crops by whole cells, which are copies: a recipe whose crop has no step=")
        elif limit == "decode_s":
            out.append("a rate that decodes faster: tools/bench_codec.py measures them")
    elif limit == "window_s":
        out.append("larger batches; a set of larger chunks (extract --chunk)")
    elif limit == "consumer_s":
        if dataset.decodes:
            out.append('smaller batches to hand over: dtype="float16" halves them, decode=False sends compressed rows')
        out.append("num_workers=0, where the trainer leaves this process's core free")
    return out
