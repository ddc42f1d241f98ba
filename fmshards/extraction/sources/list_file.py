"""A list of images as a file: lines of text, CSV, TSV or JSON-lines, read as rows, each with its line's number."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fmshards import store
from fmshards.errors import InputError
from fmshards.extraction.sources.scan import without_query

KINDS = {".txt": "txt", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl"}
URL = "url"
_LARGEST = 4 << 30  # bytes of a list, which is held in memory
_DELIMITERS = {"csv": ",", "tsv": "\t"}


def list_kind(url: str) -> str | None:
    """Which kind of list a file is by its extension; None for no list."""
    path = without_query(url)
    return next((kind for extension, kind in KINDS.items() if path.endswith(extension)), None)


@dataclass(frozen=True)
class Row:
    """line: of the list, from 1. end: the byte after the row."""

    line: int
    values: dict[str, Any]
    end: int


@dataclass(frozen=True)
class Start:
    """Where rows begin: a byte, and how many lines are before it."""

    byte: int
    lines: int


class ListFile:
    """A list at a path or a URL, in memory as it is stored.

    txt: a URL or path a line, empty ones left out. csv, tsv: a header, then rows of as many cells. jsonl: an object a
    line. Raises InputError, naming list and line, for what cannot be read, and StoreError.
    """

    def __init__(self, url: str) -> None:
        self.url, self.kind = url, list_kind(url)
        size = store.size(url)
        if size > _LARGEST:
            raise InputError(f"{url}: a list of {size:,} bytes; expected {_LARGEST:,} at most: split it, a set of each")
        self._data = store.read(url, 0, size)
        self.begin, self.columns = self._header()

    def rows(self, start: Start) -> Iterator[Row]:
        """From `start` on."""
        if self.kind in _DELIMITERS:
            yield from self._cells(start)
            return
        for line, text, end in self._lines(start):
            if not text.strip():
                continue
            yield Row(line, {URL: text.strip()} if self.kind == "txt" else self._object(line, text), end)

    def digest(self, start: int, end: int) -> str:
        """SHA-256 of the header and the bytes from `start` to `end`."""
        digest = hashlib.sha256(self._data[: self.begin.byte])
        digest.update(memoryview(self._data)[start:end])
        return digest.hexdigest()

    def error(self, line: int, what: str) -> InputError:
        return InputError(f"{self.url}, line {line}: {what}")

    def _header(self) -> tuple[Start, tuple[str, ...] | None]:
        """Where rows begin, and the columns of a table."""
        start = Start(3 if self._data.startswith(b"\xef\xbb\xbf") else 0, 0)
        if self.kind not in _DELIMITERS:
            return start, None
        for line, cells, end in self._parsed(start):
            if "" in cells or len(set(cells)) < len(cells):
                raise self.error(line, f"expected a header of column names, each once, found {cells!r}"[:200])
            return Start(end, line), tuple(cells)
        raise InputError(f"{self.url} is empty; expected a header of column names, {URL} among them")

    def _cells(self, start: Start) -> Iterator[Row]:
        assert self.columns is not None
        for line, cells, end in self._parsed(start):
            if not cells:
                continue
            if len(cells) != len(self.columns):
                raise self.error(line, f"expected {len(self.columns)} cells, as the header has, found {len(cells)}")
            yield Row(line, dict(zip(self.columns, cells, strict=True)), end)

    def _parsed(self, start: Start) -> Iterator[tuple[int, list[str], int]]:
        """(number of its last line, cells, byte after it) of each row."""
        at = [start.byte]

        def lines() -> Iterator[str]:
            for _, text, end in self._lines(start):
                at[0] = end
                yield text

        reader = csv.reader(lines(), delimiter=_DELIMITERS[str(self.kind)], strict=True, skipinitialspace=True)
        try:
            for cells in reader:
                yield start.lines + reader.line_num, cells, at[0]
        except csv.Error as error:
            raise self.error(start.lines + reader.line_num, f"it cannot be read as {self.kind}: {error}") from None

    def _object(self, line: int, text: str) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.error(line, f"it is no JSON: {error}") from None
        if not isinstance(found, dict):
            raise self.error(line, f"expected an object with {URL}, found {text.strip()!r}"[:200])
        return found

    def _lines(self, start: Start) -> Iterator[tuple[int, str, int]]:
        """(number, text with its end, byte after it) of each line."""
        at, number = start.byte, start.lines
        while at < len(self._data):
            end = self._data.find(b"\n", at) + 1 or len(self._data)
            number += 1
            try:
                text = self._data[at:end].decode()
            except UnicodeDecodeError:
                raise self.error(number, "it is not UTF-8; save the list as UTF-8") from None
            yield number, text, end
            at = end
