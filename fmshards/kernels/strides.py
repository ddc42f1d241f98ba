"""A batch of features as [B, channels, places] in memory: two strides, whatever the kind."""

from __future__ import annotations

import torch


def strides_of(x: torch.Tensor, kind: str) -> tuple[int, int] | None:
    """The strides (in values) of a channel and of a place in x [B, *shape]; None where places have no one stride.

    Places are a map's cells row by row, or all tokens; a vector has one place. Contiguous and channels-last tensors
    have such strides.
    """
    if kind == "vector":
        return x.stride(1), 1
    if kind == "tokens":
        return x.stride(2), x.stride(1)
    first = 2 if kind == "map" else 1
    (h, w), (down, across) = x.shape[first : first + 2], x.stride()[first : first + 2]
    channel = x.stride(1 if kind == "map" else 3)
    if h == 1 or down == w * across:
        return channel, across
    return (channel, down) if w == 1 else None
