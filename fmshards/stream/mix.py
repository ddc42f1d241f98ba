"""FeatureMix: batches of several sets, by weight."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import IterableDataset

from fmshards.errors import InputError, MismatchError
from fmshards.stream.arguments import flag, memory_bytes, whole
from fmshards.stream.course.epoch import Beginning
from fmshards.stream.dataset import Batch, FeatureDataset
from fmshards.stream.misuse import misuse

_KIND = "fmshards mix"
SOURCE = "source"
"""In a batch of a mix, the number of each sample's set."""


class FeatureMix(IterableDataset[Batch]):
    """Batches of several sets with the same layers: an iterable of whole batches, as FeatureDataset is one.

    sets: [(url, weight), ...]. Every batch of a rank holds of each set the share of `batch_size` that its weight asks
    for, in whole samples (the largest remainders get one more), so batches of different ranks are alike too. The sets'
    samples stand in their order, and `source` int64 [b] says which set each is of; shares are drawn from each set in
    the order, and with the augmentation, that it has by itself under this seed.

    An epoch has the batches of the set that is the first to run out: `len(mix)`. Of larger ones it shows other samples
    in each epoch. State, number of ranks and of workers are as a FeatureDataset's, for each of the sets.

    Evaluation is of one set at a time: train=False is refused, and so is decode=False, since rows of several sets have
    codecs of their own. The other arguments are FeatureDataset's; `memory` is shared out by the bytes of the shares.

    Raises InputError for weights that are none or too small for a sample in a batch; MismatchError for sets with other
    layers, shapes or weights of the prefix; and what FeatureDataset raises.
    """

    def __init__(
        self,
        sets: Sequence[tuple[str | os.PathLike[str], float]],
        *,
        batch_size: int = 64,
        memory: int | str = "1GB",
        train: bool = True,
        decode: bool = True,
        **options: Any,
    ) -> None:
        urls, weights = _named(sets)
        if not flag("train", train):
            raise InputError("several sets with train=False: a mix is for training; evaluate each set by itself")
        if not flag("decode", decode):
            raise InputError(
                "several sets with decode=False: rows of each set are for its own decoder; decode them here"
            )
        self.batch_size = whole("batch_size", batch_size, 1)
        self.shares = _shares(weights, self.batch_size, urls)
        self.memory = memory_bytes(memory)
        self.sets = [
            FeatureDataset(url, batch_size=share, memory=self.memory, **options)
            for url, share in zip(urls, self.shares, strict=True)
        ]
        bytes_of = [each.row_bytes * each.batch_size for each in self.sets]
        for each, own in zip(self.sets, bytes_of, strict=True):
            each.memory = self.memory * own // sum(bytes_of)
            each.check()
        self.counters = self.sets[0].counters
        for other in self.sets[1:]:
            _check_alike(self.sets[0], other)
            other.counters = self.counters

    def __len__(self) -> int:
        """Batches that one rank's loader yields in an epoch: those of the set that is the first to run out."""
        return min(map(len, self.sets))

    def __iter__(self) -> Iterator[Batch]:
        wrong = misuse(sys._getframe(1), self.ranks)
        return self._batches([iter(each) for each in self.sets], wrong)

    @property
    def ranks(self) -> int:
        """Ranks among which this process is one."""
        return self.sets[0].ranks

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration will be."""
        return self.sets[0].epoch

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration epoch `epoch`: see FeatureDataset."""
        for each in self.sets:
            each.set_epoch(epoch)

    @property
    def loads(self) -> int:
        """States that were loaded in this process."""
        return self.sets[0].loads

    def stats(self) -> dict[str, float]:
        """Counts and seconds by stage of all sets together; while one set's part of a batch is made, others wait for
        their consumer."""
        total = self.counters.total()
        return {**total, "batches": total["batches"] // len(self.sets)}

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """The chunks that were bad and left out so far: see FeatureDataset; "set" says of which set."""
        return [{"set": each.catalog.url, **entry} for each in self.sets for entry in each.ledger]

    def memory_needed(self, workers: int = 0) -> int:
        """As FeatureDataset's, of all sets together."""
        return sum(each.memory_needed(workers) for each in self.sets)

    def check(self, workers: int = 0) -> None:
        """Raise InputError unless `workers` workers a rank can read the sets: see FeatureDataset."""
        for each in self.sets:
            each.check(workers)

    def prepare(self) -> None:
        """Before workers start: see FeatureDataset.prepare."""
        for each in self.sets:
            each.prepare()

    def next_state(self) -> dict[str, Any]:
        """The state of the next iteration's beginning."""
        return self._state([each.next_state() for each in self.sets])

    def follow(self, workers: int, base_seed: int, turn: int) -> tuple[Beginning, ...]:
        """Where the iteration began that a DataLoader has just made, in each set."""
        return tuple(each.follow(workers, base_seed, turn) for each in self.sets)

    def epoch_batches(self, workers: int = 0, began: tuple[Beginning, ...] | None = None) -> int:
        """Batches of the epoch in course, or of the next one: see FeatureDataset."""
        each_began = (None,) * len(self.sets) if began is None else began
        return min(each.epoch_batches(workers, own) for each, own in zip(self.sets, each_began, strict=True))

    def state_after(self, began: tuple[Beginning, ...], batches: int) -> dict[str, Any]:
        """The state, `batches` batches after an iteration began there."""
        return self._state([each.state_after(own, batches) for each, own in zip(self.sets, began, strict=True)])

    def state_dict(self, batches: int) -> dict[str, Any]:
        """Where the stream is, `batches` batches into the iteration that began last: see FeatureDataset."""
        return self._state([each.state_dict(batches) for each in self.sets])

    def load_state_dict(self, state: Mapping[str, Any], workers: int = 0) -> None:
        """Make the next iteration the rest of the epoch that `state` is of: see FeatureDataset.

        Raises InputError for what is no state of a mix, MismatchError for one of other sets or shares.
        """
        if not isinstance(state, Mapping) or state.get("kind") != _KIND or not isinstance(state.get("sets"), list):
            raise InputError("expected what the state_dict of a loader over several sets gave, found something else")
        if len(state["sets"]) != len(self.sets):
            raise MismatchError(
                f"the state is of a mix of {len(state['sets'])} sets, this one has {len(self.sets)}: resume with the "
                "sets that it was of"
            )
        for each, own in zip(self.sets, state["sets"], strict=True):
            each.check_state(own)
        for each, own in zip(self.sets, state["sets"], strict=True):
            each.load_state_dict(own, workers)

    def _state(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        return {"kind": _KIND, "sets": states}

    def _batches(self, parts: Sequence[Iterator[Batch]], wrong: str | None) -> Iterator[Batch]:
        if wrong is not None:
            raise InputError(wrong)
        number = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(self.shares))
        # Every set's part of a batch is made by the same worker. The set that is the first to run out is asked first,
        # and ends the epoch for all.
        turns = sorted(range(len(parts)), key=lambda i: len(self.sets[i]))
        for first in parts[turns[0]]:
            own = {turns[0]: first}
            for i in turns[1:]:
                batch = next(parts[i], None)
                if batch is None:
                    return
                own[i] = batch
            yield {**self._together([own[i] for i in range(len(parts))]), SOURCE: number}

    def _together(self, own: Sequence[Batch]) -> Batch:
        """One batch of the sets' parts of it."""
        first = own[0]
        for each, batch in zip(self.sets, own, strict=True):
            odd = sorted((batch.keys() ^ first.keys()) | (batch.keys() & {SOURCE}))
            if odd:
                raise InputError(
                    f"{self.sets[0].catalog.url} and {each.catalog.url}: samples of a mix have the same fields, none "
                    f"of them named {SOURCE!r}; leave out {odd[0]!r}: fields= names those to keep"
                )
        return {name: _joined([batch[name] for batch in own], name) for name in first}


def _joined(values: Sequence[Any], name: str) -> Any:
    if all(isinstance(each, list) for each in values):
        return [each for part in values for each in part]
    if all(isinstance(each, torch.Tensor) and each.shape[1:] == values[0].shape[1:] for each in values):
        return torch.cat(list(values))
    kinds = " and ".join(
        f"{each.dtype} {list(each.shape[1:])}" if isinstance(each, torch.Tensor) else "lists" for each in values
    )
    raise InputError(
        f"{name} of the sets of a mix cannot be put together: {kinds}; leave it out, fields= names those to keep"
    )


def _named(sets: Any) -> tuple[list[str], list[float]]:
    """The sets' URLs and weights."""
    how = "url: expected the URL of a set, or [(url, weight), ...] for several"
    if not isinstance(sets, (list, tuple)) or not sets:
        raise InputError(f"{how}, found {'none' if isinstance(sets, (list, tuple)) else type(sets).__name__}")
    urls, weights = [], []
    for number, each in enumerate(sets):
        if not isinstance(each, (tuple, list)) or len(each) != 2 or not isinstance(each[0], (str, os.PathLike)):
            raise InputError(f"{how}; number {number} is {each!r}")
        url, weight = os.fspath(each[0]), each[1]
        numeric = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not numeric or not 0 < weight < math.inf:
            raise InputError(f"{url}: a weight is a number above 0, found {weight!r}")
        if url in urls:
            raise InputError(f"{url} is named twice: give it once, with the sum of the weights")
        urls.append(str(url))
        weights.append(float(weight))
    return urls, weights


def _shares(weights: Sequence[float], batch_size: int, urls: Sequence[str]) -> list[int]:
    """Samples of each set in a batch: by largest remainders (Hamilton's method), the first of equals."""
    exact = [batch_size * weight / sum(weights) for weight in weights]
    shares = [math.floor(each) for each in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: batch_size - sum(shares)]:
        shares[i] += 1
    for url, weight, share in zip(urls, weights, shares, strict=True):
        if not share:
            raise InputError(
                f"batch_size={batch_size} leaves no sample for {url} with its weight {weight:g} of {sum(weights):g}; a "
                f"batch_size of {math.ceil(sum(weights) / weight)} would"
            )
    return shares


def _check_alike(one: FeatureDataset, other: FeatureDataset) -> None:
    """Raise MismatchError unless both sets bring the same layers of the same prefix."""
    a, b = one.catalog, other.catalog
    for what, own, others in (
        ("layers", [layer.name for layer in a.layers], [layer.name for layer in b.layers]),
        ("shapes", {layer.name: layer.spec for layer in a.layers}, {layer.name: layer.spec for layer in b.layers}),
        ("the prefix", _prefixes(one), _prefixes(other)),
    ):
        if own != others:
            raise MismatchError(
                f"{a.url} and {b.url} differ in {what}: {own} and {others}; a mix is of sets of the same layers of one "
                "network (layers= names those to read)"
            )


def _prefixes(data: FeatureDataset) -> dict[str, Any]:
    """What each layer's features come from."""
    entries = data.catalog.manifest.plan.identity.get("layers")
    found = entries if isinstance(entries, dict) else {}
    return {layer.name: found.get(layer.name) for layer in data.catalog.layers}
