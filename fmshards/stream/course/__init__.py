"""The course of a data set through its epochs: where an iteration begins, and how a state goes on.

state.py      the state of a stream, and how an epoch goes on from it
course.py     where a data set's iterations begin, over its epochs and the states that are loaded
epoch.py      the epoch number, and where in it to begin, that all workers agree on
iteration.py  one process's batches of an epoch, with a state of its own
agree.py      whether all ranks were given the same state
"""

from __future__ import annotations

from fmshards.stream.course.course import Course
from fmshards.stream.course.epoch import Beginning, Position
from fmshards.stream.course.iteration import Iteration
from fmshards.stream.course.state import Subject

__all__ = ["Beginning", "Course", "Iteration", "Position", "Subject"]
