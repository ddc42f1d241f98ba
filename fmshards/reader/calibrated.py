"""What calibration left for a reader: each layer's feature of a blank image, and its map to the mirror."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fmshards.augment import Mirror, MirrorMap, Recipe
from fmshards.errors import FormatError
from fmshards.shards import LayerPlan, Plan, read_calibration


@dataclass(frozen=True)
class Calibrated:
    """fill: float32 [*shape], what comes from outside of a moved feature; None where nothing moves.

    mirror: the map from the base where the mirror is mapped, of a mirror that is stored in part that of the other
    channels; None where there is none.
    """

    fill: torch.Tensor | None
    mirror: MirrorMap | None


def read_calibrated(url: str, plan: Plan, layers: Sequence[LayerPlan], recipe: Recipe) -> dict[str, Calibrated]:
    """The arrays of some layers of the set at `url`, by layer. recipe: what training does.

    Raises CorruptError or FormatError where the file is changed, or an array that a reader needs is missing, has
    another shape than the feature, or is not finite; and where the plan says otherwise of its mirror than its layers.
    """
    arrays = read_calibration(url, plan)
    moves = bool(recipe.terms)
    return {layer.name: _calibrated(url, plan, layer, arrays, moves) for layer in layers}


def _calibrated(url: str, plan: Plan, layer: LayerPlan, arrays: Mapping[str, np.ndarray], moves: bool) -> Calibrated:
    start = f"{layer.name}/"
    own = {name[len(start) :]: array for name, array in arrays.items() if name.startswith(start)}
    where = f"{url}: calibration of layer {layer.name}"
    fill = own.get("fill")
    if fill is None and moves and layer.spec.spatial is not None:
        raise FormatError(f"{where}: there is no fill, which moved features are filled up with")
    if fill is not None and (fill.dtype != np.float32 or fill.shape != layer.spec.shape or not np.isfinite(fill).all()):
        raise FormatError(f"{where}: fill must be finite float32 {list(layer.spec.shape)}, found {_found(fill)}")
    try:
        others = _mapped_channels(plan, layer)
        mirror = MirrorMap.from_arrays(own, layer.spec, layer.nonnegative, others) if others else None
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None
    return Calibrated(None if fill is None else torch.from_numpy(fill.copy()), mirror)


def _mapped_channels(plan: Plan, layer: LayerPlan) -> int:
    """How many of the mirror's channels are mapped from the base. Raises FormatError where the plan contradicts it."""
    if not plan.mirrored:
        return 0
    if not plan.mirror_stored:
        return layer.spec.channels
    mirror = Mirror.from_json(plan.mirror)
    if mirror.part != (layer.mirror_codec is not None):
        state = "has" if layer.mirror_codec is not None else "lacks"
        raise FormatError(f"the plan's mirror is {mirror}, and the layer {state} the channels that are stored of it")
    return layer.spec.channels - len(layer.mirror_channels) if mirror.part and mirror.mapped else 0


def _found(array: np.ndarray) -> str:
    finite = array.dtype.kind == "f" and bool(np.isfinite(array).all())
    return f"{array.dtype} {list(array.shape)}" + ("" if finite else " with values that are not finite")
