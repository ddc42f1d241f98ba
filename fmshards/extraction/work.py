"""Which shards of a set are missing. Nothing is claimed: two extractors may make one shard, in the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fmshards import store
from fmshards.errors import FormatError, MismatchError
from fmshards.shards import Kinds, Plan, ShardEntry, ShardIndex, entry_of, layer_url, read_index


@dataclass
class Work:
    """The shards of a set as they are found and made. `entries`: layer -> input shard's name -> entry."""

    url: str
    plan: Plan
    entries: dict[str, dict[str, ShardEntry]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.entries = {layer.name: {} for layer in self.plan.layers}

    def shards(self) -> Iterator[tuple[int, list[str]]]:
        """(input shard, layers of which its shard is missing), looked up when each has its turn: another process may
        have written it meanwhile. Where none is missing the list is empty."""
        for i, shard in enumerate(self.plan.inputs):
            missing = []
            for layer in self.plan.layers:
                entry = entry_of(self._place(layer.name, i), self.plan.digest, layer.name)
                if entry is None:
                    missing.append(layer.name)
                else:
                    self.entries[layer.name][shard.name] = entry
            yield i, missing

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
