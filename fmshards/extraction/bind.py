"""Binding to a shard set: the plan that is there decides, and what differs from it is refused.

What is compared is content. Options and identity stand in the plan. An input shard is known by its size and a mark
that costs nothing (the plan's `stamps`); where these differ, by a digest of its content, which each shard keeps of the
input that it was made from. Where neither tells, a data set from Python or a set of an earlier version, some stored
samples are made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fmshards import functions, store
from fmshards.calibration import Stage
from fmshards.errors import FormatError, MismatchError, warn
from fmshards.extraction.sources import Source
from fmshards.extraction.work import found_shards
from fmshards.model import Identities, identity_differences
from fmshards.shards import (
    MANIFEST,
    PLAN,
    InputShard,
    Manifest,
    Plan,
    ShardIndex,
    layer_url,
    plan_differences,
    read_manifest,
    read_plan,
    still_ours,
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


@dataclass
class Findings:
    """What a comparison has found. differences: lines for a person. doubtful: shards that only their samples can tell.

    changed: input shards of which nothing is made yet, and which are others now.
    """

    differences: list[str] = field(default_factory=list)
    doubtful: dict[int, dict[str, ShardIndex]] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)


def check_plan(
    out: str, stored: Plan, ours: Mapping[str, Any], model: Identities, source: Source, stage: Stage
) -> Findings:
    """Refuse a set that other options, another model or other input made. Raises MismatchError that lists them all.

    ours: the parts of a plan's JSON that are decided before anything is run. stage: told of what takes time. What is
    doubtful is the caller's to look at.
    """
    found = Findings()
    here, changed, unclear = _known_functions(ours, stored)
    here["identity"]["layers"] = _known_layers(here["identity"]["layers"], stored)
    found.differences = [*changed, *plan_differences(here, stored)]
    layers = [(layer.name, layer.cut) for layer in stored.layers if layer.name in here["identity"]["layers"]]
    known = stored.provenance
    found.differences += identity_differences(stored.identity, layers, model, known.get("probe"), known.get("parts"))
    _compare_inputs(out, stored, source, stage, found)
    refuse(out, found.differences)
    if unclear:
        found.doubtful = {i: found_shards(out, stored, i) for i in range(len(stored.inputs))}
    if stored.calibration is not None:
        url = store.join(out, stored.calibration["file"])
        if not store.exists(url):
            raise FormatError(f"{url} is missing, which {PLAN} beside it names; replace the set with overwrite")
    if found.changed:
        some = ", ".join(found.changed[:3]) + (f" and {len(found.changed) - 3} more" if len(found.changed) > 3 else "")
        warn(f"{some}: changed since the set was begun; nothing was made from it yet, so it is used as it is now")
    return found


def refuse(out: str, differences: Sequence[str]) -> None:
    """Raise MismatchError that lists the differences, where there are any."""
    if differences:
        raise MismatchError(
            f"{out} holds a shard set, or a part of one, that was made otherwise:\n"
            + "".join(f"  {line}\n" for line in differences)
            + "extract to another place, or with what made the set, or replace the set with overwrite (--overwrite)"
        )


def publish_plan(out: str, draft: Plan, arrays: Mapping[str, np.ndarray[Any, Any]]) -> tuple[Plan, bool]:
    """Write the calibration's arrays and the plan, unless another process was first: then its plan is ours too, and
    is still to be compared. The plan, and whether it is our own."""
    calibration = write_calibration(out, arrays) if arrays else None
    plan = replace(draft, calibration=calibration)
    if write_plan(out, plan):
        return plan, True
    stored = read_plan(out)
    if calibration is not None and calibration != stored.calibration:
        store.remove(store.join(out, calibration["file"]))
    return stored, False


def check_ours(out: str, plan: Plan) -> None:
    """Raise MismatchError where the set at `out` is no longer that of `plan`."""
    if still_ours(out, plan):
        return
    try:
        lines = plan_differences(plan, read_plan(out)) or ["it was begun anew"]
    except FormatError:
        lines = ["it has no plan any more"]
    raise MismatchError(
        f"{out}: another process replaced the set while this extraction ran:\n"
        + "".join(f"  {line}\n" for line in lines)
        + "this one is stopped and leaves what is there to the other; extract to another place to have both"
    )


def stamps_of(source: Source) -> list[str | None]:
    """The marks of all input shards, as a plan's provenance keeps them."""
    return [source.stamp(i) for i in range(len(source.inputs))]


def _known_functions(ours: Mapping[str, Any], stored: Plan) -> tuple[dict[str, Any], list[str], bool]:
    """`ours` with the stored text of a function of the same name; a line for each that is another one for all that;
    and whether there is one that no digest tells from ours."""
    identity, changed, unclear = dict(ours["identity"]), [], False
    for name in ("preprocess", "recipe"):
        here, there = identity.get(name), stored.identity.get(name)
        if not isinstance(here, str) or not isinstance(there, str) or here == there:
            continue
        bare = [text.removeprefix("custom(").removesuffix(")") if name == "recipe" else text for text in (here, there)]
        if not functions.differ(*bare):
            identity[name], unclear = there, True
        elif functions.name_of(bare[0]) == functions.name_of(bare[1]):
            identity[name] = there
            changed.append(
                f"{name}: {functions.name_of(here)}: the same name, but its code, or a value that it refers to, is not "
                "that of the set"
            )
    return {**ours, "identity": identity}, changed, unclear


def _known_layers(ours: Mapping[str, Any], stored: Plan) -> dict[str, Any]:
    """`ours` with what the stored identity says of each layer that both have: the model is compared by itself."""
    theirs = stored.identity.get("layers")
    return {name: theirs[name] if isinstance(theirs, dict) and name in theirs else ours[name] for name in ours}


def _compare_inputs(out: str, stored: Plan, source: Source, stage: Stage, found: Findings) -> None:
    inputs = source.inputs
    if [shard.name for shard in inputs] != [shard.name for shard in stored.inputs]:
        found.differences += plan_differences({"inputs": [shard.to_json() for shard in inputs]}, stored)
        return
    mine, theirs = source.fingerprint(), stored.provenance.get("fingerprint")
    if mine is not None and theirs is not None and mine != theirs:
        found.differences.append(f"fingerprint: {mine} here, {theirs} in plan.json")
        return
    stamps = stored.provenance.get("stamps")
    stamps = stamps if isinstance(stamps, list) and len(stamps) == len(inputs) else [None] * len(inputs)
    suspects = [
        i
        for i, shard in enumerate(inputs)
        if not _alike(shard, stored.inputs[i]) or stamps[i] is None or stamps[i] != source.stamp(i)
    ]
    for done, i in enumerate(suspects):
        stage("comparing the input with what was extracted", done, len(suspects))
        _compare_input(out, stored, source, i, found)


def _compare_input(out: str, stored: Plan, source: Source, i: int, found: Findings) -> None:
    """One input shard that is not known to be the same."""
    mine, theirs = source.inputs[i], stored.inputs[i]
    made = found_shards(out, stored, i)
    if not made:
        if not _alike(mine, theirs):
            found.changed.append(mine.url)
        return
    content = source.content(i) if any(index.input for index in made.values()) else None
    unknown = {}
    for layer, index in made.items():
        if index.input is None or content is None:
            unknown[layer] = index
        elif index.input["digest"] != content:
            there = layer_url(out, layer, f"{theirs.name}.tar")
            found.differences.append(f"inputs {theirs.name}: {mine.url} is not what {there} was made from")
            _listing(mine, theirs, found)
            return
    if unknown and not _alike(mine, theirs):
        _listing(mine, theirs, found)
    elif unknown:
        found.doubtful[i] = unknown


def _listing(mine: InputShard, theirs: InputShard, found: Findings) -> None:
    for name in ("url", "bytes", "samples"):
        here, there = getattr(mine, name), getattr(theirs, name)
        if here != there and not (name == "url" and _alike_name(mine, theirs)):
            found.differences.append(f"inputs {theirs.name}.{name}: {here} here, {there} in plan.json")
    if mine.digest != theirs.digest:
        found.differences.append(f"inputs {theirs.name}: the names or sizes of its files are others than in plan.json")


def _alike(mine: InputShard, theirs: InputShard) -> bool:
    """Whether nothing that costs no reading tells one from the other.

    A source may be moved: its names, sizes and counts tell whether it is the same.
    """
    same = (mine.bytes, mine.samples, mine.digest) == (theirs.bytes, theirs.samples, theirs.digest)
    return same and _alike_name(mine, theirs)


def _alike_name(mine: InputShard, theirs: InputShard) -> bool:
    return mine.digest is not None or _base(mine.url) == _base(theirs.url)


def _base(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]
