"""A proposal as options of extraction: made, and taken."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from fmshards.augment import Recipe
from fmshards.errors import FmshardsError, InputError
from fmshards.extraction.draft import chunk_length
from fmshards.extraction.options import DEFAULTS, Options
from fmshards.planning import CutReport, Proposal, options_of_file
from fmshards.planning.choice import mirror_of

_FIXED = ("weights", "precision", "filter", "orientation", "image_field", "classes", "seed", "order")


def options_of(
    asked: Options, named: dict[str, str], chosen: Sequence[CutReport], recipe: Recipe, preprocess: Any
) -> dict[str, Any]:
    """What `extract` is to be told, of `Options.to_json` what is decided here or was given; a function is not."""
    rates = {named[report.cut.name]: report.chosen.rate for report in chosen if report.chosen is not None}
    rows = [report.chosen.bytes for report in chosen if report.chosen is not None]
    found: dict[str, Any] = {"layers": rates, "chunk": chunk_length(math.ceil(max(rows)))}
    if recipe:
        found["recipe"] = str(recipe)
    if recipe.flips:
        found["mirror"] = mirror_of(chosen)
    if isinstance(preprocess, str):
        found["preprocess"] = preprocess
    for field in fields(Options):
        value = getattr(asked, field.name)
        if field.name in _FIXED and value != field.default:
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


def planned(plan: str | os.PathLike[str] | Proposal, given: Mapping[str, Any]) -> Options:
    """The options of a plan's file, or of a Proposal, with what is given besides.

    given: by name, of any type; what has its default counts as not given. Raises InputError for what the plan has
    otherwise, and for a plan that proposes nothing.
    """
    if isinstance(plan, Proposal):
        where, proposed = "the plan", plan.options
        if proposed is None:
            raise InputError("the plan proposes nothing: no cut was within its budget; plan again with another budget")
    elif isinstance(plan, (str, os.PathLike)):
        where, proposed = f"plan {os.fspath(plan)!r}", dict(options_of_file(plan))
    else:
        raise InputError(f"plan is {type(plan).__name__}; expected a file of fmshards plan, or what fmshards.plan gave")
    try:
        theirs = Options.from_json(proposed)
    except FmshardsError as error:
        raise InputError(f"{where}: {error}") from None
    told = {name: value for name, value in given.items() if not _is_default(name, value)}
    ours = replace(theirs, **told)
    for name in proposed:
        if getattr(ours, name) != getattr(theirs, name):
            raise InputError(
                f"{name} is {getattr(ours, name)!r}, and {where} has {getattr(theirs, name)!r}: leave it out, or plan "
                "again with it"
            )
    return ours


def _is_default(name: str, value: Any) -> bool:
    return value is None or (isinstance(value, (str, int, tuple)) and value == DEFAULTS.get(name))
