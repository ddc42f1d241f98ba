"""The calibration sample: which images of a source it is, and how large it is where nobody says it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import overload

from PIL import Image

from fmshards.extraction.decode import Decoder
from fmshards.extraction.sources import Item, Source

_SHARDS = 64  # input shards that it is read from at most
_SMALL = 300_000  # pixels of an image that is kept once it is decoded
_WEIGHED = 64  # samples by which those of a source are estimated


def calibration_images(decoder: Decoder, wanted: int) -> Sequence[Image.Image]:
    """The images of `calibration_items`. Raises InputError for an image that the decoder refuses."""
    return Images(decoder, calibration_items(decoder, wanted))


def calibration_items(decoder: Decoder, wanted: int) -> list[tuple[int, Item]]:
    """As many items, each with its input shard, from the beginning of up to 64 of them, evenly spread; `wanted`.

    The same for the same source, whatever else changes. Raises InputError for images of several sizes.
    """
    source = decoder.source
    inputs = len(source.inputs)
    count = min(inputs, _SHARDS, wanted)
    shards = [i * inputs // count for i in range(count)]
    found: list[tuple[int, Item]] = []
    for i, shard in enumerate(shards):
        share = (i + 1) * wanted // count - i * wanted // count
        for item in head(source, shard, share):
            if decoder.preprocess.size is None:
                decoder.base(shard, decoder.sample(shard, item))  # refuses, key named, another size than the first's
            found.append((shard, item))
    return found


def head(source: Source, shard: int, count: int) -> Iterator[Item]:
    """The first items of an input shard."""
    with closing(source.items(shard)) as items:
        yield from islice(items, count)


def sample_count(source: Source) -> int | None:
    """Samples of the source; where it does not say it, an estimate by the bytes of the first; None for no sample."""
    counts = [shard.samples for shard in source.inputs]
    known = [count for count in counts if count is not None]
    if len(known) == len(counts):
        return sum(known)
    samples = done = 0
    for item in head(source, 0, _WEIGHED):
        samples, done = samples + 1, item.work
    return sum(map(source.work, range(len(counts)))) * samples // done if done else None


class Images(Sequence[Image.Image]):
    """Images decoded when they are asked for; only small ones are kept: hundreds of photos would fill the memory."""

    def __init__(self, decoder: Decoder, items: list[tuple[int, Item]]) -> None:
        self._decoder, self._items = decoder, items
        self._kept: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, i: int) -> Image.Image: ...
    @overload
    def __getitem__(self, i: slice) -> list[Image.Image]: ...
    def __getitem__(self, i: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if i in self._kept:
            return self._kept[i]
        image = self._decoder.sample(*self._items[i]).image
        if image.width * image.height <= _SMALL:
            self._kept[i] = image
        return image
