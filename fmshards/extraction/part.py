"""Which part of an extraction this process is: said, or read from the scheduler that started it.

A part makes its own shards first, then what is left of the others'. So parts are about speed alone: any of them, alone,
makes the whole set in the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fmshards.errors import InputError

_TEXT = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_MOST = 10**6


@dataclass(frozen=True)
class Part:
    """Part `index`, from 0, of `count`. said_by: what named it; "" where nothing did."""

    index: int = 0
    count: int = 1
    said_by: str = ""

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def own(self, n: int) -> range:
        """Its own of n shards, one behind another."""
        return range(n * self.index // self.count, n * (self.index + 1) // self.count)

    def order(self, n: int) -> Iterator[int]:
        """All of n shards: its own from the first on, then those of each other part from the last back, beginning with
        the part after this one: whoever helps comes from the other end than the one that is helped."""
        yield from self.own(n)
        for ahead in range(1, self.count):
            other = Part((self.index + ahead) % self.count, self.count)
            yield from reversed(other.own(n))


def part_of(part: Any, environ: Mapping[str, str] | None = None) -> Part:
    """The part that is said, "I/N" or a pair of numbers, else the one that the environment tells of.

    RANK and WORLD_SIZE (torchrun); JOB_COMPLETION_INDEX of a Kubernetes Job, with FMSHARDS_PARTS for how many there
    are; SLURM_ARRAY_TASK_ID, _MIN, _STEP and _COUNT, and within a task of an array, or without one, SLURM_PROCID and
    SLURM_NTASKS: the first of these that is there. Raises InputError that names what cannot be.
    """
    if part is not None:
        return _said(part)
    environ = os.environ if environ is None else environ
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _numbered(environ, "RANK", "WORLD_SIZE")
    if "JOB_COMPLETION_INDEX" in environ:
        if "FMSHARDS_PARTS" not in environ:
            raise InputError(
                "JOB_COMPLETION_INDEX says which pod of a Job this is, and nothing says of how many: set "
                "FMSHARDS_PARTS to the Job's completions, or give the part (--part $(JOB_COMPLETION_INDEX)/N)"
            )
        return _numbered(environ, "JOB_COMPLETION_INDEX", "FMSHARDS_PARTS")
    return _of_slurm(environ)


def _of_slurm(environ: Mapping[str, str]) -> Part:
    said, index, count = [], 0, 1
    if "SLURM_ARRAY_TASK_ID" in environ and "SLURM_ARRAY_TASK_COUNT" in environ:
        first, step = _number(environ, "SLURM_ARRAY_TASK_MIN", 0), _number(environ, "SLURM_ARRAY_TASK_STEP", 1)
        index = (_number(environ, "SLURM_ARRAY_TASK_ID") - first) // max(step, 1)
        count = _number(environ, "SLURM_ARRAY_TASK_COUNT")
        said = ["SLURM_ARRAY_TASK_ID"]
    if "SLURM_PROCID" in environ and "SLURM_NTASKS" in environ:
        tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
        inner = _numbered(environ, "SLURM_PROCID", tasks)
        index, count = index * inner.count + inner.index, count * inner.count
        said.append("SLURM_PROCID")
    return _checked(index, count, " and ".join(said))


def _said(part: Any) -> Part:
    match = _TEXT.fullmatch(part.strip()) if isinstance(part, str) else None
    numbers = [int(number) for number in match.groups()] if match else part
    if not (isinstance(numbers, (tuple, list)) and len(numbers) == 2 and all(type(each) is int for each in numbers)):
        raise InputError(f"part is {part!r}; expected I/N, as 0/8 to 7/8"[:300])
    return _checked(numbers[0], numbers[1], "part")


def _numbered(environ: Mapping[str, str], index: str, count: str) -> Part:
    return _checked(_number(environ, index), _number(environ, count), index)


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"\s*[0-9]{1,9}\s*", text):
        raise InputError(
            f"{name} is {text!r} in the environment; expected a whole number, or give the part (--part I/N)"
        )
    return int(text)


def _checked(index: int, count: int, said_by: str) -> Part:
    if not (1 <= count <= _MOST and 0 <= index < count):
        raise InputError(
            f"{said_by}: part {index} of {count} cannot be: parts are numbered from 0, and are 1 to {_MOST:,}; give "
            "the part (--part I/N)"
        )
    return Part(index, count, said_by)
