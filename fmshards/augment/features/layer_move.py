"""What moving the features of one layer needs to know, besides the features and their thetas."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace as with_other

import torch

from fmshards.codec import FeatureSpec
from fmshards.errors import InputError
from fmshards.shards import Grid

Axis = tuple[float, float, float, float]
"""Of rows or of columns: how many cells, the base image's pixels, the grid's stride and offset in pixels."""


@dataclass(frozen=True, eq=False)
class LayerMove:
    """How features of a layer move.

    base_size: (height, width) of the base image in pixels. grid: where cells lie in it; None: at their centres.
    fill: float [*shape], the prefix's feature of a blank image, which comes in from outside; None: zeros.
    sensitive: the channels that a view holds, in its order; () where there are no views.

    Raises InputError where fill or sensitive do not fit the feature.
    """

    spec: FeatureSpec
    base_size: tuple[int, int]
    grid: Grid | None = None
    fill: torch.Tensor | None = None
    sensitive: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        count = self.spec.channels
        if self.fill is not None and tuple(self.fill.shape) != tuple(self.spec.shape):
            raise InputError(f"fill: expected {list(self.spec.shape)}, found {list(self.fill.shape)}")
        if self.sensitive and not 0 <= min(self.sensitive) <= max(self.sensitive) < count:
            raise InputError(
                f"sensitive: channels are 0 to {count - 1}, found {min(self.sensitive)} to {max(self.sensitive)}"
            )

    def on(self, device: torch.device) -> LayerMove:
        """The same with the fill on a device."""
        return self if self.fill is None else with_other(self, fill=self.fill.to(device))

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Of the rows, and of the columns; a feature without places has none of either."""
        if self.spec.spatial is None:
            return (0.0, float(self.base_size[0]), 1.0, 0.0), (0.0, float(self.base_size[1]), 1.0, 0.0)
        stride = (
            tuple(size / n for size, n in zip(self.base_size, self.spec.spatial, strict=True))
            if self.grid is None
            else self.grid.stride
        )
        offset = tuple((s - 1) / 2 for s in stride) if self.grid is None else self.grid.offset
        rows, columns = (
            (float(self.spec.spatial[i]), float(self.base_size[i]), float(stride[i]), float(offset[i])) for i in (0, 1)
        )
        return rows, columns
