"""One Parquet file, at a path or a URL: its footer, and its rows, a few at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fmshards import store
from fmshards.errors import InputError
from fmshards.extraction.sources.content import size_and_stamp

_ROWS = 16  # decoded at a time: as many photos are in memory, and a piece of each column
_PIECE = 4 << 20  # bytes of a column that are asked for at once


@dataclass(frozen=True)
class Footer:
    """What a file says of itself. schema: pyarrow's. groups: (rows, bytes as stored) of each row group."""

    url: str
    schema: Any
    groups: tuple[tuple[int, int], ...]
    stamp: str | None


def read_footer(url: str) -> Footer:
    """Raises InputError for what is no whole Parquet file or where pyarrow is missing, StoreError."""
    size, stamp = size_and_stamp(url)
    with _opened(url, size) as file:
        return Footer(url, file.schema_arrow, _groups(file), stamp)


def read_rows(
    url: str, groups: Sequence[tuple[int, int]], first: int, columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The rows of row groups `first` to `first + len(groups)`, in order: column -> value as Python has it.

    groups: (rows, bytes) of each, as the footer had them. Raises InputError for a file that has others now, or that is
    damaged; StoreError.
    """
    with _opened(url) as file:
        end = first + len(groups)
        if _groups(file)[first:end] != tuple(groups):
            raise InputError(f"{url} was written anew while it was read; run the same again once it is whole")
        # One thread, and none that reads ahead: workers are forked from this process.
        batches = file.iter_batches(_ROWS, row_groups=list(range(first, end)), columns=list(columns), use_threads=False)
        for batch in batches:
            values = {name: batch.column(name).to_pylist() for name in columns}
            for i in range(batch.num_rows):
                yield {name: column[i] for name, column in values.items()}


@contextmanager
def _opened(url: str, size: int | None = None) -> Iterator[Any]:
    """pyarrow's file. size: its bytes, where they are known already."""
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise InputError(
            f"{url} is a Parquet file, which pyarrow reads, and that is not installed: pip install 'fmshards[parquet]'"
        ) from None
    try:
        with _Ranges(url, size) as ranges, ParquetFile(pa.PythonFile(ranges, "r"), buffer_size=_PIECE) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        # Of the store's errors none is an OSError, and they come through pyarrow as they are.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"{url} is not a whole Parquet file: {reason}; get it again") from None


def _groups(file: Any) -> tuple[tuple[int, int], ...]:
    found = (file.metadata.row_group(i) for i in range(file.num_row_groups))
    return tuple((group.num_rows, _stored_bytes(group)) for group in found)


def _stored_bytes(group: Any) -> int:
    return sum(group.column(i).total_compressed_size for i in range(group.num_columns))


class _Ranges(io.RawIOBase):
    """A file to be read anywhere, by ranges of the store. An object that is written anew meanwhile is an error."""

    def __init__(self, url: str, size: int | None) -> None:
        self._url, self._backend, self._at = url, store.Access().backend(url), 0
        self._size = self._backend.size(url) if size is None else size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, length: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        data = self._backend.read(self._url, self._at, left if length < 0 else min(length, left))
        self._at += len(data)
        return data
