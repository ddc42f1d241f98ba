"""WebDataset shards: tars in which neighbouring members that share a key are one sample."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fmshards import store
from fmshards.errors import InputError, warn
from fmshards.extraction.sources.base import Item, Sample
from fmshards.extraction.sources.classes import check_label
from fmshards.extraction.sources.content import DigestReader, file_content, size_and_stamp
from fmshards.extraction.sources.image import decode_image
from fmshards.extraction.sources.image_field import check_crowd, crowd, dot_rule, find_image_field
from fmshards.extraction.sources.tar import read_members
from fmshards.shards import InputShard
from fmshards.shards.limits import FIELDS
from fmshards.shards.tar import BLOCK

# As WebDataset 1.0.2 has it: the key ends at the first dot of the base name, the rest, lower-cased, is the extension.
_NAME = re.compile(r"^((?:.*/|)[^./][^./]*)[.]([^/]*)$", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")
_PADDED = 20 * BLOCK  # bytes of a tar without members, as tar programs pad it


class WebDatasetSource:
    """One input shard is one tar, at a path or an fsspec URL.

    classes: the names of the classes that the samples' `cls` numbers, where they are given.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        image_field: str | None = None,
        *,
        classes: tuple[str, ...] | None = None,
        orientation: str = "apply",
    ) -> None:
        self.urls = store.expand(urls)
        if not self.urls:
            raise InputError(f"the source {urls!r} names no shard")
        self.image_field = image_field.lower().lstrip(".") if image_field else None
        self.classes, self.orientation = classes, orientation
        found = _sizes_and_stamps(self.urls)
        self.inputs = tuple(
            InputShard(name=f"{i:06d}", url=url, bytes=size, samples=None, digest=None)
            for i, (url, (size, _)) in enumerate(zip(self.urls, found, strict=True))
        )
        self._stamps = [stamp for _, stamp in found]
        self._digests: dict[int, str] = {}

    def options(self) -> dict[str, Any]:
        turned = {} if self.orientation == "ignore" else {"orientation": self.orientation}
        return {"source": "webdataset", "image_field": self.image_field, **turned}

    def work(self, shard: int) -> int:
        return self.inputs[shard].bytes or 0

    def items(self, shard: int) -> Generator[Item, None, None]:
        """One sample an item: encoded image as `data`, the other members as they are in `fields`."""
        url = self.urls[shard]
        seen: set[str] = set()
        most, crowded = 0, ""
        with store.open_stream(url) as stream:
            reader = DigestReader(stream)
            for key, members, offset in _groups(reader, url):
                if key in seen:
                    raise InputError(
                        f"{url}: key {key!r} comes twice; the members of a sample must stand side by side, and keys "
                        f"differ within a shard{dot_rule(key, members)}"
                    )
                seen.add(key)
                field = find_image_field(members, self.image_field, key, url)
                if (images := crowd(members, field)) > most:
                    most, crowded = images, key
                image = members.pop(field)
                yield Item(key, image, members, offset)
            if not seen:
                raise InputError(f"{url} holds no sample; leave it out of the source")
            if self.image_field is not None:
                check_crowd(most, len(seen), self.image_field, crowded, url)
            self._digests[shard] = reader.content

    def fetched(self, items: Sequence[Item]) -> Sequence[Item]:
        return items

    def load(self, item: Item) -> Sample:
        if self.classes is not None:
            check_label(item.fields, self.classes)
        return Sample(item.key, decode_image(item.data, self.orientation), item.fields)

    def loaded(self, shard: int, digests: Sequence[bytes]) -> None:
        """Nothing: tars are read whole by `items`."""

    def stamp(self, shard: int) -> str | None:
        return self._stamps[shard]

    def content(self, shard: int) -> str | None:
        """Of the tar's bytes as they are stored, gzip's included."""
        return file_content(self.urls[shard])

    def digest_read(self, shard: int) -> str | None:
        return self._digests.get(shard)

    def fingerprint(self) -> str | None:
        return None


def _sizes_and_stamps(urls: Sequence[str]) -> list[tuple[int, str | None]]:
    """Size and stamp of each. Raises InputError for tars without a member, before anything is made from the others."""
    if all(map(store.is_local, urls)):
        found = [size_and_stamp(url) for url in urls]
    else:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(size_and_stamp, urls))
    empty = [url for url, (size, _) in zip(urls, found, strict=True) if BLOCK <= size <= _PADDED and _is_empty(url)]
    if empty:
        more = f", and so do {len(empty) - 1} others" if len(empty) > 1 else ""
        raise InputError(f"{empty[0]} holds no sample{more}; leave such tars out of the source")
    return found


def _is_empty(url: str) -> bool:
    return not any(store.read(url, 0, BLOCK))


def _groups(stream: DigestReader, url: str) -> Iterator[tuple[str, dict[str, bytes], int]]:
    """(key, {extension: bytes}, offset after it) of each run of members that share a key."""
    key, members, after, skipped = "", {}, 0, []  # type: tuple[str, dict[str, bytes], int, list[str]]
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
            raise InputError(f"{url}: key {key!r} has the field {extension!r} twice{dot_rule(key, [extension])}")
        members[extension] = data
        after = offset
        if len(members) > FIELDS + 1:
            raise InputError(f"{url}: key {key!r} has more than {FIELDS} fields{dot_rule(key, members)}")
    if members:
        yield key, members, after
    if skipped:
        warn(
            f"{url}: {len(skipped)} members have no key and extension in their names, such as {skipped[0]!r}; "
            "they belong to no sample and were left out"
        )
