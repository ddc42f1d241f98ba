"""Binding to a shard set: the plan that is there decides, and what differs from it is refused.

A set is made in one order: calibration and plan.json first, shards, manifest.json last. It is removed in the other:
the manifest first, so that a reader never takes what is left for a whole set; the plan last, so that what is left is
still known for what it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from fmshards import store
from fmshards.errors import FormatError, MismatchError
from fmshards.model import without_digests
from fmshards.shards import (
    InputShard,
    Manifest,
    Plan,
    layer_url,
    plan_differences,
    read_manifest,
    read_plan,
    write_calibration,
    write_plan,
)

PLAN, MANIFEST = "plan.json", "manifest.json"
_SHARD = re.compile(r"\d{6,}\.tar")
_CALIBRATION = re.compile(r"calibration-[0-9a-f]{16}\.safetensors")


def find_plan(out: str) -> tuple[Plan | None, Manifest | None]:
    """The plan and the manifest at `out`, None for what is not there. Raises FormatError for what cannot be read."""
    manifest = read_manifest(out) if store.exists(store.join(out, MANIFEST)) else None
    if store.exists(store.join(out, PLAN)):
        return read_plan(out), manifest
    return (manifest.plan if manifest else None), manifest


def check_plan(
    out: str, stored: Plan, ours: Mapping[str, Any], inputs: Sequence[InputShard], model: Callable[[Plan], list[str]]
) -> None:
    """Refuse a set that other options, another model or other input made. Raises MismatchError that lists them all.

    ours: the parts of a plan's JSON that are decided before anything is run. model: what differs of the model.
    """
    identity = without_digests(ours["identity"], stored.identity)
    here = {
        **ours,
        "identity": identity,
        "inputs": [_comparable(shard, stored.inputs, i) for i, shard in enumerate(inputs)],
    }
    differences = [*model(stored), *plan_differences(here, stored)]
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


def publish_plan(
    out: str,
    draft: Plan,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    request: Mapping[str, Any],
    model: Callable[[Plan], list[str]],
) -> Plan:
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
    check_plan(out, stored, request, draft.inputs, model)
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


def remove_set(out: str, layers: Sequence[str]) -> None:
    """Remove the set at `out`: its manifest first, its plan last. Nothing else in that folder is touched.

    layers: where to look for shards if the plan cannot be read.
    """
    manifest_url, plan_url = store.join(out, MANIFEST), store.join(out, PLAN)
    names = set(layers)
    with suppress(FormatError):
        names |= {layer.name for layer in read_plan(out).layers}
    store.remove(manifest_url)
    for name in sorted(names):
        folder = layer_url(out, name)
        for shard in store.list_names(folder):
            if _SHARD.fullmatch(shard):
                store.remove(store.join(folder, shard))
        if store.is_local(folder):
            with suppress(OSError):  # not empty, or not there
                os.rmdir(store.local_path(folder))
    store.remove(plan_url)
    # After the plan: a plan never stands without the arrays that it names.
    for name in store.list_names(out):
        if _CALIBRATION.fullmatch(name):
            store.remove(store.join(out, name))


def is_whole(out: str, manifest: Manifest) -> bool:
    """Whether every shard of the manifest is there in its size. No shard is read."""
    for layer, entries in manifest.shards.items():
        for entry in entries:
            url = layer_url(out, layer, entry.name)
            if not store.exists(url) or store.size(url) != entry.bytes:
                return False
    return True
