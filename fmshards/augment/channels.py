"""Putting a view's stored channels into a moved reference."""

from __future__ import annotations

from collections.abc import Sequence

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
    axis = spec.channel_axis + 1
    wanted = list(x.shape)
    wanted[axis] = len(sensitive)
    if list(view.shape) != wanted:
        raise InputError(f"a view of {len(sensitive)} channels must be {wanted}, found {list(view.shape)}")
    view = view.to(dtype=x.dtype)
    if not isinstance(sensitive, torch.Tensor):
        if list(sensitive) == list(range(spec.channels)):
            return view
        sensitive = torch.tensor(list(sensitive), dtype=torch.int64)
    return x.index_copy(axis, sensitive.to(x.device), view)
