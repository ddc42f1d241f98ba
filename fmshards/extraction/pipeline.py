"""The function: bind to the set at the output, run what is missing, write the manifest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import closing
from functools import partial
from typing import Any, TextIO

import torch
from torch import nn

from fmshards.augment import Mirror
from fmshards.clock import Clock
from fmshards.extraction.batches import Batch, decoded_batches, is_worker_death, worker_died
from fmshards.extraction.bind import check_plan, find_plan, publish_plan
from fmshards.extraction.decode import Decoder, Views
from fmshards.extraction.draft import draft_plan
from fmshards.extraction.encode import Background, Features, ShardSink
from fmshards.extraction.forward import Forward
from fmshards.extraction.labels import LabelRuns
from fmshards.extraction.options import Rate, Request, make_request
from fmshards.extraction.progress import Progress, stream_of
from fmshards.model import multi_prefix
from fmshards.shards import (
    Manifest,
    Plan,
    ShardEntry,
    entry_of,
    is_whole,
    layer_url,
    make_manifest,
    remove_manifest,
    remove_set,
    write_manifest,
)


def extract(
    source: Any,
    out: str | os.PathLike[str],
    *,
    model: str | nn.Module,
    layers: Mapping[str, Rate],
    weights: str | None = None,
    preprocess: Any = None,
    recipe: Any = None,
    mirror: str | Mirror = "stored",
    views: int = 0,
    sensitive: Any = None,
    calibration: int = 512,
    batch: int = 64,
    device: str | torch.device | None = None,
    precision: str = "float32",
    workers: int = 0,
    chunk: int | None = None,
    filter: str | None = None,
    shard_size: int | None = None,
    image_field: str | None = None,
    order: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    progress: bool | TextIO | None = None,
) -> Manifest:
    """Run the layers of `model` up to each cut once over `source`, and write a shard set at `out`.

    What is whole at `out` is kept: the same call goes on where it was stopped, and returns at once where the set is
    whole. Equal calls give equal bytes, whatever the number of workers and however often they were killed.

    source: WebDataset tars (text with braces, a list, a folder of tars; paths or fsspec URLs), a folder of images in
        class folders, or a map-style data set of images, (image, label) pairs or dicts.
    out: a folder, or an fsspec URL.
    model, weights: text as on the command line, or a module (used as it is, in eval mode).
    layers: cut name -> rate: bits a value (ZFP); "int2" to "int8", a scale and an offset for each sample and channel;
        "int2-channel" to "int8-channel", for each channel; or "fp32", "fp16", "bf16".
    preprocess: text, or a function from a PIL image to a float tensor [3, H, W].
    recipe, mirror, views, sensitive: the augmentation that training may use; see `fmshards.augment`.
    calibration: samples that similarities, grid, fill, the mapped mirror, steps of channels and their order are
        measured on.
    batch: samples in one forward. Part of what decides the last bits of a feature.
    precision: float32, or autocast to bf16 or fp16; features are stored from float32 in any case.
    workers: processes that read and decode images.
    chunk: samples in a chunk; by default 4 MB of the largest row, within 8 to 256.
    filter: "zstd" makes what is stored smaller without loss; reading undoes it.
    shard_size: samples in a shard, for a folder or a data set.
    image_field: the field that holds the image, where it is not the only one that can.
    order: "auto" stores channels like beside like where that lowers the error of a ZFP rate, "none" as they are.
    overwrite: replace what is at `out`. Stopped in between, the old set is there, or none.
    progress: True shows it on standard error, a stream there.

    Raises InputError (options, source, an image: shard and key named), ModelError, MismatchError (`out` holds a set
    made otherwise), StoreError (reading or writing failed, a full disk) and others of `fmshards.errors`.
    """
    out = os.fspath(out)
    request = make_request(
        source,
        out,
        model=model,
        layers=layers,
        weights=weights,
        preprocess=preprocess,
        recipe=recipe,
        mirror=mirror,
        views=views,
        sensitive=sensitive,
        calibration=calibration,
        batch=batch,
        device=device,
        precision=precision,
        workers=workers,
        chunk=chunk,
        filter=filter,
        shard_size=shard_size,
        image_field=image_field,
        order=order,
        seed=seed,
    )
    plan, manifest = _bind(request, overwrite)
    if manifest is not None:
        return manifest
    shards = _Run(request, plan, stream_of(progress)).run()
    manifest = make_manifest(out, plan, shards)
    write_manifest(out, manifest)
    return manifest


def _bind(request: Request, overwrite: bool) -> tuple[Plan, Manifest | None]:
    """The plan to work by, and the manifest where there is nothing left to do."""
    out, inputs = request.out, request.source.inputs
    stored, manifest = (None, None) if overwrite else find_plan(out)
    if stored is None:
        draft, arrays = draft_plan(request)
        if overwrite:
            remove_set(out, list(request.layers))
        return publish_plan(out, draft, arrays, request.decided(draft.base_size)), None
    # Without a size in the preprocessing the images decide it: what the plan says is checked against each of them.
    check_plan(out, stored, request.decided(request.preprocess.size or stored.base_size), inputs)
    if manifest is None:
        return stored, None
    if is_whole(out, manifest):
        return stored, manifest
    warnings.warn(f"{out} has a manifest, but shards are missing or cut short: they are made again", stacklevel=3)
    remove_manifest(out)
    return stored, None


class _Run:
    """One pass over what is missing in a set."""

    def __init__(self, request: Request, plan: Plan, stream: TextIO | None) -> None:
        self.request, self.plan = request, plan
        self.clock = Clock()
        self.progress = Progress(stream, sum(map(request.source.work, range(len(plan.inputs)))), self.clock)
        self.entries: dict[str, dict[str, ShardEntry]] = {layer.name: {} for layer in plan.layers}
        self.missing: dict[int, list[str]] = {}
        self.labels = LabelRuns()
        self.sink: ShardSink | None = None
        self.pool: Executor | None = None
        self.work = 0

    def run(self) -> dict[str, list[ShardEntry]]:
        """Write what is missing; the entries of all shards, by layer, in the order of the input."""
        request, plan = self.request, self.plan
        example = torch.zeros(1, 3, *plan.base_size, device=request.device)
        prefix = multi_prefix(request.model, [layer.cut for layer in plan.layers], analysis=request.analysis(example))
        forward = Forward(prefix, plan, request.device, request.precision)
        views = Views(request.recipe, request.mirror, plan.views, request.seed) if plan.views else None
        batches = decoded_batches(
            request.source,
            self._shards(),
            request.batch,
            Decoder(request.source, request.preprocess, plan.base_size, views),
            request.workers,
            request.device.type == "cuda",
            self.clock,
        )
        background = Background(self.clock)
        self.pool = background.pool
        try:
            with closing(batches):
                for batch in batches:
                    with self.clock.span("forward"):
                        features = forward(batch)
                    background.submit(partial(self._write, batch, features))
                background.drain()
        except BaseException as error:
            self._stop(background, error)
            if is_worker_death(error):
                raise worker_died(error) from None
            raise
        background.close()
        self.progress.finish()
        return {name: [found[shard.name] for shard in plan.inputs] for name, found in self.entries.items()}

    def _stop(self, background: Background, error: BaseException) -> None:
        """End the threads and leave no shard half written."""
        while True:
            try:
                background.close()
                if self.sink is not None:
                    self.sink.abort(error)
                return
            except RuntimeError as again:
                # The signal handler of the DataLoader raises once more for each process that ends.
                if not is_worker_death(again):
                    raise

    def _shards(self) -> Iterator[int]:
        """The input shards of which a layer's shard is missing, looked up when each has its turn: another process may
        have written it meanwhile."""
        for i, shard in enumerate(self.plan.inputs):
            missing = []
            for layer in self.plan.layers:
                url = layer_url(self.request.out, layer.name, f"{shard.name}.tar")
                entry = entry_of(url, self.plan.digest, layer.name)
                if entry is None:
                    missing.append(layer.name)
                else:
                    self.entries[layer.name][shard.name] = entry
            if missing:
                self.missing[i] = missing
                yield i
            else:
                self.progress.skip(self.request.source.work(i))

    def _write(self, batch: Batch, features: Features) -> None:
        """Runs in the background, one batch after another."""
        if self.sink is None:
            self.work = 0
            self.sink = ShardSink(
                self.request.out, self.plan, batch.shard, self.missing[batch.shard], self.pool, self.clock
            )
        sink, before = self.sink, self.sink.written
        sink.add(batch, features)
        self.labels.add(batch.shard, batch.fields)
        if batch.last:
            name = self.plan.inputs[batch.shard].name
            for layer, entry in sink.close().items():
                self.entries[layer][name] = entry
            self.sink = None
            self.labels.warn(self.request.source_text)
        self.progress.update(len(batch.keys), sink.written - before, batch.work - self.work)
        self.work = batch.work
