"""`decode_chunks`: a stage for a hand-built WebDataset pipeline over the shards' URLs.

It takes the place of WebDataset's tar reader, which reads a shard that is cut short or changed without a word: whole
chunks are read through the shard's index, and every checksum is verified before a sample is yielded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import get_worker_info

from fmshards import store
from fmshards.augment import Recipe
from fmshards.errors import InputError, warn
from fmshards.reader import PLAIN, Fetcher, layer_names, open_catalog
from fmshards.stream import order
from fmshards.stream.arguments import dtype_of, field_names, flag, given_to, memory_bytes, whole
from fmshards.stream.batch import KEYS, batch_of, chunk_columns, fresh_thetas
from fmshards.stream.course.epoch import EpochCounter, Position
from fmshards.stream.decode import FeatureDecoder
from fmshards.stream.samples import check_chunk

_AT_ONCE = 32
"""Samples decoded in one call: enough to be quick, few enough to hold little."""


class ChunkDecoder:
    """The stage that `decode_chunks` makes: called with an iterator of `{"url": ...}`, it yields samples."""

    def __init__(
        self,
        layers: Sequence[str] | str | None,
        augment: bool,
        recipe: str | Recipe | None,
        seed: int,
        epoch: int,
        dtype: torch.dtype,
        fields: Sequence[str] | None,
        memory: int,
    ) -> None:
        self.layers = layers
        self.augment = augment
        self.recipe = recipe
        self.seed = seed
        self.dtype = dtype
        self.fields = fields
        self.memory = memory
        self._epochs = EpochCounter(epoch)

    @property
    def epoch(self) -> int:
        """The epoch that the next run of the pipeline will be."""
        return self._epochs.next.epoch

    def set_epoch(self, epoch: int) -> None:
        """Make the next run of the pipeline epoch `epoch`; later ones count on from there."""
        self._epochs.set(Position(whole("epoch", epoch, 0)))

    def __call__(self, source: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """Samples of the shards that `source` names, each shard's in stored order."""
        return self._samples(source, self._epochs.begin().epoch)

    def _samples(self, source: Iterable[Any], epoch: int) -> Iterator[dict[str, Any]]:
        known: dict[tuple[str, str], tuple[Fetcher, FeatureDecoder]] = {}
        if not isinstance(source, Iterable):
            raise InputError(f"decode_chunks takes an iterable of shards' URLs, found {type(source).__name__}")
        for item in source:
            url = item.get("url") if isinstance(item, dict) else item
            url = os.fspath(url) if isinstance(url, os.PathLike) else url
            if not isinstance(url, str):
                raise InputError(
                    "decode_chunks takes shards' URLs, as SimpleShardList yields them: put it after the shard list "
                    f"and its splitting, in place of tarfile_to_samples; found {str(item)[:80]}"
                )
            folder, name = store.parent(url), url.rstrip("/").rsplit("/", 1)[-1]
            place = store.parent(folder), folder.rstrip("/").rsplit("/", 1)[-1]
            if place not in known:
                catalog = open_catalog(place[0], place[1] if self.layers is None else self.layers, recipe=self.recipe)
                check_chunk(catalog, catalog.combinations if self.augment else (PLAIN,), self.memory)
                info = get_worker_info()
                if self.augment and (info is None or info.id == 0):
                    for line in catalog.cautions:
                        warn(line)
                known[place] = Fetcher(catalog, self.fields), FeatureDecoder(catalog, dtype=self.dtype)
            yield from self._shard(url, name, *known[place], epoch)

    def _shard(
        self, url: str, name: str, fetcher: Fetcher, decoder: FeatureDecoder, epoch: int
    ) -> Iterator[dict[str, Any]]:
        catalog = fetcher.catalog
        if name not in catalog.shard_names:
            raise InputError(f"{url}: the manifest of {catalog.url} has no shard {name}; check the URL")
        shown = catalog.combinations
        drawn = order.Combinations(len(shown), self.seed, epoch)
        thetas = fresh_thetas(catalog, self.seed, epoch) if self.augment else None
        layers = [layer.name for layer in catalog.layers]
        for chunk in catalog.chunks_of(catalog.shard_names.index(name)):
            combination = shown[drawn.of(chunk)] if self.augment else PLAIN
            columns = chunk_columns(fetcher.fetch(chunk, combination), layers, {}, thetas)
            for at in range(0, len(columns[KEYS]), _AT_ONCE):
                part = {key: column[at : at + _AT_ONCE].copy() for key, column in columns.items()}
                batch = decoder(batch_of(part, None))
                yield from _split(batch, url)


def decode_chunks(
    layers: Sequence[str] | str | None = None,
    *,
    augment: bool = True,
    recipe: str | Recipe | None = None,
    seed: int = 0,
    epoch: int = 0,
    dtype: torch.dtype | str = torch.float32,
    fields: Sequence[str] | str | None = None,
    memory: int | str = "1GB",
) -> ChunkDecoder:
    """A stage `{"url": SET/LAYER/000000.tar}` -> samples, for a wds.DataPipeline; any WebDataset stage may follow.

        wds.DataPipeline(wds.SimpleShardList(urls), wds.split_by_node, wds.split_by_worker,
                         fmshards.decode_chunks(), wds.shuffle(1000), wds.batched(64))

    A sample is a dict: `__key__`, `__url__`, the layer `dtype` [*shape], `cls` int and the other fields, decoded;
    `theta` float32 [2, 3], `view` int and `mirrored` bool say how it was augmented. A `wds.decode` after it takes
    `partial=True`, since values are not bytes any more. `layers`: those to read side by side; None is the one whose
    folder the URL names. augment: False gives base features unmoved. recipe: what training does to an image in place
    of the set's own recipe, as FeatureDataset takes it. Each run of the pipeline is the next epoch, in all workers
    alike; `set_epoch` sets it. fields: names of the stored fields to decode and hand on, None for all, [] for none.
    memory: bytes (or "2GB") that the rows of the one chunk that is held may take.

    Raises InputError for arguments, and at the first sample of a shard FormatError where its set is not whole,
    InputError where the set has no such shard, layer or field, cannot serve the recipe or its chunks do not fit the
    memory, CorruptError where bytes are missing or changed.
    """
    augments = flag("augment", augment)
    return ChunkDecoder(
        layer_names(layers),
        augments,
        given_to(recipe, augments),
        whole("seed", seed),
        whole("epoch", epoch, 0),
        dtype_of(dtype),
        field_names(fields),
        memory_bytes(memory),
    )


def _split(batch: dict[str, Any], url: str) -> Iterator[dict[str, Any]]:
    batch.pop("valid")
    for i, key in enumerate(batch.pop(KEYS)):
        sample: dict[str, Any] = {KEYS: key, "__url__": url}
        for name, values in batch.items():
            value = values[i]
            if isinstance(value, torch.Tensor):
                # A copy, since a shuffle buffer would keep the whole batch alive for one sample of it.
                value = value.item() if value.dim() == 0 else value.clone()
            sample[name] = value
        yield sample
