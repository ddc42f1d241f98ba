"""What the stream's tests share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fmshards.errors import FmshardsError
from fmshards.stream.order import Stretch


@dataclass
class Carried:
    """What a schedule did: each batch's number, (chunk, row) of its rows and which are valid; (batches made before,
    chunk, rows) of each fetch; the most rows held, and the largest place."""

    batches: list[int] = field(default_factory=list)
    rows: list[list[tuple[int, int]]] = field(default_factory=list)
    valid: list[list[bool]] = field(default_factory=list)
    fetches: list[tuple[int, int, int]] = field(default_factory=list)
    most: int = 0
    places: int = 0

    def ids(self, sizes: np.ndarray) -> list[list[int]]:
        """Numbers in the set of each batch's rows."""
        first = (np.cumsum(sizes) - sizes).tolist()
        assert all(row < sizes[chunk] for batch in self.rows for chunk, row in batch)
        return [[first[chunk] + row for chunk, row in batch] for batch in self.rows]


def carry_out(stretches: Iterable[Stretch]) -> Carried:
    """Carry out a schedule by the letter: no place is used twice, no row is shown that was not fetched or left over."""
    out, held = Carried(), {}
    for stretch in stretches:
        done = 0
        for i, need in enumerate([*stretch.need.tolist(), len(stretch.chunk)]):
            for f in range(done, need):
                part = slice(stretch.start[f], stretch.start[f] + stretch.count[f])
                assert stretch.count[f] > 0
                for row, place in zip(stretch.row[part].tolist(), stretch.place[part].tolist(), strict=True):
                    assert place not in held
                    held[place] = int(stretch.chunk[f]), row
                    out.places = max(out.places, place + 1)
                out.fetches.append((len(out.batches), int(stretch.chunk[f]), int(stretch.count[f])))
            done = max(done, need)
            out.most = max(out.most, len(held))
            if i < len(stretch.batches):
                out.batches.append(int(stretch.batches[i]))
                out.rows.append([held.pop(place) for place in stretch.emit[i].tolist()])
                out.valid.append([True] * len(out.rows[-1]) if stretch.valid is None else stretch.valid[i].tolist())
    assert not held
    return out


def error_of(kind: type[FmshardsError], batches: Iterable[Any]) -> str:
    """The message of the error that reading all of `batches` ends in.

    The traceback is dropped: torch waits 5 s for each worker of an iterator that is left to the garbage collector.
    """
    message = None
    try:
        for _ in batches:
            pass
    except kind as error:
        message = str(error)
        error.__traceback__ = None
    if message is None:
        pytest.fail(f"expected {kind.__name__}")
    return message
