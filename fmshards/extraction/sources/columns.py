"""Which column of a table is the image, which are fields, and the class names that Hugging Face's metadata gives."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fmshards.errors import InputError
from fmshards.shards.fields import LABEL

KEY = "__key__"
"""A column that is the sample's key."""
LABELS = (LABEL, "label")
"""Columns that are the field `cls`: the first that is there."""


def field_names(columns: Collection[str]) -> dict[str, str]:
    """The field that each column is, under its own name but for a `label` where there is no `cls`."""
    label = next((name for name in LABELS if name in columns), None)
    return {name: LABEL if name == label else name for name in columns}


def image_column(schema: Any, wanted: str | None, url: str) -> str:
    """The column of a Parquet schema that holds encoded images: `wanted`, or the only one that can be.

    An image is a struct with `bytes`, as Hugging Face writes it, or binary; structs go before plain binary. Raises
    InputError, naming `url` and the columns that there are.
    """
    if wanted is not None:
        if wanted not in schema.names:
            raise InputError(f"{url} has no column {wanted!r}; it has {_listed(schema.names)}")
        kind = schema.field(wanted).type
        if not _is_struct_image(kind) and not _is_binary(kind):
            raise InputError(
                f"{url}: the column {wanted!r} is {kind}; expected encoded images, as binary or as a struct with bytes"
            )
        return wanted
    names: list[str] = schema.names
    structs = [name for name in names if _is_struct_image(schema.field(name).type)]
    found = structs or [name for name in names if _is_binary(schema.field(name).type)]
    if not found:
        raise InputError(
            f"{url} has no column of images (binary, or a struct with bytes); it has {_listed(schema.names)}. Where "
            "one holds URLs, write them to a list (list.csv)"
        )
    if len(found) > 1:
        raise InputError(
            f"{url} has several columns that may be the image ({_listed(found)}); name one with image_field="
        )
    return found[0]


def check_field(schema: Any, name: str, url: str) -> None:
    """Raise InputError for a column whose values cannot travel with a feature."""
    kind = schema.field(name).type
    if not _travels(kind):
        raise InputError(
            f"{url}: the column {name!r} is {kind}, which cannot travel with a feature; expected numbers, text, bytes, "
            f"or lists and structs of these: leave it out (drop_fields={name!r}, --drop-field {name})"
        )


def encoded_image(value: Any) -> bytes:
    """The bytes of an image column's value. Raises InputError where they are not there."""
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(data, bytes):
        return data
    path = value.get("path") if isinstance(value, Mapping) else None
    if path:
        raise InputError(
            f"it holds no image but the path {path!r} to one; embed the images, as push_to_hub does, or give their "
            "folder or a list of their paths"
        )
    raise InputError("it has no image: the column is empty there; leave the row out")


def own_key(row: Mapping[str, Any], seen: set[str], where: str) -> str:
    """The key that a row has in its column for that, which is added to those `seen`. Raises InputError."""
    key = row[KEY]
    if not isinstance(key, str) or not key:
        raise InputError(f"{where}: {KEY} is {key!r}; expected text")
    if key in seen:
        raise InputError(f"{where}: the key {key!r} comes twice; keys differ within a shard")
    seen.add(key)
    return key


def metadata_classes(schema: Any) -> tuple[str, ...] | None:
    """The class names of the label's column, as Hugging Face's `datasets` writes them into a schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return None
    return feature_classes(features)


def feature_classes(features: Any) -> tuple[str, ...] | None:
    """The names of the label's ClassLabel among Hugging Face's features, an object or its JSON."""
    if not isinstance(features, Mapping):
        return None
    label = features.get(next((name for name in LABELS if name in features), ""))
    names = label.get("names") if isinstance(label, Mapping) else getattr(label, "names", None)
    named = isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names)
    return tuple(names) if named and names else None


def schema_difference(schema: Any, first: Any, columns: Sequence[str]) -> str | None:
    """How the columns that are read differ from those of the first file; None where they do not."""
    for name in columns:
        if name not in schema.names:
            return f"it has no column {name!r}; it has {_listed(schema.names)}"
        mine, other = schema.field(name).type, first.field(name).type
        if mine != other:
            return f"its column {name!r} is {mine}, that of the first file {other}"
    more = sorted(set(schema.names) - set(first.names))
    return f"it has a column {more[0]!r}, which the first file has not" if more else None


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_struct_image(kind: Any) -> bool:
    from pyarrow import types

    if not types.is_struct(kind):
        return False
    found = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    return "bytes" in found and _is_binary(found["bytes"])


def _travels(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _travels(kind.value_type)
    if types.is_struct(kind):
        return all(_travels(kind.field(i).type) for i in range(kind.num_fields))
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    number = types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)
    return bool(text or number or types.is_null(kind) or types.is_fixed_size_binary(kind)) or _is_binary(kind)


def _listed(names: Collection[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
