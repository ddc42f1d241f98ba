"""Where the iterations of one data set begin: the epochs that follow each other, and the states that are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fmshards.errors import InputError, warn
from fmshards.stream.course.epoch import Beginning, EpochCounter, Position
from fmshards.stream.course.state import Shape, Subject, go_on, legs_of, position_after, position_of, state_of
from fmshards.stream.order.deal import Job, Leg


class Course:
    """The course of a data set through its epochs, shared by all processes that iterate it."""

    def __init__(self, epoch: int, subject: Subject) -> None:
        self._epochs = EpochCounter(epoch, counts=subject.train)
        self._subject = subject
        self.loads = 0
        """States that were loaded in this process."""

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration will be."""
        return self._epochs.next.epoch

    @property
    def next_position(self) -> Position:
        """Where the next iteration will begin."""
        return self._epochs.next

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that epoch; a state of another one that was loaded is given up, with a warning."""
        coming = self._epochs.next
        if self._subject.train and coming.begun and coming.epoch != epoch:
            warn(
                f"set_epoch({epoch}): the state that was loaded is of epoch {coming.epoch}, the rest of which is given "
                f"up; to go on with it, begin with set_epoch({coming.epoch})"
            )
            coming = Position(epoch)
        self._epochs.set(replace(coming, epoch=epoch))

    def begin(self) -> Position:
        """Where this iteration begins. Called once by each process that takes part in it."""
        return self._epochs.begin()

    def follow(self, workers: int, base_seed: int, turn: int) -> Beginning:
        """Where the iteration began that was just made in the main process: that of workers with this base seed, the
        turn-th one of their DataLoader's iterator; without workers, the last. To be asked once for each."""
        if workers:
            return Beginning(self._epochs.follow(base_seed, turn, workers), workers)
        last = self._epochs.last
        assert last is not None  # it has begun in this process
        return last

    def legs(self, position: Position, job: Job, shape: Shape) -> tuple[Leg, ...]:
        """The legs of the epoch as an iteration of `job` goes on with it, or begins it."""
        return go_on(legs_of(position, self._subject), job, shape)

    def batches(self, position: Position, job: Job, shape: Shape) -> int:
        """Batches of an epoch that began there: those that were handed out before, and those of this job."""
        if self._subject.train:
            *past, last = self.legs(position, job, shape)
            return sum(leg.done for leg in past) + last.deal.batches
        return -(-position.rows // job.batch) - (position.rows - self._subject.samples) // job.batch

    def coming(self, job: Job, shape: Shape) -> tuple[dict[str, Any], bool]:
        """(what the next iteration of `job` makes, as a state; whether it deals anew what was left)."""
        position = self._epochs.next
        begun = legs_of(position, self._subject)
        legs = self.legs(position, job, shape)
        return state_of(self._subject, position_after(position.epoch, legs, 0)), bool(begun) and legs != begun

    def position_of(self, state: Mapping[str, Any]) -> Position:
        """Where a state is. Raises InputError or MismatchError for one of no, or of another, stream."""
        return position_of(state, self._subject)

    def load(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration begin where a state says."""
        position = self.position_of(state)
        self._epochs.set(position if self._subject.train else replace(position, epoch=self.epoch))
        self.loads += 1

    def go_back(self, position: Position) -> None:
        """Have the iteration that began last begin there; the epoch after it comes next."""
        self._epochs.go_back(position)

    def next_state(self) -> dict[str, Any]:
        """The state of the next iteration's beginning."""
        return state_of(self._subject, self._epochs.next)

    def last_begun(self, batches: int) -> Beginning | None:
        """Where the iteration began that began last, None where none did since a state or an epoch was set.

        Raises InputError where there are none that `batches` could be of.
        """
        last = self._epochs.last
        if batches and last is None:
            raise InputError(f"batches={batches}: no iteration has begun since set_epoch or load_state_dict was called")
        return last

    def state_after(self, began: Beginning, batches: int, job: Job, shape: Shape) -> dict[str, Any]:
        """The state, `batches` batches after an iteration of `job` began there."""
        position = began.position
        if self._subject.train:
            position = position_after(position.epoch, self.legs(position, job, shape), batches)
        else:
            position = replace(position, rows=min(position.rows + batches * job.batch, self._subject.samples))
        return state_of(self._subject, position)
