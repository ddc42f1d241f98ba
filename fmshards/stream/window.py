"""The shuffle window: compressed rows and what belongs to them, in slots that are used again once a row is given away.

Columns are arrays of one entry a slot, whatever they hold; a batch is gathered from each by one `take`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmshards.errors import FormatError

Columns = dict[str, NDArray[Any]]


class Window:
    """Carries out a schedule: `put` the fetches of its stretches in their order, `take` the batches in theirs."""

    def __init__(self, slots: int, places: int) -> None:
        """`slots`: rows held at most; `places`: one more than the largest place that the schedule names."""
        self._slot = np.empty(places, np.int32)
        self._free = np.arange(slots, dtype=np.int32)[::-1].copy()
        self._left = slots
        self._columns: Columns = {}

    @property
    def bytes(self) -> int:
        """Bytes that the window's rows take."""
        return sum(column.nbytes for column in self._columns.values() if column.dtype == np.uint8)

    def put(
        self, columns: Mapping[str, NDArray[Any]], row: NDArray[np.int32], place: NDArray[np.int64], where: str
    ) -> None:
        """A fetch's columns, one entry for each row of its chunk; its rows `row` are kept, at the places `place`."""
        count = len(row)
        if count > self._left:
            self._grow(count - self._left)
        self._left -= count
        slots = self._free[self._left : self._left + count]
        self._slot[place] = slots
        self._open(columns, where)
        # Rows of a lane's part of a chunk mostly follow each other: a slice of them needs no copy.
        straight = bool((np.diff(row) == 1).all())
        chosen: Any = slice(int(row[0]), int(row[-1]) + 1) if straight else row
        for name, column in columns.items():
            self._columns[name][slots] = column[chosen]

    def take(self, place: NDArray[np.int64]) -> Columns:
        """The batch of the rows at `place`, [b, ...] of each column; their slots are free afterwards."""
        slots = self._slot[place]
        batch = {name: np.take(column, slots, axis=0) for name, column in self._columns.items()}
        self._free[self._left : self._left + len(slots)] = slots
        self._left += len(slots)
        return batch

    def _grow(self, count: int) -> None:
        # A lane holds more than `lane_slots` in one epoch of very many; nothing is lost then but some memory.
        slots = len(self._free)
        more = np.arange(slots, slots + count, dtype=np.int32)
        self._free = np.concatenate([self._free[: self._left], more, self._free[self._left :]])
        self._left += count
        for name, column in self._columns.items():
            self._columns[name] = np.concatenate([column, np.empty((count, *column.shape[1:]), column.dtype)])

    def _open(self, columns: Mapping[str, NDArray[Any]], where: str) -> None:
        if not self._columns:
            slots = len(self._free)
            self._columns = {n: np.empty((slots, *c.shape[1:]), c.dtype) for n, c in columns.items()}
        elif columns.keys() != self._columns.keys():
            odd = sorted(columns.keys() ^ self._columns.keys())[0]
            has, name = "has" if odd in columns else "lacks", odd.removeprefix("field:")
            raise FormatError(f"{where}: it {has} the field {name!r}, unlike other chunks of the set; extract it again")
        for name, column in columns.items():
            known = self._columns[name]
            if column.dtype != known.dtype or column.shape[1:] != known.shape[1:]:
                here, there = (f"{each.dtype} {list(each.shape[1:])}" for each in (column, known))
                name = name.removeprefix("field:")
                raise FormatError(
                    f"{where}: its field {name!r} holds {here}, other chunks of the set {there}; extract it again"
                )


def objects(values: Iterable[Any], count: int) -> NDArray[Any]:
    """A column of any Python values, lists among them."""
    return np.fromiter(values, dtype=object, count=count)
