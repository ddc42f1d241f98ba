"""`fmshards.loader`: a DataLoader over a set with settings that suit it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from fmshards.augment import Recipe
from fmshards.errors import FmshardsError, InputError, warn
from fmshards.place import cores
from fmshards.stream.arguments import flag, whole, whole_or_none
from fmshards.stream.dataset import Batch, FeatureDataset
from fmshards.stream.handing import handed_over
from fmshards.stream.misuse import thinned_out
from fmshards.stream.mix import FeatureMix
from fmshards.stream.stats import LoopWatch
from fmshards.workers import is_unsendable, is_worker_death, worker_died

_MOST_WORKERS = 4


class FeatureLoader(DataLoader[Batch]):
    """A DataLoader over a FeatureDataset or a FeatureMix: `len(loader)` batches an epoch, `set_epoch`, and its state.

    A worker that is killed, for memory most often, is a FmshardsError that says so.
    """

    dataset: FeatureDataset | FeatureMix
    _is_accelerate_prepared = True
    """Accelerate's `prepare` leaves what has this as it is; it would split the batches over the processes again."""
    _told: int = 0
    """Batches of the coming epoch, as somebody was told who asked."""
    _running: _Running | None = None
    """The iteration that began last, and has not ended."""
    log_every: int | None = None
    """Batches after which a line about them goes to the log of "fmshards"; None: none does."""

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
        # Workers that persist iterate again for the same iterator of torch's.
        turn = getattr(batches, "fmshards_turn", -1) + 1
        made: Any = batches
        made.fmshards_turn = turn
        began = self.dataset.follow(self.num_workers, made._base_seed, turn)
        self._running = _Running(began, self.dataset.loads)
        return _Handed(self, batches, self._running)

    def __len__(self) -> int:
        """Batches of the epoch in course, else of the next one: those handed out before a state that was loaded, and
        those from there on. A trainer that counts on from its checkpoint ends with the epoch, though the later batches
        may be of another size."""
        began = None if self._running is None else self._running.began
        self._told = self.dataset.epoch_batches(self.num_workers, began)
        return self._told

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, in plain data for `json`: the set, the seed, the epoch, and how many batches of it were
        handed out by this loader's iterator. What workers have made ahead does not count.

        After an epoch's last batch it is that epoch, all done, and the rest of it is empty; once the iterator has ended
        it is the next epoch's beginning.
        """
        running = self._running
        if running is None or running.loads != self.dataset.loads:
            return self.dataset.next_state()
        return self.dataset.state_after(running.began, running.handed)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration the rest of the epoch that `state` is of: see FeatureDataset.load_state_dict."""
        told, self._told = self._told, 0
        self.dataset.load_state_dict(state, self.num_workers)
        self._running = None
        if 0 < told < len(self):
            warn(
                f"the epoch that goes on has {len(self)} batches, and before its state was loaded len(loader) was "
                f"asked for and said {told}: a trainer that keeps to that ends the epoch early; load the state first "
                "(in Lightning from a DataModule's state_dict, as examples/trainers/with_lightning.py does)"
            )

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

    def stats(self) -> dict[str, float]:
        """What was counted since the loader was made, in this rank, over its workers and epochs.

        `batches`, `samples`, `chunks`; `requests`, `bytes`, `retries`, `stragglers`, `cache_hits`, `quarantined`: what
        fetching did. Seconds that workers spent, one thing at a time: `store_s` waiting for a chunk, `window_s` on
        order and window, `decode_s`, `augment_s`, `consumer_s` handing batches over and waiting for whoever takes them.
        `fetch_s` and `verify_s` are those of threads beside them: in requests, and in checksums, metas and filters.
        `loader_s`: how long the training loop waited for batches; `loop_s`: how long it took itself. Without workers
        `loader_s` is about what the stages before `consumer_s` are together.
        """
        return self.dataset.stats()

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """The chunks that were bad and left out so far, plain JSON: see FeatureDataset.ledger."""
        return self.dataset.ledger

    @property
    def memory_needed(self) -> int:
        """Bytes of compressed rows that this rank holds at most; see FeatureDataset.memory_needed."""
        return self.dataset.memory_needed(self.num_workers)


@dataclass
class _Running:
    """How far an iteration has come."""

    began: Any
    """As its data set says it."""
    loads: int
    """States that its data set had loaded before it began."""
    handed: int = 0
    """Batches that it has handed out."""


class _Handed(Iterator[Batch]):
    """torch's iterator over batches: those handed out are counted, and how long they are waited for; what a worker's
    death is called."""

    def __init__(self, loader: FeatureLoader, batches: Iterator[Batch], running: _Running) -> None:
        self._loader, self._batches, self._running = loader, batches, running
        self._watch = LoopWatch(loader.dataset.counters, loader.log_every)

    def __next__(self) -> Batch:
        if not self._running.handed and self._loader.num_workers:
            thinned = thinned_out(sys._getframe(1), self._loader.dataset.ranks, 0)
            if thinned is not None:
                raise InputError(thinned)
        self._watch.asked()
        try:
            batch = next(self._batches)
        except StopIteration:
            if self._loader._running is self._running:
                self._loader._running = None
            raise
        except Exception as error:
            raise self._loader._death(error) or error from None
        finally:
            self._watch.got()
        self._running.handed += 1
        return batch

    def __len__(self) -> int:
        return len(self._loader)


def loader(
    url: str | os.PathLike[str] | Sequence[tuple[str | os.PathLike[str], float]],
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
    log_every: int | None = None,
    pin_memory: bool | None = None,
    prefetch_factor: int | None = None,
    persistent_workers: bool | None = None,
    **options: Any,
) -> FeatureLoader:
    """A loader of the set at `url`; FeatureDataset says what a batch is and what the arguments mean.

    url: or several sets to mix, [(url, weight), ...]: see FeatureMix.

    num_workers: by default one for each core this process may use, up to 4 and never more than batches (none on one
    core). log_every: after so many batches a line goes to the log "fmshards", of level INFO: samples a second, what
    workers' time went into, how long the loop waited; `stats()` has the counters. pin_memory: where there is a CUDA
    device. persistent_workers: where there are workers. `options` go to torch's DataLoader.

    One loader serves all epochs. A loader made anew begins at epoch 0 again, with the same order and the same crops:
    where each epoch makes its own, write `fmshards.loader(url, ..., epoch=epoch)`. `state_dict` and `load_state_dict`
    of the loader stop it at any batch and go on.

    Raises InputError, MismatchError or FormatError, as FeatureDataset, before a worker starts: the number of workers
    is known here, so that memory and divisibility are checked too.
    """
    fixed = sorted(options.keys() & {"dataset", "shuffle", "sampler", "batch_sampler", "drop_last", "collate_fn"})
    if fixed:
        raise InputError(f"{fixed[0]} is not for a loader over shards: its data set makes whole batches, in its order")
    given: dict[str, Any] = {
        "layers": layers,
        "batch_size": batch_size,
        "seed": seed,
        "memory": memory,
        "train": train,
        "model": model,
        "decode": decode,
        "dtype": dtype,
        "fields": fields,
        "augment": augment,
        "recipe": recipe,
        "groups": groups,
        "lanes": lanes,
        "window": window,
        "rank": rank,
        "ranks": ranks,
        "epoch": epoch,
        "cache": cache,
        "cache_limit": cache_limit,
        "patience": patience,
        "on_bad": on_bad,
    }
    dataset: FeatureDataset | FeatureMix
    dataset = FeatureDataset(url, **given) if isinstance(url, (str, os.PathLike)) else FeatureMix(url, **given)
    workers = _workers(dataset, groups) if num_workers is None else whole("num_workers", num_workers, 0)
    dataset.check(workers)
    pinned = torch.cuda.is_available() if pin_memory is None else flag("pin_memory", pin_memory)
    persistent = bool(workers) if persistent_workers is None else flag("persistent_workers", persistent_workers)
    every = whole_or_none("log_every", log_every, 1)
    ahead = (2 if workers else None) if prefetch_factor is None else whole("prefetch_factor", prefetch_factor, 1)
    try:
        made = FeatureLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            collate_fn=handed_over,
            pin_memory=pinned,
            prefetch_factor=ahead,
            persistent_workers=persistent,
            **options,
        )
    except (TypeError, ValueError, AttributeError, AssertionError) as error:
        raise InputError(f"torch's DataLoader refuses these options: {error}") from None
    made.log_every = every
    if workers:
        dataset.prepare()
    return made


def _workers(dataset: FeatureDataset | FeatureMix, groups: int | None) -> int:
    """One for each core, up to 4; fewer where batches are few, groups are given, or memory is short."""
    most = min(_MOST_WORKERS, cores(), len(dataset)) if cores() > 1 else 0
    for workers in range(most, 0, -1):
        if groups is not None and groups % workers:
            continue
        try:
            dataset.check(workers)
        except InputError:
            continue
        return workers
    return 0
