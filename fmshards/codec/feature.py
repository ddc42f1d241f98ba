"""What a feature is: the kind and shape of one sample's tensor at a cut."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from fmshards.errors import CodecError, FormatError

KINDS = ("map", "map_last", "tokens", "vector")
_NDIM = {"map": 3, "map_last": 3, "tokens": 2, "vector": 1}
_MOST_VALUES = 2**31


@dataclass(frozen=True)
class FeatureSpec:
    """One sample's feature.

    kind: "map" (C, H, W), "map_last" (H, W, C), "tokens" (T, D) or "vector" (D,).
    shape: of one sample, without the batch axis.
    grid: tokens only: (h, w), the places of the tokens after the class tokens, row by row. None: tokens without
        places (a sequence); they cannot be moved, and are stored as a grid of one row.
    class_tokens: tokens only: how many come first and have no place; T == class_tokens + h * w.

    Raises CodecError where these do not fit each other.
    """

    kind: str
    shape: tuple[int, ...]
    grid: tuple[int, int] | None = None
    class_tokens: int = 0

    def __post_init__(self) -> None:
        _check(self)

    @property
    def values(self) -> int:
        """Values of one sample."""
        return math.prod(self.shape)

    @property
    def channel_axis(self) -> int:
        """The channels' axis in `shape` (add 1 in a batch)."""
        return 0 if self.kind in ("map", "vector") else len(self.shape) - 1

    @property
    def channels(self) -> int:
        return self.shape[self.channel_axis]

    @property
    def spatial(self) -> tuple[int, int] | None:
        """(h, w) of the places that a feature can be moved over; None where there are none."""
        if self.kind == "map":
            return self.shape[1], self.shape[2]
        if self.kind == "map_last":
            return self.shape[0], self.shape[1]
        return self.grid

    def map_multiplications(self, kernel: int, outputs: int | None = None) -> int:
        """Multiplications of a linear map from all channels to `outputs` of them (None: all), for one sample.

        kernel: the map's odd side, K: C * outputs * K * K for each place, those at the border counted whole. Class
        tokens have a C x C map each; a vector and tokens without a grid are mapped value by value, whatever the kernel.
        It is what a mapped mirror costs; FLOPs, where a multiply-add counts as 2, are twice as many.
        """
        pairs = self.channels * (self.channels if outputs is None else outputs)
        if self.spatial is None:
            return self.values // self.channels * pairs
        return pairs * (kernel * kernel * self.spatial[0] * self.spatial[1] + self.class_tokens)

    def channel_of(self, value: int) -> int:
        """The channel of a sample's value, counted in the sample's own order."""
        below = math.prod(self.shape[self.channel_axis + 1 :])
        return value // below % self.channels

    def select(self, n_channels: int) -> FeatureSpec:
        """The same feature with `n_channels` channels."""
        shape = list(self.shape)
        shape[self.channel_axis] = n_channels
        return replace(self, shape=tuple(shape))

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "shape": list(self.shape),
            "grid": None if self.grid is None else list(self.grid),
            "class_tokens": self.class_tokens,
        }

    @staticmethod
    def from_json(data: object) -> FeatureSpec:
        """The spec that `to_json` gave. Raises FormatError on anything else."""
        if not isinstance(data, dict) or set(data) != {"kind", "shape", "grid", "class_tokens"}:
            raise FormatError(f"feature: expected kind, shape, grid and class_tokens, found {str(data)[:200]}")
        shape, grid = data["shape"], data["grid"]
        if not isinstance(shape, list) or not (grid is None or isinstance(grid, list)):
            raise FormatError(f"feature: expected lists of integers, found {str(data)[:200]}")
        try:
            return FeatureSpec(data["kind"], tuple(shape), None if grid is None else tuple(grid), data["class_tokens"])
        except CodecError as error:
            raise FormatError(str(error)) from None


def is_int(value: object) -> bool:
    """An integer and not a bool: JSON's true is not 1."""
    return isinstance(value, int) and not isinstance(value, bool)


def _check(spec: FeatureSpec) -> None:
    where = f"feature {str(spec.kind)[:20]} {str(spec.shape)[:100]}"
    if not isinstance(spec.kind, str) or spec.kind not in KINDS:
        raise CodecError(f"{where}: expected a kind of {', '.join(KINDS)}")
    if not isinstance(spec.shape, tuple) or len(spec.shape) != _NDIM[spec.kind]:
        raise CodecError(f"{where}: expected {_NDIM[spec.kind]} sides for {spec.kind}")
    if not all(is_int(side) and 0 < side < _MOST_VALUES for side in spec.shape):
        raise CodecError(f"{where}: expected positive integers for sides")
    if spec.values >= _MOST_VALUES:
        raise CodecError(f"{where}: expected fewer than 2**31 values a sample, found {spec.values}")
    if not is_int(spec.class_tokens) or spec.class_tokens < 0:
        raise CodecError(f"{where}: expected class_tokens of 0 or more, found {str(spec.class_tokens)[:20]}")
    if spec.kind != "tokens":
        if spec.grid is not None or spec.class_tokens:
            raise CodecError(f"{where}: only tokens have a grid or class tokens")
        return
    places = spec.shape[0] - spec.class_tokens
    if spec.grid is None:
        fits = places >= 0
    else:
        sides = isinstance(spec.grid, tuple) and len(spec.grid) == 2 and all(is_int(s) and s > 0 for s in spec.grid)
        fits = sides and spec.grid[0] * spec.grid[1] == places
    if not fits:
        raise CodecError(
            f"{where}: {spec.class_tokens} class tokens and a grid of {str(spec.grid)[:50]} do not make "
            f"{spec.shape[0]} tokens"
        )
