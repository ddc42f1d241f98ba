"""One process's iteration of a data set, with a state of its own.

torchdata's StatefulDataLoader keeps the state of each worker's iterator, as it was when its last batch that the trainer
has seen was made, and gives it back to the same worker of as many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import get_worker_info

from fmshards.errors import InputError, MismatchError
from fmshards.stream.arguments import whole
from fmshards.stream.course.course import Course
from fmshards.stream.course.epoch import Beginning, Position
from fmshards.workers import begin_worker

_OWN = ("made", "worker", "workers")
"""What a state has beside that of the iteration's beginning: batches that this process made, which one of how many."""

Make = Callable[[Position, int], Iterator[dict[str, Any]]]
"""The batches of this process from a position on, but for so many of the first."""

StateAt = Callable[[Beginning], dict[str, Any]]


class Iteration(Iterator[dict[str, Any]]):
    """The batches of one epoch, or of what is left of it, that this process makes."""

    def __init__(self, course: Course, make: Make, state_at: StateAt) -> None:
        """It begins here, not at the first batch: every worker of an iteration must begin the same one."""
        info = get_worker_info()
        self._worker, self._workers = (0, 0) if info is None else (info.id, info.num_workers)
        if info is not None:
            begin_worker()
        self._course, self._make, self._state_at = course, make, state_at
        self._position = course.begin()
        self._batches: Iterator[dict[str, Any]] | None = None
        self._made = 0

    def __next__(self) -> dict[str, Any]:
        # What may fail comes here: a persistent worker that fails any earlier dies without a word.
        if self._batches is None:
            self._batches = self._make(self._position, self._made)
        batch = next(self._batches)
        self._made += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where this process is, in plain data."""
        began = self._state_at(Beginning(self._position, self._workers))
        return {**began, "made": self._made, "worker": self._worker, "workers": self._workers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state`, of the same worker of as many, was. The epoch after it comes next.

        Raises InputError where batches were made already, or for what is no state; MismatchError for another worker's
        or another stream's, naming what differs.
        """
        if self._batches is not None:
            raise InputError("a state is loaded before the first batch is made")
        position = self._course.position_of({k: v for k, v in state.items() if k not in _OWN})
        made, worker, workers = (whole(f"{name} of the state", state.get(name), 0) for name in _OWN)
        if (worker, workers) != (self._worker, self._workers):
            raise MismatchError(
                f"the state is that of worker {worker} of {workers}, this is worker {self._worker} of {self._workers}: "
                "a StatefulDataLoader resumes with as many workers; to go on with others, or with other ranks, load "
                "what the data set's state_dict(batches) gave, or use fmshards.loader"
            )
        self._position, self._made = position, made
        self._course.go_back(position)
