"""A whole list read once: where its shards begin, what its labels are, and whether each row can be an item."""

from __future__ import annotations

import hashlib
import math
from contextlib import suppress
from typing import Any

from fmshards import store
from fmshards.errors import FmshardsError, InputError
from fmshards.extraction.sources.columns import field_names
from fmshards.extraction.sources.list_file import ListFile, Row, Start
from fmshards.shards.fields import LABEL

_MOST_NUMBERS = 100_000  # different numbers among labels: with more of them, labels are no names of classes


class ListCheck:
    """starts, counts, digests, stamps: of each shard. columns: of every row. names: see below; whole: whether labels
    that are text and numbers are whole ones. Raises InputError, naming list and line."""

    def __init__(self, listed: ListFile, image: str, shard_size: int) -> None:
        self._list, self._image = listed, image
        self.starts: list[Start] = []
        self.counts: list[int] = []
        self.digests: list[str] = []
        self.stamps: list[str] = []
        self.columns: tuple[str, ...] = ()
        self.whole = True
        self._texts: dict[str, int] = {}
        self._label: str | None = None
        self._named = self._other = 0  # the first line of a label that is a name, and of one that is no text
        start = listed.begin
        rows = 0
        stats = hashlib.sha256()
        for row in listed.rows(start):
            if rows and rows % shard_size == 0:
                self._cut(start, stats, shard_size)
                stats = hashlib.sha256()
            if rows % shard_size == 0:
                self.starts.append(start)
            self._check(row, rows)
            stats.update(self._stat(row).encode())
            start, rows = Start(row.end, row.line), rows + 1
        if not rows:
            raise InputError(f"{listed.url} lists nothing; expected a URL or path in each line")
        self._cut(start, stats, rows - shard_size * (len(self.starts) - 1))

    def _cut(self, end: Start, stats: Any, count: int) -> None:
        """A shard ends."""
        self.counts.append(count)
        self.digests.append(self._list.digest(self.starts[-1].byte, end.byte))
        self.stamps.append(f"{count} rows, {stats.hexdigest()}")

    def _check(self, row: Row, rows: int) -> None:
        if not rows:
            self.columns = tuple(row.values)
            self._label = next((name for name, field in field_names(self.columns).items() if field == LABEL), None)
        if row.values.keys() != set(self.columns):
            odd = min(row.values.keys() ^ set(self.columns))
            state = "has" if odd in row.values else "lacks"
            raise self._list.error(row.line, f"it {state} {odd!r}, unlike the rows before; all need the same columns")
        if self._image not in row.values:
            raise self._list.error(
                row.line, f"expected a column {self._image!r} with the images' URLs, found {', '.join(self.columns)}; "
                "name it with image_field="
            )  # fmt: skip
        found = row.values[self._image]
        if not isinstance(found, str) or not found:
            raise self._list.error(row.line, f"{self._image} is {found!r}; expected a URL or a path")
        if self._label is not None:
            self._check_label(row.values[self._label], row.line)

    def _check_label(self, label: Any, line: int) -> None:
        if label is None or label == "":
            raise self._list.error(line, f"the {self._label} is empty; give every row one, or leave the column out")
        if not isinstance(label, str):
            self._other = self._other or line
        elif not _is_number(label):
            self._named = self._named or line
        elif not _is_whole(label):
            self.whole = False
        if self._named and (self._other or (len(self._texts) > _MOST_NUMBERS and self._named == line)):
            raise self._list.error(
                self._named, f"the {self._label} is text, and others are numbers; expected numbers or names of classes"
            )
        if isinstance(label, str) and (self._named or len(self._texts) <= _MOST_NUMBERS):
            self._texts.setdefault(label, line)

    @property
    def names(self) -> dict[str, int]:
        """The labels, where they are names of classes, and the first line of each."""
        return self._texts if self._named else {}

    def _stat(self, row: Row) -> str:
        """What tells without reading whether the image of a row is another one: of a local file its size and times."""
        try:
            place = place_of(self._list.url, row.values[self._image])
            if not store.is_local(place):
                return ""
            found = store.info(place)
        except FmshardsError as error:
            raise self._list.error(row.line, str(error)) from None
        if found is None:
            raise self._list.error(row.line, f"{place} does not exist; expected an image's URL or path")
        return f"{found.mark}\n"


def place_of(listed: str, text: str) -> str:
    """Where an item is: a path that does not begin at the root is one below the list's folder."""
    if not store.is_local(text) or text.startswith(("/", "file://", "local://")):
        return text
    return store.join(store.parent(listed), text)


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii()


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        return math.isfinite(float(text)) and "_" not in text
    return False
