"""Chunks as columns, and a gathered batch of columns as the dict that training sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fmshards.augment import fresh_theta, identity_theta
from fmshards.errors import FormatError
from fmshards.reader import Catalog, Fetched
from fmshards.shards import BASE, MIRROR, column, decode_column, served_names
from fmshards.stream.window import Columns, objects

KEYS = "__key__"

Thetas = Callable[[NDArray[np.int64], NDArray[np.bool_]], NDArray[np.float32]]
"""Numbers in the set int64 [n], and whether the mirror is shown bool [n] -> thetas float32 [n, 2, 3]."""


def fields_of(fetched: Fetched, layers: Iterable[str]) -> dict[str, list[Any]]:
    """A chunk's fields, decoded, under the names that a batch of these layers gives them. Raises FormatError."""
    try:
        served = served_names(fetched.fields, layers)
    except FormatError as error:
        raise FormatError(f"{fetched.where}: {error}") from None
    return {
        served[name]: decode_column(name, values, fetched.keys, fetched.where)
        for name, values in fetched.fields.items()
    }


def rows_of(fetched: Fetched) -> dict[str, NDArray[np.uint8]]:
    """A chunk's rows as a batch names them: `<layer>.rows` of the reference, `<layer>.mirror_rows` of the channels that
    are stored beside it of a mirror, `<layer>.view_rows` of the view."""
    out = {}
    for layer, streams in fetched.rows.items():
        for stream, rows in streams.items():
            beside = "mirror_rows" if stream == MIRROR and BASE in streams else "rows"
            out[f"{layer}.{beside if stream in (BASE, MIRROR) else 'view_rows'}"] = rows
    return out


def chunk_columns(
    fetched: Fetched, layers: Iterable[str], mirror_rows: Mapping[str, int], thetas: Thetas | None
) -> Columns:
    """A chunk's rows and everything that goes with them, [n, ...] each.

    mirror_rows: what `Catalog.mirror_rows` says of all that is shown: chunks of one run have the same columns, so one
    that shows the base has zeros in place of the mirror's stored channels. thetas: draws them afresh, where no view
    brings its own; None: nothing is moved. They are drawn here, for a chunk at once, since a draw costs as much for a
    sample as for a hundred.
    """
    n, shown = fetched.n, fetched.shown
    columns: Columns = {
        **{f"{layer}.mirror_rows": np.zeros((n, size), np.uint8) for layer, size in mirror_rows.items()},
        **rows_of(fetched),
        "sample": fetched.first + np.arange(n),
        "view": np.full(n, shown.view, np.int64),
        "mirrored": np.full(n, shown.mirrored),
        "valid": np.full(n, fetched.valid),
        KEYS: objects(fetched.keys, n),
    }
    if fetched.theta is not None:
        columns["theta"] = fetched.theta
    elif thetas is not None:
        columns["theta"] = thetas(columns["sample"], columns["mirrored"])
    for name, values in fields_of(fetched, layers).items():
        served = column(name, values)
        columns[f"field:{name}"] = served if isinstance(served, np.ndarray) else objects(served, n)
    return columns


def fresh_thetas(catalog: Catalog, seed: int, epoch: int) -> Thetas:
    """How thetas of the catalog's recipe are drawn in an epoch."""

    def draw(samples: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> NDArray[np.float32]:
        size, references = catalog.manifest.plan.base_size, catalog.references
        return fresh_theta(catalog.recipe, seed, epoch, samples, mirrored, size, references=references)

    return draw


def batch_of(columns: Columns, valid: NDArray[np.bool_] | None) -> dict[str, Any]:
    """A batch before decoding: rows as uint8 tensors, and thetas that move nothing where there are none."""
    count = len(columns[KEYS])
    theta = columns["theta"] if "theta" in columns else identity_theta(count)
    batch: dict[str, Any] = {
        name: torch.from_numpy(values) for name, values in columns.items() if values.dtype == np.uint8
    }
    for name, values in columns.items():
        if name.startswith("field:"):
            own = name[len("field:") :]
            batch[own] = values.tolist() if values.dtype == object else torch.from_numpy(values)
    batch[KEYS] = columns[KEYS].tolist()
    batch["theta"] = torch.from_numpy(theta)
    batch["view"] = torch.from_numpy(columns["view"])
    batch["mirrored"] = torch.from_numpy(columns["mirrored"])
    counted = columns["valid"] if valid is None else columns["valid"] & valid
    batch["valid"] = torch.from_numpy(counted)
    return batch
