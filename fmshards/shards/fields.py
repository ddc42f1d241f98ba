"""The other fields of a sample: what a meta can hold of them, and what WebDataset's extensions mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from fmshards.errors import FormatError, InputError
from fmshards.shards.limits import DEPTH, FIELDS, MSGPACK_LENGTH, NAME_LENGTH

_INTEGER = {"cls", "cls2", "index", "id"}
_JSON = {"json"}
_TEXT = {"txt", "text"}


def decode_field(name: str, value: Any) -> Any:
    """A stored field as training wants it: bytes by their extension, everything else as it is.

    cls, cls2, index, id -> int; json -> what it holds; txt, text -> str (UTF-8); other bytes stay bytes. The
    extension is what follows the last dot. Nothing is ever unpickled. Raises FormatError.
    """
    if not isinstance(value, bytes):
        return value
    extension = name.rsplit(".", 1)[-1].lower()
    try:
        if extension in _INTEGER:
            return int(value)
        if extension in _JSON:
            return json.loads(value)
        if extension in _TEXT:
            return value.decode("utf-8")
    except (ValueError, RecursionError) as error:
        shown = value[:40] + (b"..." if len(value) > 40 else b"")
        raise FormatError(f"field {name!r} cannot be read as {extension}: {error}; it holds {shown!r}") from None
    return value


def field_value(value: Any, what: str = "field") -> Any:
    """`value` in the types that msgpack has: None, bool, int, float, str, bytes, list, dict with text keys.

    numpy and torch scalars become Python's, arrays and tensors nested lists, tuples lists. Raises InputError,
    beginning with `what`, for anything else: nothing is pickled, so nothing else can travel.
    """
    return _value(value, what, 0)


def _value(value: Any, what: str, depth: int) -> Any:
    if value is None or isinstance(value, (bool, float)):
        return float(value) if isinstance(value, float) else value
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 64:
            raise InputError(f"{what}: the integer {str(value)[:30]} does not fit 64 bits; give it as text")
        return int(value)
    if isinstance(value, str):
        return _text(value, what)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, np.generic) or (hasattr(value, "tolist") and hasattr(value, "dtype")):
        # An array, or a tensor without importing torch; .tolist() of a 0-d one is a scalar.
        detached = value.detach() if hasattr(value, "detach") else value
        if isinstance(detached, np.ndarray) and detached.dtype.kind == "V":
            raise InputError(f"{what}: a structured array cannot travel; give its columns as fields")
        plain = detached.tolist()
        if type(plain) is type(value):
            raise InputError(f"{what}: cannot store a value of type {type(value).__name__}")
        return _value(plain, what, depth)
    if depth >= DEPTH:
        raise InputError(f"{what}: nested more than {DEPTH} deep")
    if isinstance(value, (list, tuple)):
        _length(len(value), what)
        return [_value(v, what, depth + 1) for v in value]
    if isinstance(value, Mapping):
        _length(len(value), what)
        out = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InputError(f"{what}: a dict's keys must be text, found {key!r}"[:300])
            out[_text(key, what)] = _value(inner, what, depth + 1)
        return out
    raise InputError(
        f"{what}: cannot store a value of type {type(value).__name__}; give numbers, text, bytes, arrays, or lists and "
        "dicts of these"
    )


def _text(value: str, what: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{what}: the text {value[:40]!r} is not valid Unicode") from None
    return str(value)


def _length(n: int, what: str) -> None:
    if n > MSGPACK_LENGTH:
        raise InputError(f"{what}: {n} items, the format allows {MSGPACK_LENGTH}; give them as bytes")


def check_field_names(fields: Mapping[str, Any], prefix: str) -> None:
    """Raise InputError for names that the format cannot hold."""
    if len(fields) > FIELDS:
        raise InputError(f"{prefix}{len(fields)} fields, the format allows {FIELDS}")
    for name in fields:
        if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH or name.startswith("__"):
            raise InputError(
                f"{prefix}a field's name must be text of 1 to {NAME_LENGTH} characters that does not begin with '__', "
                f"found {name!r}"[:400]
            )


def check_columns(fields: Any, n: int, where: str) -> dict[str, list[Any]]:
    """The fields of a meta that was read: a column of n values each. Raises FormatError."""
    if not isinstance(fields, dict) or len(fields) > FIELDS:
        raise FormatError(f"{where}: fields must be a map of at most {FIELDS} columns")
    for name, column in fields.items():
        if not isinstance(column, list) or len(column) != n:
            raise FormatError(f"{where}: field {name[:40]!r} must be a list of {n} values")
        if not 0 < len(name) <= NAME_LENGTH or name.startswith("__"):
            raise FormatError(f"{where}: {name[:40]!r} is not a field's name")
    return fields
