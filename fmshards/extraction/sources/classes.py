"""Class names that are given: from a list, a text file or another set, so that two sets number their classes alike."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fmshards import store
from fmshards.errors import FmshardsError, InputError
from fmshards.shards import decode_field, read_plan
from fmshards.shards.fields import LABEL

_LARGEST = 64 << 20  # bytes of a file of class names


def read_classes(classes: Any) -> tuple[str, ...] | None:
    """The class names that `classes` means, in the order of their numbers; None for None.

    classes: names; or a path or URL of a text file with one name a line (UTF-8), or of a shard set, whose plan's
    classes are meant. Raises InputError; StoreError or FormatError where the file or the set cannot be read.
    """
    if classes is None:
        return None
    if isinstance(classes, (str, os.PathLike)):
        where = os.fspath(classes)
        names = _named(where)
    elif isinstance(classes, Sequence) and not isinstance(classes, (bytes, bytearray)):
        where, names = "classes", list(classes)
    else:  # a set or a dict among them: names need an order
        raise InputError(
            f"classes is a {type(classes).__name__}; expected a list of names in the order of their numbers, or the "
            "path of a file of names or of a shard set"
        )
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}: class {i} is {name!r}; expected a name")
    if not names:
        raise InputError(f"{where}: holds no class; expected one name or more")
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise InputError(f"{where}: the class {twice!r} is named twice")
    return tuple(names)


def _named(where: str) -> list[str]:
    if not where:
        raise InputError("classes is an empty text; expected the path of a file of names or of a shard set")
    path = store.local_path(where) if store.is_local(where) else None
    if path is None or os.path.isdir(path):  # a store knows no folders: what is in it is asked for
        if store.exists(store.join(where, "plan.json")):
            found = read_plan(where).classes
            if found is None:
                raise InputError(f"{where}: the set knows no class names; give them as a list or a text file")
            return list(found)
        if path is not None:
            raise InputError(f"{where}: holds no shard set (no plan.json); expected one, or a file of names")
    if not store.exists(where):
        raise InputError(f"classes: {where} does not exist; expected a file of class names, or a shard set")
    data = store.read_small(where, _LARGEST)
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{where}: is no text in UTF-8; expected one class name a line") from None
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def check_known(found: Sequence[str], classes: Sequence[str], where: str) -> None:
    """Raise InputError for class folders in `where` that `classes` does not name."""
    known = set(classes)
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(name, classes, 1) or classes[:1]
            raise InputError(
                f"{where}: the class folder {name!r} is not among the {len(classes)} classes that are given (such as "
                f"{near[0]!r}); rename it, move it away, or add it to classes"
            )


def check_label(fields: dict[str, Any], classes: Sequence[str]) -> None:
    """Raise InputError where a sample's `cls` is no number of a class. The caller adds shard and key."""
    if LABEL not in fields:
        raise InputError(
            f"classes are given, but the sample has no field {LABEL!r}; it has {', '.join(sorted(fields))}"
        )
    try:
        label = decode_field(LABEL, fields[LABEL])
    except FmshardsError as error:
        raise InputError(str(error)) from None
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(classes):
        raise InputError(
            f"{LABEL} is {label!r}, and {len(classes)} classes are given; expected a whole number from 0 to "
            f"{len(classes) - 1}"
        )


def class_difference(ours: Sequence[str] | None, theirs: Sequence[str] | None) -> str | None:
    """What a person should know before a set with the classes `ours` is used beside one with `theirs`; None: nothing.

    A list that goes on where the other ends numbers alike; sets without names cannot be told apart.
    """
    if ours is None or theirs is None:
        return None
    for i, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine != other:
            return (
                f"classes are numbered otherwise: class {i} is {mine!r} here, {other!r} there ({len(ours)} and "
                f"{len(theirs)} classes); give both the same classes="
            )
    return None
