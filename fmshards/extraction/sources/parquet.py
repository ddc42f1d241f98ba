"""Parquet files with a column of encoded images."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fmshards import store
from fmshards.errors import InputError
from fmshards.extraction.sources.base import Item, Sample
from fmshards.extraction.sources.classes import check_label, class_difference
from fmshards.extraction.sources.columns import (
    KEY,
    check_field,
    encoded_image,
    field_names,
    image_column,
    metadata_classes,
    own_key,
    schema_difference,
)
from fmshards.extraction.sources.content import RowsDigest
from fmshards.extraction.sources.image import decode_image
from fmshards.extraction.sources.parquet_file import Footer, read_footer, read_rows
from fmshards.extraction.sources.scan import PARQUET, without_query
from fmshards.shards import InputShard
from fmshards.shards.fields import LABEL


@dataclass(frozen=True)
class _Part:
    """Consecutive row groups of one file. groups: (rows, bytes) of each. row: the number in the file of its first."""

    url: str
    stem: str
    stamp: str | None
    first: int
    groups: tuple[tuple[int, int], ...]
    row: int

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.groups)


class ParquetSource:
    """Files at paths or URLs, as Hugging Face's `datasets` and others write them.

    The image is the column `image_field`, or the only one of encoded images (a struct with `bytes`, or binary). The
    other columns are fields under their names; `label` is the field `cls` where there is no `cls`. The key is a column
    `__key__`, else the file's name and the row's number in it. Input shards are virtual: as many of a file's row groups
    as hold `shard_size` rows at most, one at least. Only the columns that are wanted are read (`fields`, `drop_fields`:
    of the others the value is None), a few rows at a time.

    Rows are read by `items`, so that workers decode alone, and pyarrow stays in the reading process.

    classes: the names that `cls` numbers; by default those of the label's ClassLabel in the files' metadata.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        shard_size: int,
        image_field: str | None = None,
        *,
        classes: tuple[str, ...] | None = None,
        orientation: str = "apply",
        fields: Collection[str] | None = None,
        drop_fields: Collection[str] = (),
    ) -> None:
        self.urls = store.expand(urls)
        self.shard_size, self.image_field, self.orientation = shard_size, image_field, orientation
        footers = _footers(self.urls)
        first = footers[0]
        self._image = image_column(first.schema, image_field, first.url)
        own = metadata_classes(first.schema)
        self.classes, self._given = classes or own, classes is not None
        if problem := class_difference(own, classes):
            raise InputError(f"{first.url}: {problem}; its metadata numbers them")
        named = field_names(set(first.schema.names) - {self._image, KEY})
        wanted = [column for column, field in named.items() if _wanted(field, fields, drop_fields)]
        self._fields = {column: named[column] for column in sorted(wanted)}
        self._unread = dict.fromkeys(sorted(set(named.values()) - set(self._fields.values())))
        self._key = KEY if KEY in first.schema.names else None
        self._columns = [self._image, *([KEY] if self._key else []), *self._fields]
        for column in self._fields:
            check_field(first.schema, column, first.url)
        _check_alike(footers, self._columns, own)
        self._parts = [
            part
            for footer, stem in zip(footers, _stems(self.urls), strict=True)
            for part in _divided(footer, stem, shard_size)
        ]
        self.inputs = tuple(
            InputShard(
                name=f"{i:06d}",
                url=part.url,
                bytes=sum(size for _, size in part.groups),
                samples=part.rows,
                digest=None,
            )
            for i, part in enumerate(self._parts)
        )
        self._digests: dict[int, str] = {}

    def options(self) -> dict[str, Any]:
        turned = {} if self.orientation == "ignore" else {"orientation": self.orientation}
        return {"source": "parquet", "shard_size": self.shard_size, "image_field": self.image_field, **turned}

    def work(self, shard: int) -> int:
        return self._parts[shard].rows

    def items(self, shard: int) -> Generator[Item, None, None]:
        part, digest = self._parts[shard], RowsDigest()
        seen: set[str] = set()
        rows = read_rows(part.url, part.groups, part.first, self._columns)
        for i, row in enumerate(rows):
            key = f"{part.stem}/{part.row + i:08d}"
            if self._key is not None:
                key = own_key(row, seen, f"{part.url}: row {part.row + i}")
            fields = {field: row[column] for column, field in self._fields.items()}
            try:
                image = encoded_image(row[self._image])
            except InputError as error:
                raise InputError(f"{part.url}: key {key!r} (row {part.row + i}): {error}") from None
            digest.add(key, image, fields)
            yield Item(key, image, fields, i + 1)
        self._digests[shard] = digest.content

    def fetched(self, items: Sequence[Item]) -> Sequence[Item]:
        return items

    def load(self, item: Item) -> Sample:
        if self._given and self.classes is not None and LABEL not in self._unread:
            check_label(item.fields, self.classes)
        return Sample(item.key, decode_image(item.data, self.orientation), {**item.fields, **self._unread})

    def loaded(self, shard: int, digests: Sequence[bytes]) -> None:
        """Nothing: rows are read whole by `items`."""

    def stamp(self, shard: int) -> str | None:
        """That of the file."""
        return self._parts[shard].stamp

    def content(self, shard: int) -> str | None:
        """Of the rows that are read: of a row its key, its image's bytes and its fields."""
        for _ in self.items(shard):
            pass
        return self._digests[shard]

    def digest_read(self, shard: int) -> str | None:
        return self._digests.get(shard)

    def fingerprint(self) -> str | None:
        return None


def _footers(urls: Sequence[str]) -> list[Footer]:
    """Of each file. Raises InputError for one without a row: nothing can be made from it."""
    if all(map(store.is_local, urls)):
        found = [read_footer(url) for url in urls]
    else:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(read_footer, urls))
    for footer in found:
        if not any(rows for rows, _ in footer.groups):
            raise InputError(f"{footer.url} holds no row; leave it out of the source")
    return found


def _check_alike(footers: Sequence[Footer], columns: Sequence[str], classes: tuple[str, ...] | None) -> None:
    first = footers[0]
    for footer in footers[1:]:
        if problem := schema_difference(footer.schema, first.schema, columns):
            raise InputError(
                f"{footer.url}: {problem} ({first.url}); all files of a source need the same columns: leave out those "
                "that differ (drop_fields), or write the files alike"
            )
        if metadata_classes(footer.schema) != classes:
            raise InputError(
                f"{footer.url}: its metadata names other classes than that of {first.url}, so that labels mean "
                "something else in it; write the files with one ClassLabel"
            )


def _divided(footer: Footer, stem: str, shard_size: int) -> list[_Part]:
    """The file's row groups, as many together as have `shard_size` rows at most."""
    starts, rows, total = list[tuple[int, int]](), 0, 0
    for i, (count, _) in enumerate(footer.groups):
        if not starts or (rows and rows + count > shard_size):
            starts.append((i, total))
            rows = 0
        rows, total = rows + count, total + count
    ends = [start for start, _ in starts[1:]] + [len(footer.groups)]
    parts = [
        _Part(footer.url, stem, footer.stamp, start, footer.groups[start:end], row)
        for (start, row), end in zip(starts, ends, strict=True)
    ]
    return [part for part in parts if part.rows]


def _stems(urls: Sequence[str]) -> list[str]:
    """The files' names without extension; with the folders that tell them apart where names are the same."""
    paths = [without_query(url).removesuffix(PARQUET).split("/") for url in urls]
    if len({path[-1] for path in paths}) == len(paths):
        return [path[-1] for path in paths]
    same = 0
    while all(len(path) > same + 1 and path[same] == paths[0][same] for path in paths):
        same += 1
    return ["/".join(path[same:]) for path in paths]


def _wanted(field: str, fields: Collection[str] | None, drop_fields: Collection[str]) -> bool:
    return field in fields if fields is not None else field not in drop_fields
