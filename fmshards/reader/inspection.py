"""What `fmshards inspect` shows: a set in a few plain numbers, and what recipes it can serve."""

from __future__ import annotations

import os
from typing import Any

from fmshards import store
from fmshards.augment import Recipe
from fmshards.reader.serving import serves
from fmshards.shards import MANIFEST, Plan, read_manifest, read_plan, set_url
from fmshards.shards.describe import describe, describe_plan


def inspect(url: str | os.PathLike[str]) -> dict[str, Any]:
    """What the set at `url` (a path or a URL) holds, or, where it is unfinished, what it will hold and what is missing.

    The dict is plain JSON. "whole": whether the set is finished; "missing": of an unfinished one, for each layer how
    many shards are not there yet, from one listing of its folder, None of a whole one. "samples", "bytes", and each
    layer's "bytes", "bytes_a_sample" (whole shards, other fields and tar overhead among them) and "error" (dB) are
    known of a whole set and None before. "rate" is in bits a value, "fp32_bytes" the bare feature's size.
    "mirror_channels" and "mirror_row_bytes" are of a mirror that is stored in part; "mirror_map" says what its map
    costs and how far it is off (FORMAT.md, `mirror_maps`), None where there is none or nobody recorded it. "layers",
    "identity", "options" and "provenance" are as the plan has them. "recipe" is the set's own as text; "serves" and
    "refuses" say which terms of another (`loader(recipe=...)`, all layers read) it can serve and how, and which it
    cannot, why, and what to do.

    Raises FormatError where no set is at `url` or what is there is malformed, StoreError where it cannot be read,
    InputError where `url` is no path or URL.
    """
    place = set_url(url)
    if store.exists(store.join(place, MANIFEST)):
        manifest = read_manifest(place)
        return {**describe(manifest), **_recipes(manifest.plan)}
    plan = read_plan(place)
    return {**describe_plan(place, plan), **_recipes(plan)}


def _recipes(plan: Plan) -> dict[str, Any]:
    return {"recipe": str(Recipe.from_json(plan.recipe)), **serves(plan)}
