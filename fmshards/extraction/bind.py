"""Binding to a shard set: the plan that is there decides, and what differs from it is refused.

A set is made in one order: calibration and plan.json first, shards, manifest.json last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fmshards import store
from fmshards.errors import FormatError, MismatchError
from fmshards.shards import (
    MANIFEST,
    PLAN,
    InputShard,
    Manifest,
    Plan,
    plan_differences,
    read_manifest,
    read_plan,
    write_calibration,
    write_plan,
)


def find_plan(out: str) -> tuple[Plan | None, Manifest | None]:
    """The plan and the manifest at `out`, None for what is not there. Raises FormatError for what cannot be read."""
    manifest = read_manifest(out) if store.exists(store.join(out, MANIFEST)) else None
    if manifest is not None:
        write_plan(out, manifest.plan)  # one that was lost
    if store.exists(store.join(out, PLAN)):
        return read_plan(out), manifest
    return (manifest.plan if manifest else None), manifest


def check_plan(out: str, stored: Plan, ours: Mapping[str, Any], inputs: Sequence[InputShard]) -> None:
    """Refuse a set that other options, another model or other input made. Raises MismatchError that lists them all.

    ours: the parts of a plan's JSON that are decided before anything is run.
    """
    here = {**ours, "inputs": [_comparable(shard, stored.inputs, i) for i, shard in enumerate(inputs)]}
    differences = plan_differences(here, stored)
    if not differences and stored.calibration is not None:
        url = store.join(out, stored.calibration["file"])
        if not store.exists(url):
            raise FormatError(f"{url} is missing, which {PLAN} beside it names; replace the set with overwrite")
    if differences:
        raise MismatchError(
            f"{out} holds a shard set, or a part of one, that was made otherwise:\n"
            + "".join(f"  {line}\n" for line in differences)
            + "extract to another place, or with what made the set, or replace the set with overwrite (--overwrite)"
        )


def publish_plan(out: str, draft: Plan, arrays: Mapping[str, np.ndarray[Any, Any]], request: Mapping[str, Any]) -> Plan:
    """Write the calibration's arrays and the plan, unless another process was first: then its plan is ours too.

    Raises MismatchError where that process extracts something else.
    """
    calibration = write_calibration(out, arrays) if arrays else None
    plan = replace(draft, calibration=calibration)
    if write_plan(out, plan):
        return plan
    stored = read_plan(out)
    if calibration is not None and calibration != stored.calibration:
        store.remove(store.join(out, calibration["file"]))
    check_plan(out, stored, request, draft.inputs)
    return stored


def _comparable(shard: InputShard, stored: Sequence[InputShard], i: int) -> dict[str, Any]:
    """`shard` as JSON, with the stored URL where that alone differs and it names the same file in another folder.

    A source may be moved: its names, sizes and counts tell whether it is the same.
    """
    value = shard.to_json()
    if i < len(stored) and (shard.digest is not None or _base(shard.url) == _base(stored[i].url)):
        value["url"] = stored[i].url
    return value


def _base(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]
