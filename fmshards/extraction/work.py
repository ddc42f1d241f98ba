"""Which shards of a set are missing. Nothing is claimed: two extractors may make one shard, in the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fmshards import store
from fmshards.errors import FormatError, MismatchError
from fmshards.shards import Plan, ShardEntry, ShardIndex, entry_of, layer_url, read_chunk, read_index


@dataclass
class Work:
    """The shards of a set as they are found and made. `entries`: layer -> input shard's name -> entry."""

    url: str
    plan: Plan
    entries: dict[str, dict[str, ShardEntry]] = field(default_factory=dict)
    _found: list[int] = field(default_factory=list)

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
            if len(missing) < len(self.plan.layers):
                self._found.append(i)
            yield i, missing

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

    def check_layers(self) -> None:
        """Raise MismatchError where layers that were not made in one pass hold other samples: other keys or fields."""
        for i in self._found:
            name = self.plan.inputs[i].name
            first, *others = self.entries
            places = {layer: self._place(layer, i) for layer in self.entries}
            indexes = {layer: read_index(places[layer], self.entries[layer][name]) for layer in places}
            for layer in others:
                difference = _difference(places[first], indexes[first], places[layer], indexes[layer])
                if difference is not None:
                    raise MismatchError(
                        f"{places[layer]} and {places[first]} hold different samples ({difference}): they were made "
                        "from other content of one input; remove one of them and run the same again"
                    )

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


def _difference(place: str, index: ShardIndex, other: str, theirs: ShardIndex) -> str | None:
    if index.input is not None and index.input == theirs.input:
        return None
    if index.samples != theirs.samples:
        return f"{index.samples} and {theirs.samples} of them"
    for j in range(len(index.chunks)):
        a, b = read_chunk(place, index, j, []), read_chunk(other, theirs, j, [])
        if a.keys != b.keys:
            i = next(i for i in range(a.n) if a.keys[i] != b.keys[i])
            return f"keys {a.keys[i]!r} and {b.keys[i]!r}"
        if a.fields != b.fields:
            name = next(n for n in sorted({*a.fields, *b.fields}) if a.fields.get(n) != b.fields.get(n))
            return f"the field {name!r}"
    return None
