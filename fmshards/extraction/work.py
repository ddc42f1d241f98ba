"""Which shards of a set are missing, and which of them this process makes. Two that make one make the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fmshards import store
from fmshards.errors import FormatError, MismatchError
from fmshards.extraction.claims import Claims
from fmshards.shards import Kinds, Plan, ShardEntry, ShardIndex, entry_of, layer_url, read_index


@dataclass
class Work:
    """The shards of a set as they are found and made. `entries`: layer -> input shard's name -> entry.

    left: input shards that have not had their turn, or that other processes have claimed.
    """

    url: str
    plan: Plan
    claims: Claims
    entries: dict[str, dict[str, ShardEntry]] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.entries = {layer.name: {} for layer in self.plan.layers}
        self.left = list(self.claims.part.order(len(self.plan.inputs)))

    def shards(self) -> Iterator[tuple[int, list[str]]]:
        """(input shard, layers of which its shard is missing), looked up when each of those left has its turn: another
        process may have written it meanwhile. Where none is missing the list is empty. What another one has claimed
        stays left; all others are claimed until they are `done`."""
        for i in list(self.left):
            missing = self._missing(i)
            if missing and not self.claims.take(self.plan.inputs[i].name):
                continue
            if missing and self.claims.active:
                missing = self._missing(i)  # its last holder may have ended it between the look and the claim
                if not missing:
                    self.claims.give_back(self.plan.inputs[i].name)
            self.left.remove(i)
            yield i, missing

    def _missing(self, i: int) -> list[str]:
        missing, shard = [], self.plan.inputs[i]
        for layer in self.plan.layers:
            entry = entry_of(self._place(layer.name, i), self.plan.digest, layer.name)
            if entry is None:
                missing.append(layer.name)
            else:
                self.entries[layer.name][shard.name] = entry
        return missing

    @property
    def missing(self) -> int:
        """How many input shards lack a shard of some layer, as far as is known."""
        return len(self.plan.inputs) - min(map(len, self.entries.values()))

    @property
    def kinds(self) -> Kinds | None:
        """What the samples of the shards that are there have in common; None where there is none yet."""
        known = (entry.kinds for entries in self.entries.values() for entry in list(entries.values()))
        return next((kinds for kinds in known if kinds is not None), None)

    def check_content(self, i: int, digest: str | None) -> None:
        """Raise MismatchError where a shard that was there was made from other content of input shard i than `digest`.

        Asked before the shards of the other layers are published.
        """
        name = self.plan.inputs[i].name
        for layer, entries in self.entries.items():
            if name not in entries or digest is None:
                continue
            place = self._place(layer, i)
            made_from = read_index(place, entries[name]).input
            if made_from is not None and made_from["digest"] != digest:
                raise MismatchError(
                    f"{self.plan.inputs[i].url} has changed: the shard {place} was made from other content; put back "
                    "what it was made from, or remove that shard and run the same again"
                )

    def done(self, i: int, entries: Mapping[str, ShardEntry]) -> None:
        """The shards of input shard i are published."""
        for layer, entry in entries.items():
            self.entries[layer][self.plan.inputs[i].name] = entry
        self.claims.give_back(self.plan.inputs[i].name)

    def shards_made(self) -> dict[str, Sequence[ShardEntry]]:
        """The entries of all shards, by layer, in the order of the input."""
        return {name: [found[shard.name] for shard in self.plan.inputs] for name, found in self.entries.items()}

    def _place(self, layer: str, i: int) -> str:
        return layer_url(self.url, layer, f"{self.plan.inputs[i].name}.tar")


def found_shards(url: str, plan: Plan, i: int) -> dict[str, ShardIndex]:
    """The index of each layer's shard of input shard i that is there and is one of `plan`; by its end, unverified."""
    found = {}
    for layer in plan.layers:
        place = layer_url(url, layer.name, f"{plan.inputs[i].name}.tar")
        if store.exists(place):
            try:
                index = read_index(place)
            except FormatError:  # cut short or damaged: it will be made again
                continue
            if (index.plan, index.layer) == (plan.digest, layer.name):
                found[layer.name] = index
    return found
