"""Whether a set is what its readers accept: every file opened as they open it, every byte read, and what mends it."""

from __future__ import annotations

from collections.abc import Iterator

from fmshards import store
from fmshards.errors import FmshardsError, FormatError, MismatchError, StoreError
from fmshards.reader.calibrated import read_calibrated
from fmshards.reader.catalog import Catalog
from fmshards.shards import (
    PLAN,
    LayerPlan,
    Manifest,
    Problem,
    ShardEntry,
    check_index,
    examine_shard,
    layer_url,
    layers_differ,
    read_plan,
    served_names,
    shards_differ,
)

_AGAIN = "delete it and run the same extract"
_ANEW = "no part of the set mends it: copy the file from a copy of the set, or extract it with overwrite (--overwrite)"


def set_problems(url: str, manifest: Manifest) -> Iterator[str]:
    """Everything that is wrong with the set at `url`, one line a fault, with what mends it. Reads every shard."""
    yield from _files(url, manifest)
    name, firsts = manifest.plan.layers[0].name, []
    for i in range(len(manifest.plan.inputs)):
        sound: dict[str, ShardEntry] = {}
        for layer in manifest.plan.layers:
            entry = manifest.shards[layer.name][i]
            place = layer_url(url, layer.name, entry.name)
            try:
                found = _examine(place, entry, manifest, layer)
            except StoreError as error:
                yield _unreadable(place, error)
            except (FormatError, MismatchError) as error:
                yield f"{_at(place, error)}; {_AGAIN}"
            else:
                sound[layer.name] = found
        firsts += [sound[name]] if name in sound else []
        try:
            differ = layers_differ(url, manifest.plan, sound) if len(sound) > 1 else None
        except FmshardsError as error:
            differ = f"{error}; {_AGAIN}"
        if differ is not None:
            yield differ
    # Labels of another kind are served as they come.
    differ = shards_differ(url, name, firsts, labels=False)
    if differ is not None:
        yield differ


def _files(url: str, manifest: Manifest) -> Iterator[str]:
    """The plan, what it says of training, and the calibration's arrays."""
    plan, place = manifest.plan, store.join(url, PLAN)
    try:
        if not store.exists(place):
            yield f"{place}: is missing; run the same extract, which takes it from the manifest"
        elif read_plan(url).digest != plan.digest:
            yield f"{place}: is not the plan that the manifest holds; {_AGAIN}, which takes it from the manifest"
    except FormatError as error:
        yield f"{_at(place, error)}; {_AGAIN}, which takes it from the manifest"
    except StoreError as error:
        yield _unreadable(place, error)
    catalog = Catalog(url, manifest, plan.layers)
    for look in (lambda: catalog.recipe, lambda: catalog.mirror, lambda: catalog.combinations, catalog.check):
        try:
            look()
        except StoreError:
            pass  # a shard that is missing or cannot be read is told with the shards
        except FmshardsError as error:
            yield f"{_at(url, error)}; {_ANEW}"
            break
    else:
        try:
            read_calibrated(url, plan, plan.layers)
        except FmshardsError as error:
            yield f"{_at(url, error)}; {_ANEW}"


def _examine(place: str, entry: ShardEntry, manifest: Manifest, layer: LayerPlan) -> ShardEntry:
    """The entry of a sound shard as it was found. Raises StoreError, FormatError or MismatchError for another."""
    plan = manifest.plan
    found = examine_shard(place, entry, plan.layer_members(layer.name))
    if isinstance(found, Problem):
        raise FormatError(f"{place}: {found}")
    check_index(found.index, plan, layer.name, place)
    if found.first is not None:
        served_names(found.first.fields, [each.name for each in plan.layers])
        views = 0 if found.first.theta is None else found.first.theta.shape[1]
        if views < plan.views:
            raise FormatError(f"{place}: it has thetas of {views} views, the plan says {plan.views}")
    return found.entry


def _unreadable(place: str, error: StoreError) -> str:
    try:
        missing = not store.exists(place)
    except StoreError:
        missing = False
    if missing:
        return f"{place}: is missing; run the same extract"
    return f"{_at(place, error)}; see that it can be read, and verify again"


def _at(place: str, error: FmshardsError) -> str:
    """The message, beginning with the place where it does not name it."""
    return str(error) if place in str(error) else f"{place}: {error}"
