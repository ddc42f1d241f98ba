"""What a reader knows of a set before it reads a shard: layers, chunks, combinations; identity checked.

Nothing here grows with the samples: numbers of chunks follow from those of shards.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fmshards import store
from fmshards.augment import Mirror, Recipe, check_drawable, poor_moves, view_reference
from fmshards.errors import FormatError, InputError, MismatchError
from fmshards.reader.serving import Given, given_recipe, references_of, strides_of
from fmshards.shards import BASE, MIRROR, LayerPlan, Manifest, ShardEntry, Stream, layer_url, read_manifest, set_url


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
_TRUSTED_CHUNKS = 4096
"""Chunks of a shard that are believed without a look at the file: their order takes little memory."""

_CHUNK_BYTES = 4 * 512
"""The least of a chunk in a tar: two headers and two members, each padded."""


@dataclass(frozen=True)
class Catalog:
    """A whole set and the layers of it that are read, in the order asked for.

    given: the recipe that training takes in place of the set's own; None: the set's own.
    """

    url: str
    manifest: Manifest
    layers: tuple[LayerPlan, ...]
    given: Recipe | None = None

    @cached_property
    def shard_names(self) -> tuple[str, ...]:
        """File names of a layer's shards, the same for every layer."""
        return tuple(entry.name for entry in self._entries)

    @cached_property
    def chunks(self) -> int:
        """Chunks of the set."""
        return int(self._first_chunk[-1])

    @cached_property
    def largest(self) -> int:
        """Samples of the set's largest chunk."""
        return min(self.manifest.plan.chunk, max(entry.samples for entry in self._entries))

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """[chunks] samples of each chunk of the set, in stored order: all of the plan's length, the last of a shard
        with the rest."""
        out = np.full(self.chunks, self.manifest.plan.chunk, np.int32)
        samples, counts = np.diff(self._first_sample), np.diff(self._first_chunk)
        some = counts > 0
        out[self._first_chunk[1:][some] - 1] = (samples - (counts - 1) * self.manifest.plan.chunk)[some]
        return out

    def place(self, chunk: int) -> tuple[int, int]:
        """(shard, chunk of that shard) of a chunk of the set."""
        shard = int(np.searchsorted(self._first_chunk, chunk, side="right")) - 1
        return shard, chunk - int(self._first_chunk[shard])

    def samples_of(self, chunk: int) -> range:
        """Numbers in the set of a chunk's samples."""
        shard, number = self.place(chunk)
        first = int(self._first_sample[shard]) + number * self.manifest.plan.chunk
        return range(first, min(first + self.manifest.plan.chunk, int(self._first_sample[shard + 1])))

    def chunks_of(self, shard: int) -> range:
        """Numbers in the set of a shard's chunks."""
        return range(int(self._first_chunk[shard]), int(self._first_chunk[shard + 1]))

    def find(self, sample: int) -> tuple[int, int]:
        """(chunk of the set, row of it) of a sample of the set."""
        shard = int(np.searchsorted(self._first_sample, sample, side="right")) - 1
        number, row = divmod(sample - int(self._first_sample[shard]), self.manifest.plan.chunk)
        return int(self._first_chunk[shard]) + number, row

    @cached_property
    def recipe(self) -> Recipe:
        """What training does to an image: the recipe given, or the set's own. Raises FormatError where that cannot be
        read, or its thetas not be drawn."""
        if self.given is not None:
            return self.given
        plan = self.manifest.plan
        recipe = Recipe.from_json(plan.recipe)
        try:
            check_drawable(recipe, plan.base_size, plan.references)
        except InputError as error:
            raise FormatError(f"{self.url}: the plan's recipe cannot be drawn: {error}") from None
        return recipe

    @cached_property
    def mirror(self) -> Mirror:
        """Where the feature of the flipped image comes from."""
        return Mirror.from_json(self.manifest.plan.mirror)

    @cached_property
    def references(self) -> tuple[str, ...]:
        """What training starts from: of a recipe that was given, no mirror where it does not flip."""
        plan = self.manifest.plan
        return plan.references if self.given is None else references_of(plan, self.given)

    @cached_property
    def combinations(self) -> tuple[Combination, ...]:
        """What a chunk can show at training: each reference; where the set's own recipe left views, each view with its
        reference."""
        plan = self.manifest.plan
        if not plan.views or self.given is not None:
            return tuple(Combination(reference, 0) for reference in self.references)
        views = range(1, plan.views + 1)
        return tuple(Combination(view_reference(v, self.recipe, self.mirror), v) for v in views)

    @property
    def cautions(self) -> list[str]:
        """What had better not be asked of this set at training, in lines for a person: moves that its features follow
        badly, and views that a recipe given leaves unused."""
        plan = self.manifest.plan
        lines = [] if self.combinations[0].view else poor_moves(self.recipe, strides_of(plan, self.layers))
        if plan.views and self.given is not None:
            lines.append(
                f"{self.recipe}: the {plan.views} stored views show what the set's own recipe drew, "
                f"{Recipe.from_json(plan.recipe)}, and are not used"
            )
        return [f"{self.url}: {line}" for line in lines]

    def streams(self, layer: LayerPlan, shown: Combination) -> tuple[Stream, ...]:
        """The streams of a layer's chunk that show a combination: its reference, unless a view holds every channel,
        and its view. A mirror that is not stored is made from the base, one that is stored in part from both."""
        stored = {stream.name: stream for stream in self.manifest.plan.streams(layer.name)}
        out = []
        if not (shown.view and layer.whole_views):
            mirror = stored.get(MIRROR) if shown.mirrored else None
            out += [stored[BASE]] if mirror is None or mirror.channels is not None else []
            out += [] if mirror is None else [mirror]
        if shown.view and layer.view_codec is not None:
            out.append(stored[f"view{shown.view}"])
        return tuple(out)

    def mirror_rows(self, shown: Iterable[Combination]) -> dict[str, int]:
        """Bytes of a row of the mirror's stored channels, by layer, where one of these combinations brings them."""
        return {
            layer.name: stream.codec.row_bytes
            for layer in self.layers
            for combination in shown
            for stream in self.streams(layer, combination)
            if stream.name == MIRROR and stream.channels is not None
        }

    def row_bytes(self, shown: Combination) -> int:
        """Compressed bytes that one sample holds, over all layers."""
        return sum(s.codec.row_bytes for layer in self.layers for s in self.streams(layer, shown))

    def layer_url(self, layer: LayerPlan, shard: int) -> str:
        """URL of a layer's shard."""
        return layer_url(self.url, layer.name, self.shard_names[shard])

    @property
    def _entries(self) -> tuple[ShardEntry, ...]:
        return self.manifest.shards[self.layers[0].name]

    @cached_property
    def _first_sample(self) -> NDArray[np.int64]:
        """[shards + 1] number in the set of each shard's first sample, and the samples of the set."""
        return np.cumsum([0, *(entry.samples for entry in self._entries)], dtype=np.int64)

    @cached_property
    def _first_chunk(self) -> NDArray[np.int64]:
        """[shards + 1] number in the set of each shard's first chunk, and the chunks of the set."""
        chunk = self.manifest.plan.chunk
        return np.cumsum([0, *(-(-entry.samples // chunk) for entry in self._entries)], dtype=np.int64)

    def check(self) -> None:
        """Raise FormatError for numbers that cannot be, before memory is spent on them.

        What a shard's bytes are said to be is looked up where its chunks are so many that they take memory. A set of
        ordinary shards costs no request.
        """
        for layer in self.layers:
            codecs = self.manifest.plan.layer_members(layer.name).values()
            for shard, entry in enumerate(self.manifest.shards[layer.name]):
                # A key in the meta takes two bytes, whatever a filter makes of the rows.
                rows = 2 * entry.samples + sum(codec.member_bytes(entry.samples)[0] for codec in codecs)
                if entry.samples and max(rows, len(self.chunks_of(shard)) * _CHUNK_BYTES) > entry.bytes:
                    raise self._cannot_be(layer, shard, entry.bytes)
        if self.chunks > _MOST_CHUNKS:
            raise FormatError(
                f"{self.url}: {self.chunks} chunks, more than the {_MOST_CHUNKS} that can be put into an order; "
                "extract with larger chunks"
            )
        for shard in np.flatnonzero(np.diff(self._first_chunk) > _TRUSTED_CHUNKS).tolist():
            for layer in self.layers:
                found = store.size(self.layer_url(layer, shard))
                if found != self.manifest.shards[layer.name][shard].bytes:
                    raise self._cannot_be(layer, shard, found)

    def _cannot_be(self, layer: LayerPlan, shard: int, found: int) -> FormatError:
        entry, row_bytes = self.manifest.shards[layer.name][shard], layer.base_codec.row_bytes
        return FormatError(
            f"{self.layer_url(layer, shard)}: the manifest says {len(self.chunks_of(shard))} chunks, {entry.samples} "
            f"samples of {row_bytes} bytes in a shard of {found} bytes"
        )


def open_catalog(
    url: str | os.PathLike[str],
    layers: Sequence[str] | str | None = None,
    model: nn.Module | None = None,
    recipe: Given = None,
) -> Catalog:
    """Read the manifest of the set at `url`. A path is made absolute: the set stays the same wherever the process, or
    a worker of it, goes.

    `layers` None means all, `recipe` None the set's own. Raises InputError for an unknown layer and a recipe that the
    set cannot serve, FormatError where there is no whole set, and MismatchError where `model`, a full model, has other
    weights or buffers before a layer's cut than the writer's.
    """
    place = set_url(url)
    names = layer_names(layers)
    if model is not None and not isinstance(model, nn.Module):
        raise InputError(f"model: expected a torch module, the full model, found {type(model).__name__}")
    manifest = read_manifest(place)
    names = [layer.name for layer in manifest.plan.layers] if names is None else names
    chosen = tuple(manifest.plan.layer(name) for name in names)
    catalog = Catalog(place, manifest, chosen, given_recipe(manifest.plan, chosen, recipe, place))
    catalog.check()
    if not manifest.samples:
        raise InputError(f"{place}: the set has no samples")
    if model is not None:
        check_identity(catalog, model)
    return catalog


def layer_names(layers: Sequence[str] | str | None) -> list[str] | None:
    """Layers as people name them, None for all. Raises InputError."""
    if layers is None:
        return None
    names = [layers] if isinstance(layers, str) else list(layers) if isinstance(layers, Iterable) else [layers]
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise InputError(f"layers={layers!r}: expected one or more different layers' names"[:300])
    return names


def check_identity(catalog: Catalog, model: nn.Module) -> None:
    """Raise MismatchError unless `model` up to each layer's cut is the model that wrote the set."""
    from fmshards.model import identity_differences  # takes torchvision in, which reading alone does not need

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
