"""What a reader knows of a set before it reads a shard: layers, chunks, combinations; identity checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fmshards.augment import Mirror, Recipe, view_reference
from fmshards.errors import FormatError, InputError, MismatchError
from fmshards.shards import BASE, MIRROR, LayerPlan, Manifest, ShardEntry, Stream, layer_url, read_manifest

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Combination:
    """What a chunk shows in an epoch: a reference, "base" or "mirror", and a view, 0 for none."""

    reference: str
    view: int

    @property
    def mirrored(self) -> bool:
        """Whether features start from that of the flipped image."""
        return self.reference == MIRROR


PLAIN = Combination(BASE, 0)
"""What evaluation shows: the base feature, no view."""

_MOST_CHUNKS = 10_000_000


@dataclass(frozen=True)
class Catalog:
    """A whole set and the layers of it that are read, in the order asked for."""

    url: str
    manifest: Manifest
    layers: tuple[LayerPlan, ...]

    @cached_property
    def shard_names(self) -> tuple[str, ...]:
        """File names of a layer's shards, the same for every layer."""
        return tuple(entry.name for entry in self._entries)

    @cached_property
    def sizes(self) -> Ints:
        """[chunks] samples of each chunk of the set, in stored order."""
        samples = np.array([entry.samples for entry in self._entries], np.int64)
        out = np.full(len(self.places), self.manifest.plan.chunk, np.int64)
        ends = np.cumsum(self._chunks)
        last = samples - (self._chunks - 1) * self.manifest.plan.chunk
        out[ends[self._chunks > 0] - 1] = last[self._chunks > 0]
        return out

    @cached_property
    def first(self) -> Ints:
        """[chunks] number in the set of each chunk's first sample."""
        return np.asarray(np.cumsum(self.sizes) - self.sizes, np.int64)

    @cached_property
    def places(self) -> Ints:
        """[chunks, 2] (shard, chunk of that shard) of each chunk of the set."""
        shard = np.repeat(np.arange(len(self._chunks)), self._chunks)
        starts = np.cumsum(self._chunks) - self._chunks
        return np.stack([shard, np.arange(len(shard)) - starts[shard]], axis=1)

    @cached_property
    def recipe(self) -> Recipe:
        """What training does to an image."""
        return Recipe.from_json(self.manifest.plan.recipe)

    @cached_property
    def mirror(self) -> Mirror:
        """Where the feature of the flipped image comes from."""
        return Mirror.from_json(self.manifest.plan.mirror)

    @cached_property
    def combinations(self) -> tuple[Combination, ...]:
        """What a chunk can show at training: each reference; where views are stored, each view with its reference."""
        plan = self.manifest.plan
        if not plan.views:
            return tuple(Combination(reference, 0) for reference in plan.references)
        views = range(1, plan.views + 1)
        return tuple(Combination(view_reference(v, self.recipe, self.mirror), v) for v in views)

    def streams(self, layer: LayerPlan, shown: Combination) -> dict[str, Stream]:
        """Which streams of a layer's chunk are read, by the ending of their key in a batch: "rows", "view_rows"."""
        stored = {stream.name: stream for stream in self.manifest.plan.streams(layer.name)}
        out = {}
        if not (shown.view and layer.whole_views):
            out["rows"] = stored[MIRROR if shown.mirrored and MIRROR in stored else BASE]
        if shown.view and layer.view_codec is not None:
            out["view_rows"] = stored[f"view{shown.view}"]
        return out

    def row_bytes(self, shown: Combination) -> int:
        """Compressed bytes that one sample holds, over all layers."""
        return sum(s.codec.row_bytes for layer in self.layers for s in self.streams(layer, shown).values())

    def layer_url(self, layer: LayerPlan, shard: int) -> str:
        """URL of a layer's shard."""
        return layer_url(self.url, layer.name, self.shard_names[shard])

    @property
    def _entries(self) -> tuple[ShardEntry, ...]:
        return self.manifest.shards[self.layers[0].name]

    @cached_property
    def _chunks(self) -> Ints:
        """[shards] chunks of each shard: all of the plan's length, the last of a shard with the rest."""
        samples = np.array([entry.samples for entry in self._entries], np.int64)
        return np.asarray(-(-samples // self.manifest.plan.chunk), np.int64)

    def check(self) -> None:
        """Raise FormatError for numbers that cannot be, before memory is spent on them."""
        plan = self.manifest.plan
        for layer in self.layers:
            codecs = plan.layer_members(layer.name).values()
            row_bytes = sum(codec.row_bytes for codec in codecs)
            for entry in self.manifest.shards[layer.name]:
                # A key in the meta takes two bytes, whatever a filter makes of the rows.
                least = 2 * entry.samples + sum(codec.member_bytes(entry.samples)[0] for codec in codecs)
                if entry.samples and least > entry.bytes:
                    raise FormatError(
                        f"{self.url}: {layer.name}/{entry.name}: the manifest says {entry.samples} samples of "
                        f"{row_bytes} bytes in a shard of {entry.bytes} bytes"
                    )
        if int(self._chunks.sum()) > _MOST_CHUNKS:
            raise FormatError(
                f"{self.url}: {int(self._chunks.sum())} chunks, more than the {_MOST_CHUNKS} that can be put into an "
                "order; extract with larger chunks"
            )


def open_catalog(url: str, layers: Sequence[str] | str | None = None, model: nn.Module | None = None) -> Catalog:
    """Read the manifest of the set at `url`.

    `layers` None means all. Raises InputError for an unknown layer, FormatError where there is no whole set, and
    MismatchError where `model`, a full model, has other weights or buffers before a layer's cut than the writer's.
    """
    manifest = read_manifest(url)
    names = [layer.name for layer in manifest.plan.layers] if layers is None else layers
    names = [names] if isinstance(names, str) else list(names)
    if not names or len(set(names)) != len(names):
        raise InputError(f"layers={names}: expected one or more different layers")
    catalog = Catalog(url, manifest, tuple(manifest.plan.layer(name) for name in names))
    catalog.check()
    if not manifest.samples:
        raise InputError(f"{url}: the set has no samples")
    if model is not None:
        check_identity(catalog, model)
    return catalog


def check_identity(catalog: Catalog, model: nn.Module) -> None:
    """Raise MismatchError unless `model` up to each layer's cut is the model that wrote the set."""
    from fmshards.model import identity_differences

    plan = catalog.manifest.plan
    differences = identity_differences(
        plan.identity,
        [(layer.name, layer.cut) for layer in catalog.layers],
        model,
        plan.provenance.get("probe"),
        plan.provenance.get("parts"),
    )
    if differences:
        raise MismatchError("\n".join(f"{catalog.url}: {line}" for line in differences))
