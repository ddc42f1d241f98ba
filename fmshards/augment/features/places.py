"""The part of a feature that has places, as one kind: every map and token grid seen as [B, C, h, w]."""

from __future__ import annotations

import torch

from fmshards.codec import FeatureSpec


def to_map(x: torch.Tensor, spec: FeatureSpec) -> torch.Tensor:
    """The places of x [B, *shape] as a view [B, C, h, w] (strides as they fall). Not where `spec.spatial` is None."""
    if spec.kind == "map":
        return x
    if spec.kind == "map_last":
        return x.permute(0, 3, 1, 2)
    h, w = spec.spatial or (0, 0)
    return x[:, spec.class_tokens :].view(len(x), h, w, spec.channels).permute(0, 3, 1, 2)


def from_map(places: torch.Tensor, x: torch.Tensor, spec: FeatureSpec) -> torch.Tensor:
    """The inverse of `to_map`; the class tokens are those of x."""
    if spec.kind == "map":
        return places
    last = places.permute(0, 2, 3, 1)
    if spec.kind == "map_last":
        return last
    return torch.cat([x[:, : spec.class_tokens], last.flatten(1, 2)], dim=1)
