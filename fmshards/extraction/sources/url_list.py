"""A list of the URLs or paths of images, with their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from fmshards import store
from fmshards.errors import FmshardsError, InputError
from fmshards.extraction.sources.base import Item, Sample
from fmshards.extraction.sources.classes import check_label
from fmshards.extraction.sources.columns import KEY, field_names, own_key
from fmshards.extraction.sources.content import SampleDigests
from fmshards.extraction.sources.fetch import read_all
from fmshards.extraction.sources.image import decode_image
from fmshards.extraction.sources.list_check import ListCheck, place_of
from fmshards.extraction.sources.list_file import URL, ListFile, Row
from fmshards.shards import InputShard
from fmshards.shards.fields import LABEL

_CLASS = "class"


@dataclass(frozen=True)
class _Image:
    """Where an item is listed and lies, and its bytes, once they were fetched."""

    line: int
    place: str
    coming: Future[bytes] | None = None


class ListSource:
    """Images at the URLs, or paths below the list's folder, that a file lists: .txt, .csv, .tsv or .jsonl.

    The URL stands in the column `image_field`, by default `url`; every column is a field, and `label` is the field
    `cls` where there is no `cls`. Labels that are all numbers are numbers; else they are names of classes, numbered in
    `cls` as `classes` has them, else sorted, and the name is the field `class`. The key is a column `__key__`, else the
    row's number. Input shards are virtual: `shard_size` rows each, in the list's order.

    Images are read and digested in workers, as those of a folder are.
    """

    def __init__(
        self,
        url: str,
        shard_size: int,
        image_field: str | None = None,
        *,
        classes: tuple[str, ...] | None = None,
        orientation: str = "apply",
    ) -> None:
        self.url, self.shard_size, self.image_field = url, shard_size, image_field
        self.orientation = orientation
        self._list: ListFile | None = ListFile(url)
        if image_field is not None and self._list.kind == "txt":
            raise InputError(f"image_field={image_field!r} has no meaning for a list of lines; give a .csv or .jsonl")
        self._image = image_field or URL
        checked = ListCheck(self._list, self._image, shard_size)
        self._starts, self._columns = checked.starts, checked.columns
        self.classes = self._named = None  # type: tuple[str, ...] | None
        if checked.names:
            self.classes = self._named = classes or tuple(sorted(checked.names))
            for name, line in checked.names.items():
                if name not in self.classes:
                    raise self._list.error(
                        line, f"the label {name!r} is not among the {len(self.classes)} classes that are given"
                    )
        else:
            self.classes = classes
        self._numbers = {name: i for i, name in enumerate(self._named or ())}
        self._whole = checked.whole
        self.inputs = tuple(
            InputShard(name=f"{i:06d}", url=url, bytes=None, samples=count, digest=digest)
            for i, (count, digest) in enumerate(zip(checked.counts, checked.digests, strict=True))
        )
        self._stamps = checked.stamps
        self._digests = SampleDigests()

    def __getstate__(self) -> dict[str, Any]:
        """Workers load items, and need no list."""
        return {**self.__dict__, "_list": None}

    def options(self) -> dict[str, Any]:
        turned = {} if self.orientation == "ignore" else {"orientation": self.orientation}
        return {"source": "list", "shard_size": self.shard_size, "image_field": self.image_field, **turned}

    def work(self, shard: int) -> int:
        return self.inputs[shard].samples or 0

    def items(self, shard: int) -> Generator[Item, None, None]:
        seen: set[str] = set()
        named = field_names([name for name in self._columns if name != KEY])
        for i, row in enumerate(self._rows(shard)):
            key = f"{shard * self.shard_size + i:08d}"
            if KEY in row.values:
                key = own_key(row.values, seen, f"{self.url}, line {row.line}")
            fields = {field: row.values[column] for column, field in named.items()}
            if LABEL in fields:
                fields |= self._label(fields)
            yield Item(key, _Image(row.line, place_of(self.url, row.values[self._image])), fields, i + 1)

    def fetched(self, items: Sequence[Item]) -> Sequence[Item]:
        far = [item for item in items if not store.is_local(item.data.place)]
        if not far:
            return items
        coming = read_all([item.data.place for item in far], store.read)
        found = {item.key: data for item, data in zip(far, coming, strict=True)}
        return [replace(item, data=replace(item.data, coming=found.get(item.key))) for item in items]

    def load(self, item: Item) -> Sample:
        line, place, coming = item.data.line, item.data.place, item.data.coming
        if self.classes is not None:
            check_label(item.fields, self.classes)
        try:
            data = store.read(place) if coming is None else coming.result()
            image = decode_image(data, self.orientation)
        except FmshardsError as error:
            what = str(error) if place in str(error) else f"{place}: {error}"
            raise InputError(f"line {line}: {what}") from None
        return Sample(item.key, image, item.fields, hashlib.sha256(data).digest())

    def loaded(self, shard: int, digests: Sequence[bytes]) -> None:
        self._digests.add(shard, digests, self.work(shard))

    def stamp(self, shard: int) -> str | None:
        """Of the rows, and of local files size and time of change. What URLs give now is not asked for."""
        return self._stamps[shard]

    def content(self, shard: int) -> str | None:
        places = [place_of(self.url, row.values[self._image]) for row in self._rows(shard)]
        with ThreadPoolExecutor(16) as pool:  # many small files: their latencies side by side
            return self._content(
                shard, list(pool.map(lambda place: hashlib.sha256(store.read(place)).digest(), places))
            )

    def digest_read(self, shard: int) -> str | None:
        known = self._digests.whole(shard, self.work(shard))
        return None if known is None else self._content(shard, known)

    def fingerprint(self) -> str | None:
        return None

    def _content(self, shard: int, digests: Sequence[bytes]) -> str:
        """SHA-256 over that of the rows' text and those of the images' bytes, 32 bytes each."""
        rows = self.inputs[shard].digest
        assert rows is not None
        return f"sha256:{hashlib.sha256(bytes.fromhex(rows) + b''.join(digests)).hexdigest()}"

    def _rows(self, shard: int) -> Generator[Row, None, None]:
        assert self._list is not None
        rows = self._list.rows(self._starts[shard])
        for _, row in zip(range(self.work(shard)), rows, strict=False):
            yield row

    def _label(self, fields: dict[str, Any]) -> dict[str, Any]:
        label = fields[LABEL]
        if self._named is not None:
            return {LABEL: self._numbers[label], _CLASS: fields.get(_CLASS, label)}
        if isinstance(label, str):
            return {LABEL: int(label) if self._whole else float(label)}
        return {}
