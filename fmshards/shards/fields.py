"""The other fields of a sample, and the rule by which a reader serves them; a writer refuses what it refuses.

A field comes out of a batch under its own name, or as `field.<name>` where the batch has that name itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmshards.errors import FormatError, InputError
from fmshards.shards.jsonio import Fields, check_values
from fmshards.shards.limits import FIELDS, MSGPACK_VALUES, NAME_LENGTH
from fmshards.shards.values import field_value, too_deep

LABEL = "cls"
_INTEGER = {"cls", "cls2", "index", "id"}
_JSON = {"json"}
_TEXT = {"txt", "text"}
_OWN = ("theta", "view", "mirrored", "valid", "__key__", "__url__")
_OF_A_LAYER = ("", ".rows", ".mirror_rows", ".view_rows", ".view")
_INSTEAD = "repair it, or leave the field out"


@dataclass(frozen=True)
class Kinds:
    """What all samples of a set have in common: the names of their fields, sorted, and the kind of their labels.

    label: as `label_kind` gives it; None where there are no labels.
    """

    names: tuple[str, ...]
    label: tuple[int | None, bool] | None

    def to_json(self) -> dict[str, Any]:
        return {"fields": list(self.names), "label": None if self.label is None else list(self.label)}

    @staticmethod
    def from_json(value: Any, where: str) -> Kinds:
        """Raises FormatError on anything that `to_json` cannot give."""
        fields = Fields(value, where)
        names, label = fields.items("fields", FIELDS), fields.take("label")
        fields.done()
        if not all(isinstance(name, str) for name in names) or names != sorted(set(names)):
            raise fields.bad("fields", "different names, sorted", names)
        if label is not None:
            good = isinstance(label, list) and len(label) == 2 and type(label[1]) is bool
            if not good or not (label[0] is None or type(label[0]) is int):
                raise fields.bad("label", "null, or its width and whether it is whole", label)
            label = (label[0], label[1])
        return Kinds(tuple(names), label)

    @staticmethod
    def of(columns: Mapping[str, Sequence[Any]]) -> Kinds | None:
        """Those of a chunk's columns, of which the first sample stands for all; None where they cannot be read."""
        try:
            label = label_kind(decode_field(LABEL, columns[LABEL][0])) if columns.get(LABEL) else None
        except FormatError:
            return None
        return Kinds(tuple(sorted(columns)), label)


def decode_field(name: str, value: Any) -> Any:
    """A stored field as training wants it: bytes by their extension, everything else as it is.

    cls, cls2, index, id -> int; json -> what it holds; txt, text -> str (UTF-8); other bytes stay bytes. The
    extension is what follows the last dot. Nothing is ever unpickled. Raises FormatError.
    """
    if not isinstance(value, bytes):
        return value
    extension = _extension(name)
    try:
        if extension in _INTEGER:
            if b"_" in value:  # Python's own way of writing them
                raise ValueError("it is no decimal integer")
            return int(value)
        if extension in _JSON:
            check_values(value, MSGPACK_VALUES)
            found = json.loads(value)
            if too_deep((found,)):
                raise ValueError("it is nested too deeply")
            return found
        if extension in _TEXT:
            return value.decode("utf-8")
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        shown = value[:40] + (b"..." if len(value) > 40 else b"")
        raise FormatError(f"field {name!r} cannot be read as {extension}: {reason}; it holds {shown!r}") from None
    return value


def _extension(name: str) -> str:
    return name.rsplit(".", 1)[-1].lower()


def decode_column(name: str, values: Sequence[Any], keys: Sequence[str], where: str) -> list[Any]:
    """A chunk's values of one field, decoded. Raises FormatError that names the key of the first that cannot be."""
    if _extension(name) in _INTEGER and set(map(type, values)) == {bytes} and b"_" not in b"".join(values):
        with suppress(ValueError):  # several times as fast; what is no integer is named below
            return list(map(int, values))
    out: list[Any] = []
    try:
        out.extend(decode_field(name, value) for value in values)
    except FormatError as error:
        raise FormatError(f"{where}: sample {keys[len(out)]!r}: {error}") from None
    return out


def batch_names(layers: Iterable[str]) -> frozenset[str]:
    """Every name that a batch or a sample of these layers has of its own, so that no field can have it."""
    return frozenset(_OWN).union(f"{layer}{end}" for layer in layers for end in _OF_A_LAYER)


def check_layer_names(layers: Sequence[str]) -> None:
    """Raise InputError for a layer that would hide what a batch has of its own, or another layer's rows."""
    for layer in layers:
        if layer in batch_names(other for other in layers if other != layer):
            raise InputError(
                f"layer {layer!r}: a batch has that name for something else; give the module another name in the model"
            )


def served_names(fields: Iterable[str], layers: Iterable[str]) -> dict[str, str]:
    """Field -> its name in a batch of these layers: `field.<name>` where the batch has that name itself.

    Raises FormatError where two fields would have one name.
    """
    taken, out = batch_names(layers), {}
    for name in fields:
        out[name] = f"field.{name}" if name in taken else name
    seen: dict[str, str] = {}
    for name, served in out.items():
        if served in taken or served in seen:
            other = f"the field {seen[served]!r}" if served in seen else "what a batch has of its own"
            raise FormatError(
                f"the field {name!r} would be {served!r} in a batch, as {other} is; leave one of them out"
            )
        seen[served] = name
    return out


def column(name: str, values: Sequence[Any]) -> NDArray[Any] | list[Any]:
    """Decoded values of n samples as a batch has them.

    The labels, `cls`: whole numbers int64 [n], numbers float32 [n], vectors of k numbers each int64 or float32 [n, k].
    Every other field, and labels of any other kind, a list.
    """
    if name.removeprefix("field.") != LABEL or not values:
        return list(values)
    if set(map(type, values)) == {int} and _fits(min(values)) and _fits(max(values)):  # as labels mostly are
        return np.array(values, np.int64)
    kinds = {label_kind(value) for value in values}
    widths = {width for width, _ in kinds}
    if None in widths or len(widths) != 1:
        return list(values)
    return np.array(values, np.int64 if all(whole for _, whole in kinds) else np.float32)


def label_kind(value: Any) -> tuple[int | None, bool]:
    """(width, whole) of a label: width 0 for one number, k for a vector of k, None for what is no tensor."""
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(isinstance(v, float) or (isinstance(v, int) and _fits(v)) for v in numbers):
        return None, False
    return (len(value) if isinstance(value, list) else 0), all(isinstance(v, int) for v in numbers)


def _fits(value: int) -> bool:
    return -(1 << 63) <= value < 1 << 63


def check_readable(fields: Mapping[str, Any], layers: Iterable[str], where: str) -> None:
    """Raise InputError unless a reader of these layers can serve one sample's fields.

    where: names the sample, key and all. Refused are values that no meta holds or no reader decodes, labels that are
    nothing or beyond a tensor's range, and names that collide in a batch.
    """
    check_served(fields, layers, f"{where}: ")
    for name, value in fields.items():
        readable_value(name, value, where)


def check_served(fields: Iterable[str], layers: Iterable[str], prefix: str) -> None:
    """Raise InputError for names that the format cannot hold or that would be one name in a batch."""
    names = list(fields)
    check_field_names(names, prefix)
    try:
        served_names(names, layers)
    except FormatError as error:
        raise InputError(f"{prefix}{error}") from None


def readable_value(name: str, value: Any, where: str) -> Any:
    """`value` in the types of a meta, if a reader can serve it. Raises InputError, beginning with `where`."""
    plain = field_value(value, f"{where}: field {name!r}")
    try:
        decoded = decode_field(name, plain)
    except FormatError as error:
        raise InputError(f"{where}: {error}; {_INSTEAD}") from None
    if name == LABEL:
        _check_label(decoded, f"{where}: field {name!r}")
    return plain


def _check_label(value: Any, what: str) -> None:
    if value is None:
        raise InputError(f"{what}: a label cannot be nothing; give every sample one, or none and leave the field out")
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int) and not _fits(number):
            raise InputError(f"{what}: the label {str(number)[:30]} does not fit 64 bits; give it as text")
        if isinstance(number, float) and math.isfinite(number) and abs(number) > _MOST:
            raise InputError(f"{what}: the label {number} does not fit float32; scale it, or give it as text")


_MOST = float(np.finfo(np.float32).max)


def label_text(kind: tuple[int | None, bool]) -> str:
    """A kind of labels in a message: "one whole number", "a vector of 3 numbers", "no number"."""
    width, whole = kind
    if width is None:
        return "no number"
    what = "whole number" if whole else "number"
    return f"one {what}" if width == 0 else f"a vector of {width} {what}s"


def check_field_names(fields: Sequence[str], prefix: str) -> None:
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
        if too_deep(column):
            raise FormatError(f"{where}: a value of field {name[:40]!r} is nested too deeply")
    return fields
