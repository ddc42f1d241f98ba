"""What a meta can hold of a sample's fields: Python's values, numpy's and torch's as those of msgpack."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from fmshards.errors import InputError
from fmshards.shards.limits import DEPTH, MSGPACK_LENGTH


def field_value(value: Any, what: str = "field") -> Any:
    """`value` in the types that msgpack has: None, bool, int, float, str, bytes, list, dict with text keys.

    numpy and torch scalars become Python's, arrays and tensors nested lists, tuples lists. Raises InputError,
    beginning with `what`, for anything else: nothing is pickled, so nothing else can travel.
    """
    return _value(value, what, 0)


def too_deep(values: Collection[Any]) -> bool:
    """Whether one of `values` is nested deeper than a field's value may be. It does not recurse."""
    if not any(issubclass(kind, (list, dict)) for kind in set(map(type, values))):  # as most columns are
        return False
    level = [value for value in values if isinstance(value, (list, dict))]
    for _ in range(DEPTH):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [value for items in inner for value in items if isinstance(value, (list, dict))]
        if not level:
            return False
    return True


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
