"""WebDataset shards: tars in which neighbouring members that share a key are one sample."""

from __future__ import annotations

import re
import warnings
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fmshards import store
from fmshards.errors import InputError
from fmshards.extraction.sources.base import IMAGE_EXTENSIONS, Item, Sample
from fmshards.extraction.sources.image import decode_image
from fmshards.extraction.sources.tar import read_members
from fmshards.shards import InputShard

# As WebDataset 1.0.2 has it: the key ends at the first dot of the base name, the rest, lower-cased, is the extension.
_NAME = re.compile(r"^((?:.*/|)[^./][^./]*)[.]([^/]*)$", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")


class WebDatasetSource:
    """One input shard is one tar, at a path or an fsspec URL."""

    classes: tuple[str, ...] | None = None

    def __init__(self, urls: str | Sequence[str], image_field: str | None = None) -> None:
        self.urls = store.expand(urls)
        if not self.urls:
            raise InputError(f"the source {urls!r} names no shard")
        self.image_field = image_field.lower().lstrip(".") if image_field else None
        self.inputs = tuple(
            InputShard(name=f"{i:06d}", url=url, bytes=size, samples=None, digest=None)
            for i, (url, size) in enumerate(zip(self.urls, _sizes(self.urls), strict=True))
        )

    def options(self) -> dict[str, Any]:
        return {"source": "webdataset", "image_field": self.image_field}

    def work(self, shard: int) -> int:
        return self.inputs[shard].bytes or 0

    def items(self, shard: int) -> Generator[Item, None, None]:
        """One sample an item: encoded image as `data`, the other members as they are in `fields`."""
        url = self.urls[shard]
        seen: set[str] = set()
        for key, members, offset in _groups(url):
            if key in seen:
                raise InputError(
                    f"{url}: key {key!r} comes twice; the members of a sample must stand side by side, and keys "
                    "differ within a shard"
                )
            seen.add(key)
            field = self.image_field or _image_field(members, key, url)
            if field not in members:
                raise InputError(
                    f"{url}: key {key!r} has no image field {field!r}; it has {', '.join(sorted(members))}"
                )
            image = members.pop(field)
            yield Item(key, image, dict(members), offset)
        if not seen:
            raise InputError(f"{url} holds no sample; leave it out of the source")

    def load(self, item: Item) -> Sample:
        return Sample(item.key, decode_image(item.data), item.fields)


def _sizes(urls: Sequence[str]) -> list[int]:
    if all(map(store.is_local, urls)):
        return [store.size(url) for url in urls]
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(store.size, urls))


def _groups(url: str) -> Iterator[tuple[str, dict[str, bytes], int]]:
    """(key, {extension: bytes}, offset after it) of each run of members that share a key."""
    key, members, after, skipped = "", {}, 0, []  # type: tuple[str, dict[str, bytes], int, list[str]]
    with store.open_stream(url) as stream:
        for name, data, offset in read_members(stream, url):
            if _META.match(name):
                continue
            match = _NAME.match(name)
            if match is None:
                skipped.append(name)
                continue
            extension = match[2].lower()
            if match[1] != key:
                if members:
                    yield key, members, after
                key, members = match[1], {}
            if extension in members:
                raise InputError(f"{url}: key {key!r} has the field {extension!r} twice")
            members[extension] = data
            after = offset
    if members:
        yield key, members, after
    if skipped:
        warnings.warn(
            f"{url}: {len(skipped)} members have no key and extension in their names, such as {skipped[0]!r}; "
            "they belong to no sample and were left out",
            stacklevel=2,
        )


def _image_field(members: dict[str, bytes], key: str, url: str) -> str:
    found = [name for name in members if name in IMAGE_EXTENSIONS]
    found = found or [name for name in members if name.rpartition(".")[2] in IMAGE_EXTENSIONS]
    if len(found) == 1:
        return found[0]
    have = ", ".join(sorted(members))
    if not found:
        raise InputError(
            f"{url}: key {key!r} has no image field; it has {have}. Expected one of "
            f"{', '.join(sorted(IMAGE_EXTENSIONS))}, or name it with image_field="
        )
    raise InputError(
        f"{url}: key {key!r} has several image fields ({', '.join(sorted(found))}); name one with image_field="
    )
