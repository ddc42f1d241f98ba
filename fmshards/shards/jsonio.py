"""JSON as the format uses it: canonical when written, strict when read.

`Fields` takes an object apart key by key; what is missing, of another type, out of range or unknown is one
FormatError that says where it is.
"""

from __future__ import annotations

import json
import math
import reprlib
from typing import Any

import numpy as np

from fmshards.errors import CorruptError, FormatError, InputError
from fmshards.shards.limits import DEPTH, JSON_VALUES, VERSION
from fmshards.shards.values import too_deep

_MISSING = object()


def dumps(value: Any) -> bytes:
    """Canonical JSON: keys sorted, no spaces, UTF-8, no NaN, one newline at the end. Raises InputError."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8") + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be written as JSON: {error}") from None


def plain(value: Any, what: str) -> Any:
    """`value` as it will be read back (tuples become lists). Raises InputError where JSON cannot hold it."""
    try:
        out = json.loads(dumps(value))
    except InputError as error:
        raise InputError(f"{what} {error}") from None
    if too_deep((out,)):
        raise InputError(f"{what} is nested more than {DEPTH} deep")
    return out


def loads(data: bytes, where: str) -> Any:
    """Parse strict JSON: no NaN or infinity, no repeated keys. Raises FormatError, and where it is no JSON the
    CorruptError that it is."""
    try:
        check_values(data, JSON_VALUES)
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)
        if b"\\u" in data:
            dumps(value)  # an escape may name half a character, which nothing could write again
    except RecursionError:
        raise FormatError(f"{where}: nested too deeply") from None
    except (ValueError, InputError) as error:
        raise CorruptError(f"{where}: not valid JSON: {error}") from None
    return value


def check_values(data: bytes, limit: int) -> None:
    """Raise ValueError for JSON of more than `limit` values, before they take memory.

    Counted are commas and, twice, `[` and `{`, outside of text: for each list or object one, and one an item.
    """
    # What stands in text is counted too at first: that is quick, and seldom too much.
    if data.count(b",") + 2 * (data.count(b"[") + data.count(b"{")) > limit and _values(data) > limit:
        raise ValueError(f"it holds more than {limit:,} values")


_BLOCK = 1 << 20


def _values(data: bytes) -> int:
    """Commas and, twice, `[` and `{` outside of text."""
    plain = np.frombuffer(data.replace(rb"\\", b"").replace(rb"\"", b""), np.uint8)
    found, within = 0, False
    for start in range(0, len(plain), _BLOCK):
        block = plain[start : start + _BLOCK]
        quotes = np.cumsum(block == ord('"'), dtype=np.int32) + within
        outside = block[quotes & 1 == 0]
        opened = np.count_nonzero((outside == ord("[")) | (outside == ord("{")))
        found += int(np.count_nonzero(outside == ord(","))) + 2 * int(opened)
        within = bool(quotes[-1] & 1)
    return found


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is out of a double's range")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("an object names a key twice")
    return out


def check_version(found: Any, where: str) -> None:
    """Raise FormatError unless `found` is the version this package reads."""
    if type(found) is not int or found != VERSION:
        raise FormatError(
            f"{where}: format version {show(found)}; this fmshards reads version {VERSION}: "
            "use the fmshards that wrote it, or extract the set again"
        )


def show(value: Any) -> str:
    """`value` in a message: at most 60 characters, however much it holds and however deep."""
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlist = _SHORT.maxdict = 20


class Fields:
    """The keys of one JSON or msgpack object, taken one by one; `done()` refuses what nobody took."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{where}: expected an object, found {show(value)}")
        self._left: dict[str, Any] = dict(value)
        self.where = where

    def take(self, name: str) -> Any:
        value = self._left.pop(name, _MISSING)
        if value is _MISSING:
            raise FormatError(f"{self.where}: {name!r} is missing")
        return value

    def optional(self, name: str) -> Any:
        """What `name` holds; None where it is left out."""
        return self._left.pop(name, None)

    def bad(self, name: str, expected: str, found: Any) -> FormatError:
        return FormatError(f"{self.where}: {name} must be {expected}, found {show(found)}")

    def integer(self, name: str, low: int, high: int) -> int:
        value = self.take(name)
        if type(value) is not int or not low <= value <= high:
            raise self.bad(name, f"a whole number from {low} to {high}", value)
        return value

    def integer_or_none(self, name: str, low: int, high: int) -> int | None:
        return self.integer(name, low, high) if self._left.get(name, 0) is not None else self.take(name)

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float:
        return self._number(name, self.take(name), low, high)

    def number_or_none(self, name: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        value = self.take(name)
        return None if value is None else self._number(name, value, low, high)

    def _number(self, name: str, value: Any, low: float, high: float) -> float:
        try:
            if type(value) in (int, float) and math.isfinite(value) and low <= value <= high:
                return float(value)
        except OverflowError:
            pass
        span = "" if (low, high) == (-math.inf, math.inf) else f" from {low} to {high}"
        raise self.bad(name, f"a finite number{span}", value)

    def numbers(self, name: str, low: float = -math.inf, high: float = math.inf) -> tuple[float, ...]:
        return tuple(self._number(f"{name}[{i}]", v, low, high) for i, v in enumerate(self.items(name)))

    def text(self, name: str, limit: int = 4096, empty: bool = False) -> str:
        value = self.take(name)
        if not isinstance(value, str) or len(value) > limit or not (value or empty):
            raise self.bad(name, f"text of {0 if empty else 1} to {limit} characters", value)
        return value

    def text_or_none(self, name: str, limit: int = 4096) -> str | None:
        return self.text(name, limit) if self._left.get(name, "") is not None else self.take(name)

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if not isinstance(value, bool):
            raise self.bad(name, "true or false", value)
        return value

    def object(self, name: str) -> dict[str, Any]:
        value = self.take(name)
        if not isinstance(value, dict):
            raise self.bad(name, "an object", value)
        return value

    def object_or_none(self, name: str) -> dict[str, Any] | None:
        return self.object(name) if self._left.get(name, {}) is not None else self.take(name)

    def items(self, name: str, limit: int | None = None) -> list[Any]:
        value = self.take(name)
        if not isinstance(value, list) or (limit is not None and len(value) > limit):
            raise self.bad(name, "a list" + ("" if limit is None else f" of at most {limit}"), value)
        return value

    def done(self) -> None:
        if self._left:
            raise FormatError(
                f"{self.where}: unknown key {show(min(self._left))}; version {VERSION} of the format does not have it"
            )
