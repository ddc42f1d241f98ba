"""`fmshards.loader`: a DataLoader over a set with settings that suit it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from fmshards.errors import InputError
from fmshards.stream.dataset import Batch, FeatureDataset

_MOST_WORKERS = 4


class FeatureLoader(DataLoader[Batch]):
    """A DataLoader over a FeatureDataset: `len(loader)` batches an iteration, and `set_epoch`."""

    dataset: FeatureDataset

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch `epoch`; without it, epochs count by themselves."""
        self.dataset.set_epoch(epoch)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration will be."""
        return self.dataset.epoch

    @property
    def memory_needed(self) -> int:
        """Bytes of compressed rows that this rank holds at most; see FeatureDataset.memory_needed."""
        return self.dataset.memory_needed(self.num_workers)


def loader(
    url: str,
    batch_size: int = 64,
    *,
    layers: Sequence[str] | str | None = None,
    num_workers: int | None = None,
    seed: int = 0,
    memory: int | str = "1GB",
    train: bool = True,
    augment: bool = True,
    model: nn.Module | None = None,
    decode: bool = True,
    dtype: torch.dtype = torch.float32,
    groups: int | None = None,
    lanes: int | None = None,
    window: int | None = None,
    rank: int | None = None,
    ranks: int | None = None,
    epoch: int = 0,
    pin_memory: bool | None = None,
    prefetch_factor: int | None = None,
    persistent_workers: bool | None = None,
    **options: Any,
) -> FeatureLoader:
    """A loader of the set at `url`; FeatureDataset says what a batch is and what the arguments mean.

    num_workers: by default one for each core this process may use, up to 4 and never more than batches (none on one
    core). pin_memory: where there is a CUDA device. persistent_workers: where there are workers. `options` go to
    torch's DataLoader.

    Raises InputError, MismatchError or FormatError, as FeatureDataset, before a worker starts: the number of workers
    is known here, so that memory and divisibility are checked too.
    """
    fixed = sorted(options.keys() & {"dataset", "shuffle", "sampler", "batch_sampler", "drop_last", "collate_fn"})
    if fixed:
        raise InputError(f"{fixed[0]} is not for a loader over shards: its data set makes whole batches, in its order")
    dataset = FeatureDataset(
        url,
        layers,
        batch_size,
        seed,
        memory,
        train,
        model,
        decode,
        dtype,
        augment=augment,
        groups=groups,
        lanes=lanes,
        window=window,
        rank=rank,
        ranks=ranks,
        epoch=epoch,
    )
    workers = _workers(dataset, groups) if num_workers is None else num_workers
    dataset.memory_needed(workers)
    if workers:
        dataset.prepare()
    return FeatureLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        prefetch_factor=(2 if workers else None) if prefetch_factor is None else prefetch_factor,
        persistent_workers=bool(workers) if persistent_workers is None else persistent_workers,
        **options,
    )


def _workers(dataset: FeatureDataset, groups: int | None) -> int:
    """One for each core, up to 4; fewer where batches are few, groups are given, or memory is short."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = min(_MOST_WORKERS, cores, len(dataset)) if cores > 1 else 0
    for workers in range(most, 0, -1):
        if groups is not None and groups % workers:
            continue
        try:
            dataset.memory_needed(workers)
        except InputError:
            continue
        return workers
    return 0


def _as_it_is(batch: Any) -> Any:
    # The default would look for arrays in every list of keys and fields.
    return batch
