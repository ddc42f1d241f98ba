"""Putting a view's stored channels into a moved reference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from fmshards.codec import FeatureSpec
from fmshards.errors import InputError


def replace(
    x: torch.Tensor, view: torch.Tensor, sensitive: Sequence[int] | torch.Tensor, spec: FeatureSpec
) -> torch.Tensor:
    """x [B, *shape] with the channels `sensitive` taken from view [B, *shape of spec.select(len(sensitive))].

    view's channel k becomes channel sensitive[k], in class tokens too. A new tensor of x's dtype; neither argument
    changes, and where every channel is replaced in order the result is `view` itself. Raises InputError where the
    shapes do not fit.
    """
    check_view(x, view, len(sensitive), spec)
    axis = spec.channel_axis + 1
    view = view.to(dtype=x.dtype)
    if isinstance(sensitive, torch.Tensor):
        return x.index_copy(axis, sensitive.to(x.device), view)
    if list(sensitive) == list(range(spec.channels)):
        return view
    return x.index_copy(axis, _positions(tuple(sensitive), x.device), view)


def check_view(x: torch.Tensor, view: torch.Tensor, channels: int, spec: FeatureSpec) -> None:
    """Raises InputError where view is not [B, *shape] of so many channels, B being that of x."""
    wanted = list(x.shape)
    wanted[spec.channel_axis + 1] = channels
    if list(view.shape) != wanted:
        raise InputError(f"a view of {channels} channels must be {wanted}, found {list(view.shape)}")


@lru_cache(maxsize=64)
def _positions(channels: tuple[int, ...], device: torch.device) -> torch.Tensor:
    # Kept, as bringing them to a device for every batch would make the host wait.
    return torch.tensor(channels, dtype=torch.int64, device=device)
