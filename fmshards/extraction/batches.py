"""From a source to decoded batches, in order: raw samples are read here, images are decoded in workers.

Batch boundaries are fixed: every input shard starts a batch, and its last batch may be smaller. A network's output
for a sample depends, in its last bits, on the batch around it; with fixed boundaries a set has the same bytes
whatever the number of workers and however often extraction was stopped.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fmshards.clock import Clock
from fmshards.errors import FmshardsError, InputError
from fmshards.extraction.sources import Item, Source
from fmshards.workers import begin_worker, in_spite_of_deaths, is_unsendable, is_worker_death, worker_died

_ASKING = (signal.SIGTERM, signal.SIGUSR1)


@dataclass(frozen=True)
class RawBatch:
    """Up to a batch of neighbouring items of input shard `shard`. `last`: the shard ends with it."""

    shard: int
    items: list[Item]
    last: bool


@dataclass(frozen=True)
class Batch:
    """One decoded batch: `base` float32 [B, 3, H, W], `views` V such tensors, `theta` float32 [B, V, 2, 3] or None.

    `fields` has one dict a sample, `work` is the source's count after it, `seconds` what decoding took in its worker,
    `digests` those of the files that the worker read (see Sample).
    """

    shard: int
    keys: list[str]
    fields: list[dict[str, Any]]
    base: torch.Tensor
    views: list[torch.Tensor] = field(default_factory=list)
    theta: np.ndarray[Any, np.dtype[np.float32]] | None = None
    last: bool = False
    work: int = 0
    seconds: float = 0.0
    digests: list[bytes] = field(default_factory=list)

    def pin_memory(self) -> Batch:
        """A DataLoader calls this where the batch goes to a CUDA device."""
        return replace(self, base=self.base.pin_memory(), views=[view.pin_memory() for view in self.views])


@dataclass(frozen=True)
class Failure:
    """An error on its way out of a worker."""

    error: FmshardsError


Decode = Callable[[RawBatch], "Batch | Failure"]


def raw_batches(source: Source, shards: Iterator[int], batch: int, clock: Clock) -> Iterator[RawBatch]:
    """Read the items of `shards`, each cut into batches. `shards` is asked for the next one when it is its turn."""
    for shard in shards:
        waiting: list[Item] = []
        items = source.items(shard)
        while True:
            with clock.span("read"):
                item = next(items, None)
            if item is not None and len(waiting) < batch:
                waiting.append(item)
                continue
            if waiting:
                yield RawBatch(shard, waiting, last=item is None)
            if item is None:
                break
            waiting = [item]


def decoded_batches(
    source: Source, shards: Iterator[int], batch: int, decode: Decode, workers: int, pin: bool, clock: Clock
) -> Generator[Batch, None, None]:
    """Decoded batches in order. Raises what reading and decoding raise; a worker that dies is an FmshardsError."""
    loader: DataLoader[Any] = DataLoader(
        _Decoding(decode),
        batch_size=None,
        sampler=raw_batches(source, shards, batch, clock),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin,
        worker_init_fn=_begin,
    )
    batches = _started(loader, decode)
    del loader
    try:
        while True:
            started, read = time.perf_counter(), clock.seconds["read"]
            try:
                result = next(batches, None)
            except (OSError, EOFError, RuntimeError) as error:
                # An OSError or EOFError is that of a pipe to a process that is no more: workers raise none themselves.
                if not workers or (isinstance(error, RuntimeError) and not is_worker_death(error)):
                    raise
                raise decoder_died(error) from None
            waited = time.perf_counter() - started - (clock.seconds["read"] - read)
            if isinstance(result, Failure):
                raise result.error
            if result is None:
                return
            assert isinstance(result, Batch)
            source.loaded(result.shard, result.digests)
            clock.add("decode", result.seconds)
            # Without workers decoding happens in the call above, and is no waiting.
            clock.add("wait", max(0.0, waited - (0.0 if workers else result.seconds)))
            yield result
    finally:
        # Ends the workers now. Left to the garbage collector, in no certain order, that takes seconds; and there, a
        # worker's death is printed and forgotten.
        if workers:
            in_spite_of_deaths(batches._shutdown_workers)  # type: ignore[attr-defined]  # torch has no public way
        del batches


def _begin(number: int) -> None:
    """In a worker. What a scheduler sends to end an extraction may reach all of its processes: the one that is worked
    for decides when a worker ends, so here these signals count from that one alone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)  # before there are threads, which inherit it
    begin_worker(number)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_heed, args=(parent.pid,), name="fmshards-signals", daemon=True).start()


def _heed(parent: int | None) -> None:
    while signal.sigwaitinfo(_ASKING).si_pid != parent:
        pass
    os._exit(1)


def _started(loader: DataLoader[Any], decode: Decode) -> Iterator[Any]:
    """The loader's iterator; its workers begin. Raises InputError that names what cannot be sent to them."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Got pickle error")  # torch's own words for what is said below
            return iter(loader)
    except Exception as error:
        if not loader.num_workers or not is_unsendable(error):
            raise
        found = _unpicklable(decode, "") or ("", error)
        raise InputError(
            f"workers start as new processes here, and what they need cannot be sent there: {found[0]}{found[1]}; "
            "define functions and classes at the top of a module (no lambda, nothing local to a function), or take "
            "workers=0"
        ) from None


def _unpicklable(value: Any, path: str) -> tuple[str, Exception] | None:
    """The innermost field of a data class or an object that does not pickle, and why."""
    try:
        pickle.dumps(value)
    except Exception as error:  # anything may stand in the way
        for name, field_ in getattr(value, "__dict__", {}).items():
            inner = _unpicklable(field_, f"{path}{name}: ")
            if inner is not None:
                return inner
        return path, error
    return None


def decoder_died(error: BaseException) -> FmshardsError:
    """The error to raise for the death of a worker, wherever torch raised it."""
    return worker_died(
        error,
        "decodes images",
        "Run the same again, with fewer workers if memory was short: what is whole is kept",
    )


class _Decoding(Dataset[Any]):
    """A map-style data set whose index is the raw batch itself: order, prefetch and errors are the DataLoader's."""

    def __init__(self, decode: Decode) -> None:
        self.decode = decode

    def __getitem__(self, raw: RawBatch) -> Batch | Failure:
        started = time.perf_counter()
        try:
            result = self.decode(raw)
        except FmshardsError as error:
            return Failure(error)
        except Exception as error:  # a user's data set or function may raise anything, and often what does not pickle
            return Failure(InputError(f"decoding failed: {type(error).__name__}: {error}"))
        return replace(result, seconds=time.perf_counter() - started) if isinstance(result, Batch) else result


def _as_it_is(value: Any) -> Any:
    return value
