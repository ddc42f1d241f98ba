"""A set declared whole: the manifest of its shards, once its layers are known to be of the same samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from fmshards.errors import MismatchError
from fmshards.shards.chunk import Chunk, read_chunk
from fmshards.shards.fields import LABEL, label_text
from fmshards.shards.index import check_index, read_index
from fmshards.shards.manifest import Manifest, ShardEntry, layer_error
from fmshards.shards.plan import Plan
from fmshards.shards.sets import layer_url


def make_manifest(set_url: str, plan: Plan, shards: Mapping[str, Sequence[ShardEntry]]) -> Manifest:
    """The manifest of finished shards, in the order of `plan.inputs`; reads each index for its error sums.

    Raises FormatError or MismatchError where the shards are not those of `plan`, layers hold different samples, or
    shards have other fields or labels of another kind than the first.
    """
    check_layers_agree(set_url, plan, shards)
    differ = shards_differ(set_url, plan.layers[0].name, shards[plan.layers[0].name], labels=True)
    if differ is not None:
        raise MismatchError(differ)
    errors: dict[str, dict[str, Any]] = {}
    for layer in plan.layers:
        stats = []
        for entry in shards[layer.name]:
            url = layer_url(set_url, layer.name, entry.name)
            index = read_index(url, entry)
            check_index(index, plan, layer.name, url)
            stats.append(index.errors)
        found = layer_error(stats)
        if found is not None:
            errors[layer.name] = found
    samples = sum(entry.samples for entry in shards[plan.layers[0].name])
    return Manifest(plan, {name: tuple(entries) for name, entries in shards.items()}, errors, samples)


def check_layers_agree(set_url: str, plan: Plan, shards: Mapping[str, Sequence[ShardEntry]]) -> None:
    """Raise MismatchError, naming shard, layer, key and field, unless the i-th shards of all layers hold the same.

    shards: each layer's in the order of `plan.inputs`. Entries that carry their digest of the samples are compared by
    it; of others, and to say what differs, the metas are read.
    """
    for i in range(len(plan.inputs)):
        found = layers_differ(set_url, plan, {layer.name: shards[layer.name][i] for layer in plan.layers})
        if found is not None:
            raise MismatchError(found)


def shards_differ(set_url: str, layer: str, entries: Sequence[ShardEntry], labels: bool) -> str | None:
    """What the samples of a layer's shards do not have in common, in a line; None where they may be in one batch.

    labels: whether those of another kind count, which a loader serves as they come. Entries without kinds are left out.
    """
    known = [entry for entry in entries if entry.kinds is not None]
    for first, other in ((known[0], entry) for entry in known[1:]):
        if first.kinds is None or other.kinds is None:
            continue
        odd = sorted(set(first.kinds.names) ^ set(other.kinds.names))
        place = layer_url(set_url, layer, other.name)
        if odd:
            has = "lack" if odd[0] in first.kinds.names else "have"
            what = f"its samples {has} the field {odd[0]!r}, unlike those of {first.name}"
        elif labels and first.kinds.label != other.kinds.label and first.kinds.label and other.kinds.label:
            mine, theirs = label_text(other.kinds.label), label_text(first.kinds.label)
            what = f"its field {LABEL!r} is {mine}, that of {first.name} {theirs}"
        else:
            continue
        return f"{place}: {what}; mend the input, delete {other.name} in every layer's folder and run the same extract"
    return None


def layers_differ(set_url: str, plan: Plan, entries: Mapping[str, ShardEntry]) -> str | None:
    """What differs between the shards of one input in the layers of `entries`, in a line; None where nothing does."""
    first, *others = [(layer.name, entries[layer.name]) for layer in plan.layers if layer.name in entries]
    for other in others:
        if first[1].samples_digest is None or first[1].samples_digest != other[1].samples_digest:
            found = _difference(set_url, first, other)
            if found is not None:
                return (
                    f"{set_url}: {other[1].name}: the layers {first[0]} and {other[0]} were made from different input: "
                    f"{found}; delete {other[1].name} in every layer's folder and run the same extract"
                )
    return None


def _difference(set_url: str, first: tuple[str, ShardEntry], other: tuple[str, ShardEntry]) -> str | None:
    urls = [layer_url(set_url, layer, entry.name) for layer, entry in (first, other)]
    indices = [read_index(url, entry) for url, (_, entry) in zip(urls, (first, other), strict=True)]
    sizes = [[chunk.n for chunk in index.chunks] for index in indices]
    if sizes[0] != sizes[1]:
        return f"{sum(sizes[0])} samples in chunks of {sizes[0][:1]}, {sum(sizes[1])} in chunks of {sizes[1][:1]}"
    for j in range(len(sizes[0])):
        mine, theirs = (read_chunk(url, index, j, ()) for url, index in zip(urls, indices, strict=True))
        found = _chunk_difference(mine, theirs)
        if found is not None:
            return f"chunk {j}: {found}"
    return None


def _chunk_difference(mine: Chunk, theirs: Chunk) -> str | None:
    for i, (key, another) in enumerate(zip(mine.keys, theirs.keys, strict=True)):
        if key != another:
            return f"sample {i} has the key {key!r} and {another!r}"
    odd = sorted(mine.fields.keys() ^ theirs.fields.keys())
    if odd:
        return f"one has the field {odd[0]!r}, the other has not"
    for name, column in mine.fields.items():
        for key, value, another in zip(mine.keys, column, theirs.fields[name], strict=True):
            # Packed, since NaN is no difference where both have it.
            if value != another and msgpack.packb(value) != msgpack.packb(another):
                return f"sample {key!r}: the field {name!r} is {str(value)[:60]!r} and {str(another)[:60]!r}"
    if (mine.theta is None) != (theirs.theta is None):
        return "one has thetas, the other has none"
    if mine.theta is not None and theirs.theta is not None and not np.array_equal(mine.theta, theirs.theta):
        return "their thetas differ"
    return None
