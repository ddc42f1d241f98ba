"""`fmshards.loader`: a DataLoader over a set with settings that suit it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from fmshards.augment import Recipe
from fmshards.errors import FmshardsError, InputError
from fmshards.stream.arguments import flag, whole
from fmshards.stream.dataset import Batch, FeatureDataset
from fmshards.workers import is_unsendable, is_worker_death, worker_died

_MOST_WORKERS = 4


class FeatureLoader(DataLoader[Batch]):
    """A DataLoader over a FeatureDataset: `len(loader)` batches an iteration, and `set_epoch`.

    A worker that is killed, for memory most often, is a FmshardsError that says so.
    """

    dataset: FeatureDataset

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch names its own class
        try:
            batches = super().__iter__()
        except Exception as error:
            if is_unsendable(error):
                raise InputError(
                    f"a worker cannot be started: {error}; functions and objects given to the loader must have a name "
                    "in a module, or start workers by fork (multiprocessing_context)"
                ) from None
            raise self._death(error) or error from None
        return batches if self.num_workers == 0 else _Watched(self, batches)

    def _death(self, error: Exception) -> FmshardsError | None:
        """What to raise in place of an error that is a worker's death; its fellows are given up then."""
        # An OSError or EOFError is that of a pipe to a process that is no more: workers raise none themselves.
        if self.num_workers == 0 or not (is_worker_death(error) or isinstance(error, (OSError, EOFError))):
            return None
        self._iterator = None  # of workers that persist: the next iteration starts others
        return worker_died(
            error,
            "reads the set",
            "Where memory was short, give fewer workers (num_workers), less memory for each (memory=, prefetch_factor) "
            "or smaller batches",
        )

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch `epoch`; without it, epochs count by themselves."""
        self.dataset.set_epoch(epoch)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration will be."""
        return self.dataset.epoch

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """The chunks that were bad and left out so far, plain JSON: see FeatureDataset.ledger."""
        return self.dataset.ledger

    @property
    def memory_needed(self) -> int:
        """Bytes of compressed rows that this rank holds at most; see FeatureDataset.memory_needed."""
        return self.dataset.memory_needed(self.num_workers)


class _Watched(Iterator[Batch]):
    """torch's iterator over batches that workers make, and what a worker's death is called."""

    def __init__(self, loader: FeatureLoader, batches: Iterator[Batch]) -> None:
        self._loader, self._batches = loader, batches

    def __next__(self) -> Batch:
        try:
            return next(self._batches)
        except StopIteration:
            raise
        except Exception as error:
            raise self._loader._death(error) or error from None

    def __len__(self) -> int:
        return len(self._loader)


def loader(
    url: str | os.PathLike[str],
    batch_size: int = 64,
    *,
    layers: Sequence[str] | str | None = None,
    num_workers: int | None = None,
    seed: int = 0,
    memory: int | str = "1GB",
    train: bool = True,
    augment: bool = True,
    recipe: str | Recipe | None = None,
    model: nn.Module | None = None,
    decode: bool = True,
    dtype: torch.dtype | str = torch.float32,
    fields: Sequence[str] | str | None = None,
    groups: int | None = None,
    lanes: int | None = None,
    window: int | None = None,
    rank: int | None = None,
    ranks: int | None = None,
    epoch: int = 0,
    cache: str | os.PathLike[str] | None = None,
    cache_limit: int | str | None = None,
    patience: float | None = None,
    on_bad: str = "raise",
    pin_memory: bool | None = None,
    prefetch_factor: int | None = None,
    persistent_workers: bool | None = None,
    **options: Any,
) -> FeatureLoader:
    """A loader of the set at `url`; FeatureDataset says what a batch is and what the arguments mean.

    num_workers: by default one for each core this process may use, up to 4 and never more than batches (none on one
    core). pin_memory: where there is a CUDA device. persistent_workers: where there are workers. `options` go to
    torch's DataLoader.

    One loader serves all epochs. A loader made anew begins at epoch 0 again, with the same order and the same crops:
    where each epoch makes its own, write `fmshards.loader(url, ..., epoch=epoch)`.

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
        fields=fields,
        augment=augment,
        recipe=recipe,
        groups=groups,
        lanes=lanes,
        window=window,
        rank=rank,
        ranks=ranks,
        epoch=epoch,
        cache=cache,
        cache_limit=cache_limit,
        patience=patience,
        on_bad=on_bad,
    )
    workers = _workers(dataset, groups) if num_workers is None else whole("num_workers", num_workers, 0)
    dataset.check(workers)
    pinned = torch.cuda.is_available() if pin_memory is None else flag("pin_memory", pin_memory)
    persistent = bool(workers) if persistent_workers is None else flag("persistent_workers", persistent_workers)
    ahead = (2 if workers else None) if prefetch_factor is None else whole("prefetch_factor", prefetch_factor, 1)
    try:
        made = FeatureLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pinned,
            prefetch_factor=ahead,
            persistent_workers=persistent,
            **options,
        )
    except (TypeError, ValueError, AttributeError, AssertionError) as error:
        raise InputError(f"torch's DataLoader refuses these options: {error}") from None
    if workers:
        dataset.prepare()
    return made


def _workers(dataset: FeatureDataset, groups: int | None) -> int:
    """One for each core, up to 4; fewer where batches are few, groups are given, or memory is short."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = min(_MOST_WORKERS, cores, len(dataset)) if cores > 1 else 0
    for workers in range(most, 0, -1):
        if groups is not None and groups % workers:
            continue
        try:
            dataset.check(workers)
        except InputError:
            continue
        return workers
    return 0


def _as_it_is(batch: Any) -> Any:
    # The default would look for arrays in every list of keys and fields.
    return batch
