"""From compressed rows to features as training sees them, on whatever device the rows are."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fmshards.augment import LayerMove, MirrorParts, may_look, move, replace
from fmshards.codec import FeatureSpec
from fmshards.codec.operators import Decode
from fmshards.errors import InputError
from fmshards.reader import Catalog, open_catalog, read_calibrated
from fmshards.shards import LayerPlan
from fmshards.stream.arguments import dtype_of, memory_format_of
from fmshards.units import bytes_text

_PREPARED = 64_000_000
"""Bytes of a feature up to which a decoder is made ready before there is anything to decode."""


@dataclass(frozen=True)
class _Layer:
    plan: LayerPlan
    codec: Decode
    view_codec: Decode | None
    mirror_codec: Decode | None
    """Of the stored channels of a mirror that is stored in part."""
    move: LayerMove
    mirror: MirrorParts | None
    """Where the mirror is mapped or stored in part; None where it is simply stored or there is none."""


class FeatureDecoder(nn.Module):
    """Decodes and augments batches of rows, as a loader with `decode=False` yields them.

    `FeatureDecoder("OUT")(batch)` replaces each `<layer>.rows` uint8 [B, row_bytes], `<layer>.mirror_rows` and
    `<layer>.view_rows` by `<layer>` `dtype` [B, *shape], on the rows' device: rows -> features -> mirror, from its
    stored channels and its map -> moved by theta -> the view's channels put in. Maps (C, H, W) come in
    `memory_format`. On a CUDA device nothing waits for it, and the module can be compiled whole and captured in a CUDA
    graph. It has no parameters and no buffers, so that a model that holds one has the same state. A
    batch says how it is moved, so one decoder serves whatever recipe the loader was given.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Catalog,
        layers: Sequence[str] | str | None = None,
        dtype: torch.dtype | str = torch.float32,
        memory_format: torch.memory_format | str = torch.contiguous_format,
    ) -> None:
        super().__init__()
        self.dtype, self.memory_format = dtype_of(dtype), memory_format_of(memory_format)
        if not isinstance(source, (str, os.PathLike, Catalog)):
            raise InputError(f"source: expected a set's path or URL, found a {type(source).__name__}")
        catalog = source if isinstance(source, Catalog) else open_catalog(source, layers)
        self._layers = tuple(_layers(catalog))
        self._placed: dict[tuple[str, torch.device], tuple[LayerMove, MirrorParts | None]] = {}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A new dict with features in place of rows. Raises InputError where a layer's rows are missing."""
        if not isinstance(batch, dict):
            raise InputError(
                f"batch: expected a dict, as a loader with decode=False yields, found {type(batch).__name__}"
            )
        names = [layer.plan.name for layer in self._layers]
        rows = {f"{name}.{ending}" for name in names for ending in ("rows", "mirror_rows", "view_rows")}
        out = {key: value for key, value in batch.items() if key not in rows}
        return out | {name: self.decode_layer(name, batch) for name in names}

    @torch.no_grad()
    def decode_layer(self, name: str, batch: dict[str, Any]) -> torch.Tensor:
        """One layer of a batch: `dtype` [B, *shape]."""
        layer = self._layer(name)
        rows, view_rows = batch.get(f"{name}.rows"), batch.get(f"{name}.view_rows")
        view = None
        if view_rows is not None:
            if layer.view_codec is None:
                raise InputError(f"the batch has {name}.view_rows, the set no views of layer {name}")
            view = self._features(layer.view_codec, view_rows)
        if rows is None:
            if view is None or layer.view_codec is None or layer.view_codec.spec.shape != layer.codec.spec.shape:
                raise InputError(
                    f"the batch has no {name}.rows; give the decoder batches of a loader over layer {name} with "
                    "decode=False"
                )
            x = view
        elif "theta" not in batch or "mirrored" not in batch:
            raise InputError("the batch has no theta or no mirrored, which say how its features are moved")
        elif _stays(batch["theta"], batch["mirrored"]):
            x = self._features(layer.codec, rows, self.dtype)
            x = x if view is None else replace(x, view, layer.plan.sensitive, layer.codec.spec)
        else:
            x = self._augmented(layer, self._features(layer.codec, rows), view, batch)
        return x.to(self.dtype).contiguous(memory_format=self._format(layer.codec.spec))

    def prepare(self) -> None:
        """Do once what a first batch on a CPU takes longer for: compile kernels, or load them from disk.

        Processes forked afterwards have them; those started otherwise find them on disk. A layer of features over
        64 MB is left to its first batch.
        """
        for layer in self._layers:
            codec = layer.codec.codec
            if 4 * math.prod(codec.spec.shape) > _PREPARED:
                continue
            theta = torch.eye(2, 3)[None].clone()
            if codec.spec.spatial is not None:
                theta[:, 0, 2] = 1 / 3
            row = torch.zeros(1, codec.row_bytes, dtype=torch.uint8)
            batch = {f"{layer.plan.name}.rows": row, "theta": theta, "mirrored": torch.zeros(1, dtype=torch.bool)}
            self.decode_layer(layer.plan.name, batch)

    @torch.no_grad()
    def decode_view(self, name: str, rows: npt.NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """A layer's view rows uint8 [B, row_bytes] as `dtype` [B, *shape of the sensitive channels]."""
        layer = self._layer(name)
        if layer.view_codec is None:
            raise InputError(f"the set stores no views of layer {name}")
        return self._features(layer.view_codec, rows, self.dtype)

    def _layer(self, name: str) -> _Layer:
        for layer in self._layers:
            if layer.plan.name == name:
                return layer
        raise InputError(f"no layer {name!r} is decoded here; there are {', '.join(x.plan.name for x in self._layers)}")

    def _features(self, codec: Decode, rows: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        spec, device = codec.spec, getattr(rows, "device", "cpu")
        return codec(rows, _empty((len(rows), *spec.shape), dtype, device, self._format(spec)))

    def _format(self, spec: FeatureSpec) -> torch.memory_format:
        return self.memory_format if spec.kind == "map" else torch.contiguous_format

    def _augmented(
        self, layer: _Layer, x: torch.Tensor, view: torch.Tensor | None, batch: dict[str, Any]
    ) -> torch.Tensor:
        """The decoded references, the mirror put together where it is not simply stored, moved; the view's channels put
        in."""
        theta, mirrored = batch["theta"].to(x.device), batch["mirrored"].to(x.device)
        how, mirror = self._on(layer, x.device)
        memory_format = self._format(how.spec)
        if mirror is None:
            return move(x, theta, mirrored, how, view, self.dtype, memory_format)
        stored = self._stored(layer, batch.get(f"{layer.plan.name}.mirror_rows"), mirrored)
        return mirror.move(x, stored, theta, mirrored, view, self.dtype, memory_format)

    def _stored(self, layer: _Layer, rows: Any, mirrored: torch.Tensor) -> torch.Tensor | None:
        """The mirror's stored channels float32 [B, ...]; where values may be looked at, of `mirrored` samples alone."""
        if layer.mirror_codec is None:
            return None
        if rows is None:
            self._must_be_base(layer, mirrored)
            return None
        spec = layer.mirror_codec.spec
        if len(rows) != len(mirrored):
            raise InputError(f"the batch has {len(mirrored)} samples and {len(rows)} {layer.plan.name}.mirror_rows")
        if not may_look(mirrored):
            return self._features(layer.mirror_codec, rows)
        out = _empty((len(rows), *spec.shape), torch.float32, mirrored.device, self._format(spec))
        if bool(mirrored.any()):
            out[mirrored] = self._features(layer.mirror_codec, torch.as_tensor(rows)[mirrored])
        return out

    def _must_be_base(self, layer: _Layer, mirrored: torch.Tensor) -> None:
        what = f"the batch has mirrored samples and no {layer.plan.name}.mirror_rows, channels that their mirror needs"
        if not may_look(mirrored):
            torch._assert_async(~mirrored.any(), what)
        elif bool(mirrored.any()):
            raise InputError(f"{what}; give the decoder batches of a loader with decode=False as they are")

    def _on(self, layer: _Layer, device: torch.device) -> tuple[LayerMove, MirrorParts | None]:
        # Kept beside the module, not as its buffers: they are the set's, not the model's.
        key = (layer.plan.name, device)
        if key not in self._placed:
            self._placed[key] = layer.move.on(device), None if layer.mirror is None else layer.mirror.on(device)
        return self._placed[key]

    def extra_repr(self) -> str:
        """Layers and dtype."""
        return f"layers={[layer.plan.name for layer in self._layers]}, dtype={self.dtype}"


def _empty(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str, memory_format: torch.memory_format
) -> torch.Tensor:
    if torch.compiler.is_compiling():
        return torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format)
    try:
        return torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format)
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        size = bytes_text(math.prod(shape) * dtype.itemsize)
        raise InputError(
            f"{shape[0]} features of {list(shape[1:])} take {size}, more than there is; a smaller batch_size helps"
        ) from None


def _stays(theta: torch.Tensor, mirrored: torch.Tensor) -> bool:
    """Whether it is known that nothing moves, as in evaluation and in training without augmentation."""
    return may_look(theta) and not bool(mirrored.any()) and bool((theta == torch.eye(2, 3)).all())


def _layers(catalog: Catalog) -> list[_Layer]:
    plan = catalog.manifest.plan
    calibrated = read_calibrated(catalog.url, plan, catalog.layers, catalog.recipe)
    out = []
    for layer in catalog.layers:
        view, mirror, own = layer.own_view_codec, layer.own_mirror_codec, calibrated[layer.name]
        how = LayerMove(layer.spec, plan.base_size, layer.grid, own.fill, layer.sensitive)
        made = own.mirror is not None or mirror is not None
        out.append(
            _Layer(
                layer,
                Decode(layer.base_codec),
                None if view is None else Decode(view),
                None if mirror is None else Decode(mirror),
                how,
                MirrorParts.of(how, layer.mirror_channels, own.mirror) if made else None,
            )
        )
    return out
