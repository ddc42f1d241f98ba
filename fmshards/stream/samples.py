"""`open_shards(url)[i]`: one sample at a time, for looking at things and for tests; it keeps one chunk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fmshards.errors import InputError
from fmshards.reader import PLAIN, Catalog, Combination, Fetched, Fetcher, open_catalog
from fmshards.shards import BASE, MIRROR
from fmshards.stream.arguments import field_names, memory_bytes, whole
from fmshards.stream.batch import KEYS, fields_of, rows_of
from fmshards.stream.decode import FeatureDecoder


class Samples(Sequence[dict[str, Any]]):
    """The samples of a set in stored order. `len`, iteration, and `[i]` with i from -len to len - 1."""

    def __init__(
        self,
        url: str | os.PathLike[str],
        layers: Sequence[str] | str | None = None,
        fields: Sequence[str] | str | None = None,
        memory: int | str = "1GB",
    ) -> None:
        wanted, allowed = field_names(fields), memory_bytes(memory)
        self.catalog = open_catalog(url, layers)
        check_chunk(self.catalog, self.catalog.combinations, allowed)
        self._decoder = FeatureDecoder(self.catalog)
        self._fetcher = Fetcher(self.catalog, wanted)
        if wanted:
            self._fetcher.check_fields()
        self._held: tuple[int, Combination, Fetched] | None = None

    def __len__(self) -> int:
        return self.catalog.manifest.samples

    def __getitem__(self, i: Any) -> Any:
        """Sample i: each layer float32 [*shape], the base feature; `__key__`, `__url__` and the other fields."""
        if isinstance(i, slice):
            return [self.sample(j) for j in range(*i.indices(len(self)))]
        return self.sample(i)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.sample(i) for i in range(len(self)))

    def sample(self, i: int, reference: str = "base", view: int = 0) -> dict[str, Any]:
        """Sample i with the feature of a reference, "base" or "mirror" (stored, in part too, or mapped), unmoved.

        With view v, from 1 on, `<layer>.view` float32 is that view of the layer's sensitive channels and `theta`
        float32 [2, 3] the theta it was drawn with. Raises IndexError for i out of range, InputError for a reference
        or a view that the set does not have.
        """
        plan = self.catalog.manifest.plan
        if reference not in plan.references:
            raise InputError(f"{self.catalog.url}: no reference {reference!r}; it has {', '.join(plan.references)}")
        if not 0 <= whole("view", view) <= plan.views:
            raise InputError(f"{self.catalog.url}: no view {view}; it has {plan.views} views, and 0 stands for none")
        fetched, row = self._find(i, Combination(reference, 0))
        theta = torch.eye(2, 3) if reference == BASE else torch.tensor([[-1.0, 0, 0], [0, 1, 0]])
        batch = {
            **{name: torch.from_numpy(rows[row : row + 1].copy()) for name, rows in rows_of(fetched).items()},
            "theta": theta[None],
            "mirrored": torch.tensor([reference == MIRROR]),
        }
        layers = self.catalog.layers
        out: dict[str, Any] = {KEYS: fetched.keys[row], "__url__": fetched.where.rsplit(": chunk", 1)[0]}
        for name, values in fields_of(fetched, [layer.name for layer in layers]).items():
            out[name] = values[row]
        out |= {layer.name: self._decoder.decode_layer(layer.name, batch)[0] for layer in layers}
        if view:
            out |= self._view(i, view)
        return out

    def keys(self) -> list[str]:
        """Every sample's key, in stored order; reads the whole of one layer's base rows."""
        return [key for chunk in range(self.catalog.chunks) for key in self._chunk(chunk, PLAIN).keys]

    def _view(self, i: int, view: int) -> dict[str, Any]:
        shown = next(c for c in self.catalog.combinations if c.view == view)
        fetched, row = self._find(i, shown)
        out: dict[str, Any] = {}
        for layer in self.catalog.layers:
            rows = fetched.rows[layer.name].get(f"view{view}")
            if rows is not None:
                out[f"{layer.name}.view"] = self._decoder.decode_view(layer.name, rows[row : row + 1])[0]
        if fetched.theta is not None:
            out["theta"] = torch.from_numpy(fetched.theta[row].copy())
        return out

    def _find(self, i: int, shown: Combination) -> tuple[Fetched, int]:
        i = whole("a sample's number", i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        chunk, row = self.catalog.find(i % len(self))
        return self._chunk(chunk, shown), row

    def _chunk(self, chunk: int, shown: Combination) -> Fetched:
        if self._held is None or self._held[:2] != (chunk, shown):
            self._held = chunk, shown, self._fetcher.fetch(chunk, shown)
        return self._held[2]


def open_shards(
    url: str | os.PathLike[str],
    layers: Sequence[str] | str | None = None,
    *,
    fields: Sequence[str] | str | None = None,
    memory: int | str = "1GB",
) -> Samples:
    """The samples of the set at `url` by their numbers, `layers` of them (None: all).

    fields: names of the stored fields to decode and hand on, None for all, [] for none. memory: bytes (or "2GB") that
    a chunk's rows may take.

    Raises FormatError where there is no whole set, InputError for an unknown layer or field or too little memory.
    """
    return Samples(url, layers, fields, memory)


def check_chunk(catalog: Catalog, shown: Sequence[Combination], memory: int) -> None:
    """Raise InputError unless `memory` bytes hold a chunk's rows: a filter may make many out of few stored bytes."""
    row_bytes = max(catalog.row_bytes(combination) for combination in shown)
    if catalog.largest * row_bytes > memory:
        raise InputError(
            f"memory={memory} does not hold a chunk of {catalog.url}: {catalog.largest * row_bytes} bytes, "
            f"{catalog.largest} samples of {row_bytes} bytes; give more memory or fewer layers"
        )
