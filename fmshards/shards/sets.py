"""A shard set at a URL: the names of its files, how they are read and written, whether it is whole, its removal.

A set is made in one order: the calibration's arrays and `plan.json` first, a folder of shards for each layer, the
manifest last. It is removed in the other: the manifest first, so that a reader never takes what is left for a whole
set; the plan last, so that what is left is still known for what it was.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import numpy as np

from fmshards import store
from fmshards.errors import CorruptError, FormatError, InputError, StoreError
from fmshards.shards import limits
from fmshards.shards.fields import check_layer_names
from fmshards.shards.layer import check_name
from fmshards.shards.manifest import Manifest
from fmshards.shards.plan import Plan

T = TypeVar("T")
PLAN = "plan.json"
MANIFEST = "manifest.json"
_READINGS = 3
"""Of a file from a store, after the first one."""

_SHARD = re.compile(r"\d{6,}\.tar")
_CALIBRATION = re.compile(r"calibration-[0-9a-f]{16}\.safetensors")


def set_url(url: str | os.PathLike[str]) -> str:
    """`url` as text. A path is made absolute: the set stays the same wherever the process, or a worker of it, goes.

    Raises InputError for what is no path or URL.
    """
    text = os.fspath(url) if isinstance(url, os.PathLike) else url
    if not isinstance(text, str) or not text:
        raise InputError(f"url: expected the path or URL of a shard set, found {url!r}"[:300])
    return store.absolute(text)


def layer_url(set_url: str, layer: str, name: str | None = None) -> str:
    """URL of a layer's folder, or of its shard `name` ("000000.tar"). Raises FormatError for names that climb out."""
    parts = [check_name(layer, "layer")] + ([] if name is None else [check_name(name, "shard")])
    return store.join(set_url, *parts)


def read_plan(set_url: str) -> Plan:
    """The plan of the set at `set_url`, whether it is whole or not. Raises FormatError where there is none."""
    url = store.join(set_url, PLAN)
    if not store.exists(url):
        raise FormatError(f"no shard set here: {url} does not exist; extract one, or check the path")
    return _sound(lambda: Plan.from_bytes(store.read_small(url, limits.PLAN_BYTES), url))


def read_manifest(set_url: str) -> Manifest:
    """The manifest of the whole set at `set_url`. Raises FormatError where there is no set or it is not whole, saying
    how much is missing."""
    url = store.join(set_url, MANIFEST)
    if not store.exists(url):
        if store.exists(store.join(set_url, PLAN)):
            plan = read_plan(set_url)
            missing = sum(missing_shards(set_url, plan).values())
            what = f"{missing} of its {len(plan.inputs) * len(plan.layers)} shards are missing" if missing else ""
            raise FormatError(
                f"{set_url}: the set is not whole: {what or 'it has all shards, but no manifest.json yet'}; run the "
                "same extract again, which goes on with it"
            )
        raise FormatError(f"no shard set here: neither plan.json nor manifest.json is at {set_url}; check the path")
    try:
        return _sound(lambda: Manifest.from_bytes(_agreed(url, limits.MANIFEST_BYTES), url))
    except CorruptError as error:
        raise CorruptError(f"{error}; remove it and run the same extract, which makes it from the shards") from None


def missing_shards(set_url: str, plan: Plan) -> dict[str, int]:
    """For each layer, how many of its shards are not there: one listing of its folder, no shard is opened."""
    wanted = {f"{shard.name}.tar" for shard in plan.inputs}
    return {
        layer.name: len(wanted.difference(store.list_names(layer_url(set_url, layer.name)))) for layer in plan.layers
    }


def write_plan(set_url: str, plan: Plan) -> bool:
    """Write `plan.json` unless one is there; True where it is ours now. Raises InputError for a layer's name that a
    batch has for something else."""
    check_layer_names([layer.name for layer in plan.layers])
    return store.put_if_absent(store.join(set_url, PLAN), plan.to_bytes())


def write_manifest(set_url: str, manifest: Manifest) -> None:
    """Write `manifest.json`, atomically: from now on the set is whole."""
    store.put(store.join(set_url, MANIFEST), manifest.to_bytes())


def remove_manifest(set_url: str) -> None:
    """Say that the set is not whole: only where a shard is known to be missing or of another size."""
    store.remove(store.join(set_url, MANIFEST))


def is_whole(set_url: str, manifest: Manifest) -> bool:
    """Whether every shard of the manifest is there in its size. No shard is read.

    False is certain: a shard is missing or has another size. Raises StoreError where that cannot be told.
    """
    for layer, entries in manifest.shards.items():
        for entry in entries:
            found = store.info(layer_url(set_url, layer, entry.name))
            if found is None or found.size != entry.bytes:
                return False
    return True


def still_ours(set_url: str, plan: Plan) -> bool:
    """Whether the set at `set_url` is still the one of `plan`: its plan is read again.

    What is read or written while another process replaces the set looks damaged, and is not: ask this first.
    """
    try:
        return read_plan(set_url).digest == plan.digest
    except FormatError:
        return False


def was_replaced(set_url: str, manifest: Manifest) -> bool:
    """Whether the whole set of `manifest` is there no more: removed, replaced, or about to be made again.

    For a reader, as `still_ours` for a writer. A manifest that cannot be read says nothing.
    """
    try:
        if not store.exists(store.join(set_url, MANIFEST)):
            return True
        return read_manifest(set_url).plan.digest != manifest.plan.digest
    except (FormatError, StoreError):
        return False


def remove_set(set_url: str, layers: Sequence[str]) -> None:
    """Remove the set: its manifest first, its plan last. Nothing else in that folder is touched.

    layers: where to look for shards if the plan cannot be read.
    """
    names = set(layers)
    with suppress(FormatError):
        names |= {layer.name for layer in read_plan(set_url).layers}
    remove_manifest(set_url)
    for name in sorted(names):
        folder = layer_url(set_url, name)
        for shard in store.list_names(folder):
            if _SHARD.fullmatch(shard):
                store.remove(store.join(folder, shard))
        if store.is_local(folder):
            with suppress(OSError):  # not empty, or not there
                os.rmdir(store.local_path(folder))
    store.remove(store.join(set_url, PLAN))
    # After the plan: a plan never stands without the arrays that it names.
    for name in store.list_names(set_url):
        if _CALIBRATION.fullmatch(name):
            store.remove(store.join(set_url, name))


def write_calibration(set_url: str, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Store the calibration's arrays under a name made from their digest; {"file", "sha256"} for the plan."""
    from safetensors.numpy import save

    data = save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})
    if len(data) > limits.CALIBRATION_BYTES:
        raise InputError(f"calibration takes {len(data)} bytes, the format allows {limits.CALIBRATION_BYTES}")
    sha256 = hashlib.sha256(data).hexdigest()
    file = f"calibration-{sha256[:16]}.safetensors"
    store.put(store.join(set_url, file), data)
    return {"file": file, "sha256": sha256}


def read_calibration(set_url: str, plan: Plan) -> dict[str, np.ndarray]:
    """The calibration's arrays, "<layer>/<what>"; {} where the plan has none. Raises CorruptError, FormatError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if plan.calibration is None:
        return {}
    url, expected = store.join(set_url, plan.calibration["file"]), plan.calibration["sha256"]

    def read() -> bytes:
        data = store.read_small(url, limits.CALIBRATION_BYTES)
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise CorruptError(f"{url}: SHA-256 is {found}, the plan says {expected}")
        return data

    data = _sound(read)
    try:
        return dict(load(data))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{url}: not a safetensors file: {error}") from None


def _agreed(url: str, limit: int) -> bytes:
    """A file whose numbers no checksum covers: of a store, what two readings in a row agree on, since a digit that
    changed on its way would be believed. Raises CorruptError where none do."""
    data = store.read_small(url, limit)
    if store.is_local(url):
        return data
    for _ in range(_READINGS):
        before, data = data, store.read_small(url, limit)
        if before == data:
            return data
    raise CorruptError(f"{url}: read {1 + _READINGS} times, other bytes came each time; the way to the store is broken")


def _sound(read: Callable[[], T]) -> T:
    """What `read` makes of a file; where that is damaged it is read once more, since bytes may change on their way."""
    try:
        return read()
    except FormatError:
        return read()
