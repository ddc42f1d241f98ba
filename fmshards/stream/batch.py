"""Chunks as columns, and a gathered batch of columns as the dict that training sees."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fmshards.augment import fresh_theta, identity_theta
from fmshards.errors import FormatError
from fmshards.reader.catalog import Catalog
from fmshards.reader.fetch import Fetched
from fmshards.shards import BASE, MIRROR, decode_field
from fmshards.stream.window import Columns, objects

KEYS = "__key__"
OWN = frozenset({"theta", "view", "mirrored", "valid"})
"""Names of a batch that are not layers and not fields."""


def fields_of(fetched: Fetched, taken: Collection[str]) -> dict[str, list[Any]]:
    """A chunk's fields, decoded; one whose name is `taken` (a layer's, or the batch's own) becomes `field.<name>`."""
    out = {}
    for name, values in fetched.fields.items():
        try:
            decoded = [decode_field(name, value) for value in values]
        except FormatError as error:
            raise FormatError(f"{fetched.where}: {error}") from None
        out[f"field.{name}" if name in taken else name] = decoded
    return out


def rows_of(fetched: Fetched) -> dict[str, NDArray[np.uint8]]:
    """A chunk's rows as a batch names them: `<layer>.rows` of the reference, `<layer>.view_rows` of the view."""
    return {
        f"{layer}.{'rows' if stream in (BASE, MIRROR) else 'view_rows'}": rows
        for layer, streams in fetched.rows.items()
        for stream, rows in streams.items()
    }


def chunk_columns(fetched: Fetched, taken: Collection[str]) -> Columns:
    """A chunk's rows and everything that goes with them, [n, ...] each."""
    n, shown = fetched.n, fetched.shown
    columns: Columns = {
        **rows_of(fetched),
        "sample": fetched.first + np.arange(n),
        "view": np.full(n, shown.view, np.int64),
        "mirrored": np.full(n, shown.mirrored),
        KEYS: objects(fetched.keys, n),
    }
    if fetched.theta is not None:
        columns["theta"] = fetched.theta
    for name, values in fields_of(fetched, taken).items():
        columns[f"field:{name}"] = _classes(values, fetched) if name == "cls" else objects(values, n)
    return columns


def batch_of(
    columns: Columns,
    valid: NDArray[np.bool_] | None,
    catalog: Catalog,
    seed: int,
    epoch: int,
    augment: bool,
) -> dict[str, Any]:
    """A batch before decoding: rows as uint8 tensors, theta drawn afresh where no view brings its own."""
    count = len(columns[KEYS])
    mirrored = columns["mirrored"]
    if "theta" in columns:
        theta = columns["theta"]
    elif augment:
        plan = catalog.manifest.plan
        theta = fresh_theta(
            catalog.recipe,
            seed,
            epoch,
            columns["sample"],
            mirrored,
            plan.base_size,
            references=plan.references,
        )
    else:
        theta = identity_theta(count)
    batch: dict[str, Any] = {
        name: torch.from_numpy(column) for name, column in columns.items() if column.dtype == np.uint8
    }
    for name, column in columns.items():
        if name.startswith("field:"):
            own = name[len("field:") :]
            batch[own] = torch.from_numpy(column) if column.dtype == np.int64 else column.tolist()
    batch[KEYS] = columns[KEYS].tolist()
    batch["theta"] = torch.from_numpy(theta)
    batch["view"] = torch.from_numpy(columns["view"])
    batch["mirrored"] = torch.from_numpy(mirrored)
    batch["valid"] = torch.ones(count, dtype=torch.bool) if valid is None else torch.from_numpy(valid.copy())
    return batch


def _classes(values: list[Any], fetched: Fetched) -> NDArray[np.int64]:
    try:
        return np.fromiter((operator.index(value) for value in values), np.int64, len(values))
    except (TypeError, OverflowError):
        for key, value in zip(fetched.keys, values, strict=True):
            if not isinstance(value, int) or not -(2**63) <= value < 2**63:
                raise FormatError(
                    f"{fetched.where}: sample {key!r}: the field cls must be a class number, found {value!r}; give "
                    "labels of another kind under another name"[:400]
                ) from None
        raise
