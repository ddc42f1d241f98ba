"""What every source gives: the input shards, their items in order, a sample for an item, and marks of their content.

Reading is split in two. `items` runs in the reading process, in order, and must be cheap. `load` runs in decoding
workers, so a source pickles.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from fmshards.shards import InputShard

IMAGE_EXTENSIONS = frozenset(
    ["jpg", "jpeg", "jpe", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "jp2", "avif"]
)


@dataclass(frozen=True)
class Item:
    """Enough for a worker to load one sample. `work` says how far into its shard the reading is (see Source)."""

    key: str
    data: Any
    fields: dict[str, Any] = field(default_factory=dict)
    work: int = 0


@dataclass(frozen=True)
class Sample:
    """One decoded sample: an RGB image and the fields that travel with its feature.

    digest: the SHA-256 of the file that `load` read; None where `items` has read it.
    """

    key: str
    image: Image.Image
    fields: dict[str, Any]
    digest: bytes | None = None


class Source(Protocol):
    """A data set as input shards. All sources are deterministic: the same input gives the same items in order.

    `work` is the size of an input shard in the unit that `Item.work` counts (bytes of a tar, samples elsewhere); it
    serves the estimate of the time left and nothing else.

    Content is known by three marks, each None where it cannot be had. `stamp` costs no reading; equal stamps say that
    nothing has most likely changed, unequal ones say nothing. `content` reads an input shard for its digest, and
    `digest_read` is the same digest as a by-product of extraction. `fingerprint` is what a data set says of itself.
    """

    @property
    def inputs(self) -> tuple[InputShard, ...]: ...

    @property
    def classes(self) -> tuple[str, ...] | None: ...

    def options(self) -> dict[str, Any]:
        """What of the source's options decides its items: plain JSON, compared with a set's plan."""

    def work(self, shard: int) -> int: ...

    def items(self, shard: int) -> Generator[Item, None, None]:
        """The items of one input shard, in order. Raises InputError, naming the shard and the key."""

    def fetched(self, items: Sequence[Item]) -> Sequence[Item]:
        """The same items, once what `load` would read of a store for each is here, or has failed: asked for side by
        side, in a worker, which holds the encoded images of one batch."""

    def load(self, item: Item) -> Sample:
        """Read and decode one item, in a worker. Raises InputError; the caller adds shard and key."""

    def loaded(self, shard: int, digests: Sequence[bytes]) -> None:
        """Told, in the reading process and in order, of the digests of samples that `load` read in workers."""

    def stamp(self, shard: int) -> str | None:
        """Of local files size and time of change, of an object its etag or the like, as they were when opened."""

    def content(self, shard: int) -> str | None:
        """ "sha256:<hex>" of the input shard, read now. Raises StoreError or InputError where it cannot be read."""

    def digest_read(self, shard: int) -> str | None:
        """What `content` gives, once `items` has come to its end and every sample is `loaded`; until then None."""

    def fingerprint(self) -> str | None: ...
