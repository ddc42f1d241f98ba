"""FeatureDataset: batches of a shard set, for any number of ranks and workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset, get_worker_info

from fmshards.errors import InputError
from fmshards.place import check_rank, current_rank
from fmshards.reader.catalog import PLAIN, Catalog, Combination, open_catalog
from fmshards.reader.fetch import Fetcher, read_ahead
from fmshards.stream import order
from fmshards.stream.batch import batch_of, chunk_columns
from fmshards.stream.deal import READ_AHEAD, Job, choose_deal, evaluation_memory, memory_needed
from fmshards.stream.decode import FeatureDecoder
from fmshards.stream.epoch import EpochCounter
from fmshards.stream.window import Window
from fmshards.units import parse_bytes

Batch = dict[str, Any]


class FeatureDataset(IterableDataset[Batch]):
    """Batches of the set at `url`: an iterable of whole batches, to be read with `DataLoader(..., batch_size=None)`.

    A batch is a dict: each layer `dtype` [b, *shape]; `cls` int64 [b]; other fields lists; `__key__` list of str;
    `theta` float32 [b, 2, 3]; `view` int64 [b], 0 for none; `mirrored` bool [b]; `valid` bool [b]. With
    `decode=False`, uint8 `<layer>.rows` [b, row_bytes] and, where views are stored, `<layer>.view_rows` stand in for
    the layer (the view's alone where a view is whole), for a FeatureDecoder. A field named like a layer or like one
    of these comes as `field.<name>`.

    batch_size: b, samples of one rank's batch. layers: names, None for all. train: epochs that differ, in the order
    of order.py, augmented unless `augment` is False; else the stored order, `base` only, the last batch filled up
    with `valid` False there. model: a full model, refused unless it is the one that wrote the set. memory: bytes (or
    "2GB") that one rank's windows of compressed rows may take, over all its workers; see `memory_needed`.
    groups, lanes, window: G, K, M of the order where they should not follow from workers, ranks and memory: fix
    them to have the same batches whatever those are. rank, ranks: this process among others; by default
    torch.distributed's, or RANK and WORLD_SIZE. epoch: the first one; epochs advance by themselves, see `set_epoch`.

    Raises InputError, MismatchError or FormatError at once for what can be known at once (an unknown layer, a batch
    larger than the set, too little memory, another model's set); the number of workers is known when the first
    batch is asked for.
    """

    def __init__(
        self,
        url: str,
        layers: Sequence[str] | str | None = None,
        batch_size: int = 64,
        seed: int = 0,
        memory: int | str = "1GB",
        train: bool = True,
        model: nn.Module | None = None,
        decode: bool = True,
        dtype: torch.dtype = torch.float32,
        *,
        augment: bool = True,
        groups: int | None = None,
        lanes: int | None = None,
        window: int | None = None,
        rank: int | None = None,
        ranks: int | None = None,
        epoch: int = 0,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size is a whole number from 1 on, found {batch_size!r}")
        if (rank is None) != (ranks is None):
            raise InputError("rank and ranks go together: give both, or neither")
        self.catalog: Catalog = open_catalog(str(url), layers, model)
        self.batch_size = batch_size
        self.seed = seed
        self.memory = parse_bytes(memory)
        self.train = train
        self.augment = augment and train
        self._fetcher = Fetcher(self.catalog)
        self._decoder = FeatureDecoder(self.catalog, dtype=dtype) if decode else None
        self._shape = (groups, lanes, window)
        self._given = None if rank is None or ranks is None else check_rank(rank, ranks)
        self._captured = self._given or current_rank()
        self._epochs = EpochCounter(epoch)
        if self._captured is not None:
            self._plan(self._captured[1], 0)

    def __len__(self) -> int:
        """Batches that one rank's loader yields in an epoch, over all its workers: the same for every rank."""
        samples, batch = self.catalog.manifest.samples, self.batch_size * self._rank()[1]
        return samples // batch if self.train else -(-samples // batch)

    def __iter__(self) -> Iterator[Batch]:
        # The epoch begins here, not at the first batch: every worker of an iteration must begin the same one. What
        # may fail comes later, since a persistent worker that fails here dies without a word.
        epoch = self._epochs.begin() if self.train else 0
        return self._batches(epoch)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration will be."""
        return self._epochs.next

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch `epoch`; reaches workers that persist. Later ones count on from there."""
        self._epochs.set(epoch)

    def memory_needed(self, workers: int = 0) -> int:
        """Bytes of compressed rows that one rank with `workers` workers holds at most: windows, reading ahead and
        the batches being made. Decoded batches that wait in the DataLoader, keys and fields come on top."""
        ranks = self._rank()[1]
        job = self._job(ranks, workers)
        return memory_needed(self._plan(ranks, workers), job) if self.train else evaluation_memory(job)

    def prepare(self) -> None:
        """Before workers start: see FeatureDecoder.prepare. Nothing to do where rows are left as they are."""
        if self._decoder is not None:
            self._decoder.prepare()

    def deal(self, workers: int = 0) -> order.Deal:
        """N, n, B, G, K, M of a training order with `workers` workers a rank."""
        return self._plan(self._rank()[1], workers)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (0, 0) if info is None else (info.id, info.num_workers)
        rank, ranks = self._rank()
        every = max(workers, 1)
        sizes, shown = self.catalog.sizes, self.catalog.combinations
        if self.train:
            deal = self._plan(ranks, workers)
            schedule = order.training(deal, sizes, self.seed, epoch, rank, ranks, worker, every)
        else:
            self._plan(ranks, workers)
            schedule = order.evaluation(sizes, self.batch_size * ranks, rank, ranks, worker, every)
        if self.augment:
            drawn = order.combinations(len(sizes), len(shown), self.seed, epoch)
            wanted = ((int(chunk), shown[drawn[chunk]]) for chunk in schedule.chunk)
        else:
            wanted = ((int(chunk), PLAIN) for chunk in schedule.chunk)
        yield from self._make(schedule, wanted, epoch)

    def _make(self, schedule: order.Schedule, wanted: Iterator[tuple[int, Combination]], epoch: int) -> Iterator[Batch]:
        window = Window(schedule)
        fetched = read_ahead(self._fetcher, wanted, READ_AHEAD)
        layers = [layer.name for layer in self.catalog.layers]
        for i, need in enumerate(schedule.need.tolist()):
            while window.fetched < need:
                chunk = next(fetched)
                window.put(chunk_columns(chunk, layers), chunk.where)
                del chunk
            valid = None if schedule.valid is None else schedule.valid[i]
            batch = batch_of(window.take(i), valid, self.catalog, self.seed, epoch, self.augment)
            yield batch if self._decoder is None else self._decoder(batch)

    def _plan(self, ranks: int, workers: int) -> order.Deal:
        job = self._job(ranks, workers)
        if self.train:
            return choose_deal(job, *self._shape)
        needed = evaluation_memory(job)
        if needed > self.memory:
            raise InputError(
                f"memory={self.memory} does not hold the least that reading this set takes: {needed} bytes for "
                f"batch_size={self.batch_size} and {workers} workers; give more memory or fewer workers"
            )
        return order.Deal(job.samples, job.chunk, job.batch, 1, 1, 1)

    def _job(self, ranks: int, workers: int) -> Job:
        catalog = self.catalog
        shown = catalog.combinations if self.augment else (PLAIN,)
        return Job(
            samples=catalog.manifest.samples,
            chunks=len(catalog.sizes),
            chunk=catalog.manifest.plan.chunk,
            row_bytes=max(catalog.row_bytes(combination) for combination in shown),
            batch_size=self.batch_size,
            ranks=ranks,
            workers=workers,
            memory=self.memory,
        )

    def _rank(self) -> tuple[int, int]:
        """(rank, ranks): as given, else as they are now in the main process, else as they were there."""
        if self._given is not None:
            return self._given
        if get_worker_info() is None or (torch.distributed.is_available() and torch.distributed.is_initialized()):
            self._captured = current_rank()
        if self._captured is None:
            raise InputError(
                "WORLD_SIZE says that there are other ranks, but neither RANK nor torch.distributed tells which one "
                "this is: initialise torch.distributed before iterating, or give rank and ranks"
            )
        return self._captured

    def __getstate__(self) -> dict[str, Any]:
        # Spawned workers know nothing of torch.distributed: what is known here travels with the data set.
        if self._given is None and get_worker_info() is None:
            self._captured = current_rank()
        return dict(self.__dict__)

    def __repr__(self) -> str:
        names = ", ".join(layer.name for layer in self.catalog.layers)
        mode = "train" if self.train else "evaluate"
        try:
            held = f"holds at most {self.memory_needed()} bytes without workers"
        except InputError:
            held = "rank not known yet"
        return (
            f"FeatureDataset({self.catalog.url!r}, layers={names}, {self.catalog.manifest.samples} samples, {mode}, "
            f"batch_size={self.batch_size}, {held}, memory={self.memory})"
        )
