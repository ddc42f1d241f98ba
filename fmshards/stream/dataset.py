"""FeatureDataset: batches of a shard set, for any number of ranks and workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset, get_worker_info

from fmshards import store
from fmshards.augment import Recipe
from fmshards.errors import InputError, warn
from fmshards.place import Place, check_place, current_place
from fmshards.reader import Catalog, Combination, check_entries, open_catalog, read_calibrated
from fmshards.stream import arguments, order
from fmshards.stream.arguments import dtype_of, field_names, flag, given_to, memory_bytes, whole, whole_or_none
from fmshards.stream.course.agree import compare_states
from fmshards.stream.course.course import Course
from fmshards.stream.course.epoch import Beginning, Position
from fmshards.stream.course.iteration import Iteration
from fmshards.stream.course.state import Subject
from fmshards.stream.making import Maker, shown_of
from fmshards.stream.misuse import called_by_torchdata, misuse, thinned_out
from fmshards.stream.order.deal import (
    READ_AHEAD,
    Deal,
    Job,
    choose_deal,
    chunks_ahead,
    evaluation_memory,
    lane_slots,
    memory_needed,
)
from fmshards.stream.stats import CountedFetcher, Counters, TimedDecoder
from fmshards.stream.window import Window

Batch = dict[str, Any]

_MUCH = 0.1
"""Share of a set that is left out of an epoch with a warning."""


class FeatureDataset(IterableDataset[Batch]):
    """Batches of the set at `url`: an iterable of whole batches, to be read with `DataLoader(..., batch_size=None)`.

    A batch is a dict: each layer `dtype` [b, *shape]; `cls` int64 [b]; other fields lists; `__key__` list of str;
    `theta` float32 [b, 2, 3]; `view` int64 [b], 0 for none; `mirrored` bool [b]; `valid` bool [b]. With
    `decode=False`, uint8 `<layer>.rows` [b, row_bytes] and, where views are stored, `<layer>.view_rows` stand in for
    the layer (the view's alone where a view is whole), for a FeatureDecoder; where the mirror is stored in part,
    training brings `<layer>.mirror_rows` too, its stored channels (zeros where `mirrored` is False). A field named like
    a layer or like one of these comes as `field.<name>`.

    batch_size: b, samples of one rank's batch. layers: names, None for all. fields: names of the stored fields to
    decode and hand on, None for all, [] for none. train: epochs that differ, in the order of `order/`, augmented
    unless `augment` is False. The fewer samples than a batch that are left over are dropped, other ones each epoch:
    `dropped` says how many, and where they are over a tenth of the set a warning does.
    train=False: the stored order, `base` only, every sample once. Of one rank the last batch is a short one. Of
    several every rank has as many batches of b samples, and the last ones are filled up: `valid` is False there, so a
    loop over several ranks counts `batch["cls"][batch["valid"]]`.
    recipe: what training does to an image, as text, in place of what the set was extracted with, None; "none" moves
    nothing. The set serves it as it would had it been extracted with it (but that without a recipe the grid is measured
    on fewer images), unless its references do not suffice, as without a mirror for a flip (`fmshards inspect` says
    which do); views show their own recipe alone. Which of its
    moves features follow badly a warning says.
    model: a full model, refused unless it is the one that wrote the set. memory: bytes (or "2GB") that one rank's
    windows of compressed rows and the order may take, over all its workers; see `memory_needed`.
    groups, lanes, window: G, K, M of the order where they should not follow from workers, ranks and memory: fix
    them to have the same batches whatever those are. rank, ranks: this process among others; by default
    torch.distributed's, or RANK and WORLD_SIZE. epoch: the first one; epochs advance by themselves, see `set_epoch`.
    A data set made anew begins at epoch 0 again: make one for all epochs, or give each its `epoch=`; or load a state,
    which goes on in the middle of one too.
    cache: a folder on a local disk that keeps what was read from a store, for all processes of the machine, in at most
    `cache_limit` bytes (50 GB). patience: seconds (120) without a byte after which a store is given up. on_bad: what
    becomes of a chunk whose bytes are not what was written, also when they are read again: "raise", or "skip": rows of
    another chunk stand in for it, where `valid` is False, and `ledger` names it.

    Raises InputError, MismatchError or FormatError at once for what can be known at once (an unknown layer, a batch
    larger than the set, too little memory, another model's set, a recipe that the set cannot serve); the number of
    workers is known when the first batch is asked for.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        layers: Sequence[str] | str | None = None,
        batch_size: int = 64,
        seed: int = 0,
        memory: int | str = "1GB",
        train: bool = True,
        model: nn.Module | None = None,
        decode: bool = True,
        dtype: torch.dtype | str = torch.float32,
        *,
        fields: Sequence[str] | str | None = None,
        augment: bool = True,
        recipe: str | Recipe | None = None,
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
    ) -> None:
        if (rank is None) != (ranks is None):
            raise InputError("rank and ranks go together: give both, or neither")
        self.batch_size = whole("batch_size", batch_size, 1)
        self.seed = whole("seed", seed)
        self.memory = memory_bytes(memory)
        self.train = flag("train", train)
        self.augment = flag("augment", augment) and self.train
        recipe = given_to(recipe, self.augment)
        self._shape = tuple(
            whole_or_none(name, value, 1) for name, value in (("groups", groups), ("lanes", lanes), ("window", window))
        )
        self._given = None
        if rank is not None and ranks is not None:
            self._given = check_place(whole("rank", rank), whole("ranks", ranks, 1))
        access = store.access_of(cache, cache_limit, patience)
        wanted, decode, dtype = field_names(fields), flag("decode", decode), dtype_of(dtype)
        epoch = whole("epoch", epoch, 0)
        self.catalog: Catalog = open_catalog(url, layers, model, recipe)
        plan, samples = self.catalog.manifest.plan, self.catalog.manifest.samples
        self.course = Course(epoch, Subject(plan.digest, samples, plan.chunk, self.train, self.seed))
        self.counters = Counters()
        self._fetcher = CountedFetcher(self.catalog, wanted, access, arguments.ledger_of(on_bad))
        if wanted:
            self._fetcher.check_fields()
        self._decoder = TimedDecoder(self.catalog, dtype=dtype) if decode else None
        if self.catalog.given is not None and not decode:
            # Whoever decodes the rows does not know this recipe: what it needs must be there.
            read_calibrated(self.catalog.url, self.catalog.manifest.plan, self.catalog.layers, self.catalog.given)
        if self.augment:
            for line in self.catalog.cautions:
                warn(line)
        self._captured = self._given or current_place()
        self.check()
        self._tell_of_dropped()

    def __len__(self) -> int:
        """Batches that one rank's loader yields in an epoch, over all its workers: the same for every rank."""
        samples, batch = self.catalog.manifest.samples, self.batch_size * self._place.ranks
        return samples // batch if self.train else -(-samples // batch)

    @property
    def dropped(self) -> int:
        """Samples of the set that an epoch leaves out, other ones each time: fewer than all ranks' batch."""
        return self.catalog.manifest.samples - len(self) * self.batch_size * self._place.ranks if self.train else 0

    def __iter__(self) -> Iterator[Batch]:
        wrong = misuse(sys._getframe(1), self._place.ranks)
        return Iteration(self.course, partial(self._batches, wrong), lambda began: self.state_after(began, 0))

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration will be."""
        return self.course.epoch

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch `epoch`; reaches workers that persist. Later ones count on from there.

        Of a state that was loaded, its own epoch goes on where it was; another begins, with a warning.
        """
        self.course.set_epoch(whole("epoch", epoch, 0))

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Where the stream is, `batches` batches into the iteration that began last, in plain data for `json`.

        batches: those that this rank was handed, in training order; at an iteration's end all of them, and 0 where none
        has begun since the data set was made, or `set_epoch` or `load_state_dict` was called. What
        `fmshards.loader` returns counts them itself. To be left out by torchdata's StatefulDataLoader alone, which asks
        each worker's iterator for its own state. Raises InputError for more batches than there are, or none said.
        """
        if batches is None and called_by_torchdata(sys._getframe(1)):
            return {}
        batches = whole("batches", batches, 0)
        began = self.course.last_begun(batches)
        return self.next_state() if began is None else self.state_after(began, batches)

    def load_state_dict(self, state: Mapping[str, Any], workers: int = 0) -> None:
        """Make the next iteration the rest of the epoch that `state`, from `state_dict`, is of; reaches workers that
        persist. It holds the samples that were not handed out, once each, but for fewer than a batch.

        With the same batch over all ranks, ranks that divide the lanes and workers that divide the groups, its batches
        are those that would have come, byte for byte; with others what is left is dealt anew, and all ranks must load
        the same state. Where they do not, each rank may load its own, and one that is some batches behind makes these
        again, and has so many more than the others. Later epochs are whole. An iteration that is in course goes on as
        it was. An evaluation goes on with the samples from where it stopped. The ledger goes on with what it held.

        workers: those of the DataLoader that it is read with, `fmshards.loader` knows its own. Where torch.distributed
        is initialised, ranks that deal anew compare their states; where it is not yet, no one does.

        Raises InputError for what is no state, MismatchError for one of another set, seed or of evaluation, naming what
        differs, or where another rank was given another one.
        """
        if state == {} and called_by_torchdata(sys._getframe(1)):
            return
        workers = whole("workers", workers, 0)
        self.check_state(state)
        self.course.load(state)
        if self._fetcher.ledger is not None:
            self._fetcher.ledger.restore(state.get("ledger", ()))
        if self.train and torch.distributed.is_available() and torch.distributed.is_initialized():
            coming, anew = self.course.coming(self._job(workers), self._shape)
            compare_states(coming, self._rank(), self._place.ranks, needed=anew)

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise InputError or MismatchError as `load_state_dict` would, and load nothing."""
        self.course.position_of(state)
        check_entries(state.get("ledger", []))

    @property
    def ranks(self) -> int:
        """Ranks among which this process is one."""
        return self._place.ranks

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample's compressed rows, over all layers and members that are read."""
        return max(self.catalog.row_bytes(combination) for combination in self._shown)

    @property
    def loads(self) -> int:
        """States that were loaded in this process."""
        return self.course.loads

    def next_state(self) -> dict[str, Any]:
        """The state of the next iteration's beginning."""
        return self._with_ledger(self.course.next_state())

    def follow(self, workers: int, base_seed: int, turn: int) -> Beginning:
        """Where the iteration began that a DataLoader has just made: see Course."""
        return self.course.follow(workers, base_seed, turn)

    def epoch_batches(self, workers: int = 0, began: Beginning | None = None) -> int:
        """Batches of the epoch of which an iteration with `workers` workers began there, or else of the next one: those
        before it, and its own."""
        position = self.course.next_position if began is None else began.position
        return self.course.batches(position, self._job(workers), self._shape)

    def state_after(self, began: Beginning, batches: int) -> dict[str, Any]:
        """The state, `batches` batches after an iteration began there: see Course."""
        return self._with_ledger(self.course.state_after(began, batches, self._job(began.workers), self._shape))

    def _with_ledger(self, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "ledger": self.ledger} if self.ledger else state

    def stats(self) -> dict[str, float]:
        """Counts and seconds by stage since the data set was made, of all workers of this rank; see stats.COUNTED."""
        return self.counters.total()

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """The chunks that were bad and left out so far, in all processes: of each "chunk", its number in the set,
        "shard", "samples" [first, end] and "error". Empty where on_bad is "raise"."""
        return [] if self._fetcher.ledger is None else self._fetcher.ledger.entries()

    def memory_needed(self, workers: int = 0) -> int:
        """Bytes that one rank with `workers` workers holds at most of compressed rows (windows, reading ahead, the
        batches being made) and of the order. Decoded batches that wait in the DataLoader, keys and fields come on
        top. Raises InputError as `check`."""
        job = self._job(workers)
        if self.train:
            return memory_needed(choose_deal(job, *self._shape), job)
        needed = evaluation_memory(job)
        if needed > self.memory:
            raise InputError(
                f"memory={self.memory} does not hold the least that reading this set takes: {needed} bytes for "
                f"batch_size={self.batch_size} and {workers} workers; give more memory or fewer workers"
            )
        return needed

    def check(self, workers: int = 0) -> None:
        """Raise InputError unless `workers` workers a rank can read the set: they divide the groups, and the memory
        holds what they need."""
        self.memory_needed(workers)

    @property
    def decodes(self) -> bool:
        """Whether batches bring features, not rows."""
        return self._decoder is not None

    def prepare(self) -> None:
        """Before workers start: what each of them would take its time for. See FeatureDecoder.prepare."""
        store.prepare(self.catalog.url)
        if self._decoder is not None:
            self._decoder.prepare()
            self._decoder.spent()  # by no worker

    def deal(self, workers: int = 0) -> Deal:
        """N, n, B, G, K, M of a training order with `workers` workers a rank."""
        return choose_deal(self._job(workers), *self._shape)

    def _batches(self, wrong: str | None, position: Position, made: int) -> Iterator[Batch]:
        """This process's batches of the iteration that began there, but for those that it made before."""
        if wrong is not None:
            raise InputError(wrong)
        info = get_worker_info()
        worker, workers = (0, 0) if info is None else (info.id, info.num_workers)
        thinned = thinned_out(sys._getframe(1), self._place.ranks, workers)
        if thinned is not None:
            raise InputError(thinned)
        self.check(workers)
        rank, ranks, ahead = self._rank(), self._place.ranks, self._job(workers).ahead
        part = order.Part(rank, ranks, worker, max(workers, 1))
        sizes = self.catalog.sizes
        if self.train:
            *past, last = self.course.legs(position, self._job(workers), self._shape)
            legs = (*past, replace(last, done=last.done + made * part.workers))
            deal = legs[-1].deal
            lanes = deal.groups * deal.lanes // ranks // part.workers
            window = Window(lanes * lane_slots(deal), lanes * deal.lane_places)
            stretches = order.training(legs, sizes, self.seed, position.epoch, part)
        else:
            places = order.evaluation_places(self.catalog.largest, self.batch_size)
            window = Window(places, places)
            rows = position.rows + made * part.workers * self.batch_size * ranks
            stretches = order.evaluation(sizes, self.batch_size * ranks, part, rows)
        maker = Maker(self.catalog, self._fetcher, self._decoder, self.seed, self.augment)
        yield from maker.batches(window, stretches, position.epoch, ahead, self.counters.watch())

    def _tell_of_dropped(self) -> None:
        if self.dropped > _MUCH * self.catalog.manifest.samples:
            warn(
                f"{self.catalog.url}: each epoch leaves out {self.dropped} of {self.catalog.manifest.samples} samples "
                f"(other ones each time): they do not fill a batch of {self.batch_size}; a smaller batch_size leaves "
                "out fewer"
            )

    def _job(self, workers: int) -> Job:
        catalog, workers = self.catalog, whole("workers", workers, 0)
        chunk, near = catalog.manifest.plan.chunk, store.is_local(catalog.url)
        return Job(
            samples=catalog.manifest.samples,
            chunks=catalog.chunks,
            chunk=chunk,
            row_bytes=self.row_bytes,
            batch_size=self.batch_size,
            ranks=self._place.ranks,
            workers=workers,
            memory=self.memory,
            ahead=READ_AHEAD if near else chunks_ahead(self.memory, workers, chunk * self.row_bytes),
        )

    @property
    def _shown(self) -> tuple[Combination, ...]:
        """What chunks can show."""
        return shown_of(self.catalog, self.augment)

    @property
    def _place(self) -> Place:
        """As given, else as it is now in the main process, else as it was there."""
        if self._given is not None:
            return self._given
        if get_worker_info() is None or (torch.distributed.is_available() and torch.distributed.is_initialized()):
            self._captured = current_place()
        return self._captured

    def _rank(self) -> int:
        """This process's rank. Raises InputError where nothing tells it, though there are others."""
        rank = self._place.rank
        if rank is None:
            raise InputError(
                "WORLD_SIZE says that there are other ranks, but neither RANK nor torch.distributed tells which one "
                "this is: initialise torch.distributed before iterating, or give rank and ranks"
            )
        return rank

    def __getstate__(self) -> dict[str, Any]:
        # Spawned workers know nothing of torch.distributed: what is known here travels with the data set.
        if self._given is None and get_worker_info() is None:
            self._captured = current_place()
        wrong = misuse(sys._getframe(1), self._place.ranks)
        if wrong is not None:
            raise InputError(wrong)
        return dict(self.__dict__)

    def __repr__(self) -> str:
        names = ", ".join(layer.name for layer in self.catalog.layers)
        mode = f"train, recipe={self.catalog.recipe}" if self.augment else "train" if self.train else "evaluate"
        try:
            held = f"holds at most {self.memory_needed()} bytes without workers"
            held += f", drops {self.dropped} samples an epoch" if self.dropped else ""
        except InputError as error:  # more ranks than when it was made
            held = str(error)
        return (
            f"FeatureDataset({self.catalog.url!r}, layers={names}, {self.catalog.manifest.samples} samples, {mode}, "
            f"batch_size={self.batch_size}, {held}, memory={self.memory})"
        )
