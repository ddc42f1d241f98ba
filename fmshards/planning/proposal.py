"""The answer: what was found, a table to act on, and a file that extraction takes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fmshards.errors import InputError
from fmshards.planning.judge import Judged
from fmshards.planning.report import CutReport
from fmshards.planning.setting import Budget

VERSION = 1
_MARK = "fmshards_plan"


@dataclass(frozen=True)
class Proposal:
    """What `fmshards.plan` answers. options: what `extract` is to be told, by its names, as JSON holds it; None where
    no cut is within the budget. cuts: what was found of each. notes: sentences for a person, the weightiest first.

    photos: of the sample. photo_bytes: of an encoded image, the mean. total: samples of the source. about: model,
    weights and source as they were named.
    """

    options: dict[str, Any] | None
    budget: Budget
    judged: Judged
    cuts: tuple[CutReport, ...]
    notes: tuple[str, ...]
    photos: int
    photo_bytes: float | None
    total: int | None
    seconds: float
    about: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, which `options_of_file` reads the options from."""
        return {
            _MARK: VERSION,
            "options": self.options,
            **self.about,
            "budget": {"max_drop": self.budget.drop, "max_bytes": self.budget.bytes},
            "judged": vars(self.judged),
            "photos": self.photos,
            "photo_bytes": self.photo_bytes,
            "samples": self.total,
            "seconds": round(self.seconds, 1),
            "notes": list(self.notes),
            "cuts": [report.to_json() for report in self.cuts],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file that `extract(plan=...)` takes. Raises InputError where it cannot be written."""
        try:
            with open(path, "w", encoding="utf-8") as file:
                json.dump(self.to_json(), file, indent=2)
                file.write("\n")
        except OSError as error:
            raise InputError(f"the plan cannot be written: {error}") from None


def options_of_file(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The options in a file that `Proposal.save` wrote. Raises InputError, naming the file."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"plan {os.fspath(path)!r} cannot be read: {error}; expected a file of fmshards plan"
        ) from None
    if not isinstance(found, dict) or _MARK not in found:
        raise InputError(f"plan {os.fspath(path)!r} is no file of fmshards plan: it has no {_MARK!r}")
    if found[_MARK] != VERSION:
        raise InputError(f"plan {os.fspath(path)!r} has version {found[_MARK]!r}; this fmshards reads {VERSION}")
    options = found.get("options")
    if options is None:
        raise InputError(
            f"plan {os.fspath(path)!r} proposes nothing: no cut was within its budget; plan again with another budget"
        )
    if not isinstance(options, dict):
        raise InputError(f"plan {os.fspath(path)!r}: options are a {type(options).__name__}; expected an object")
    return options
