"""The shuffle window: compressed rows and what belongs to them, in slots that are used again once a row is given away.

Columns are arrays of one entry a slot, whatever they hold; a batch is gathered from each by one `take`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmshards.errors import FormatError
from fmshards.stream.order import Schedule

Columns = dict[str, NDArray[Any]]


class Window:
    """Carries out one schedule: `put` the fetches in its order, `take` the batches in its order."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._slot = np.empty(len(schedule.row), np.int32)
        self._free = np.arange(schedule.slots, dtype=np.int32)[::-1].copy()
        self._left = schedule.slots
        self._columns: Columns = {}
        self.fetched = 0

    @property
    def bytes(self) -> int:
        """Bytes that the window's rows take."""
        return sum(column.nbytes for column in self._columns.values() if column.dtype == np.uint8)

    def put(self, columns: Mapping[str, NDArray[Any]], where: str) -> None:
        """The next fetch's columns, one entry for each row of its chunk; those that this worker shows are kept."""
        plan, f = self._schedule, self.fetched
        start, count = int(plan.start[f]), int(plan.count[f])
        row = plan.row[start : start + count]
        self._left -= count
        slots = self._free[self._left : self._left + count]
        self._slot[start : start + count] = slots
        self._open(columns, where)
        # Rows of a lane's part of a chunk mostly follow each other: a slice of them needs no copy.
        straight = int(row[-1]) - int(row[0]) + 1 == count
        chosen: Any = slice(int(row[0]), int(row[-1]) + 1) if straight else row
        for name, column in columns.items():
            self._columns[name][slots] = column[chosen]
        self.fetched += 1

    def take(self, i: int) -> Columns:
        """The i-th batch, [b, ...] of each column; its slots are free afterwards."""
        slots = self._slot[self._schedule.emit[i]]
        batch = {name: column[slots] for name, column in self._columns.items()}
        self._free[self._left : self._left + len(slots)] = slots
        self._left += len(slots)
        return batch

    def _open(self, columns: Mapping[str, NDArray[Any]], where: str) -> None:
        if not self._columns:
            slots = len(self._free)
            self._columns = {n: np.empty((slots, *c.shape[1:]), c.dtype) for n, c in columns.items()}
        elif columns.keys() != self._columns.keys():
            odd = sorted(columns.keys() ^ self._columns.keys())[0]
            has, name = "has" if odd in columns else "lacks", odd.removeprefix("field:")
            raise FormatError(f"{where}: it {has} the field {name!r}, unlike other chunks of the set; extract it again")


def objects(values: Iterable[Any], count: int) -> NDArray[Any]:
    """A column of any Python values, lists among them."""
    return np.fromiter(values, dtype=object, count=count)
