"""Where the values of a layout's blocks go in an output: tables that a kernel reads, made once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from fmshards.codec.zfp.layout import BLOCK, Layout, gather_of

_STORE_BYTES = 8


@dataclass(frozen=True)
class Targets:
    """The destinations of one sample's blocks, on a device.

    blocks: int32 [blocks], the block that the i-th lane takes. Lanes take blocks in the order of their destinations,
        so that what neighbours write together lies together.
    places: int32 [64 / width, blocks], for each group of values of the i-th lane's block its destination, counted in
        groups from the sample's start; -1 where the group is padding.
    width: 1, 2 or 4 values that lie side by side in the output and are written as one.
    along: the step in a block (places are x + 4 y + 16 z) from one value of a group to the next: 1 or 16.
    """

    blocks: torch.Tensor
    places: torch.Tensor
    width: int
    along: int


def group_starts(width: int, along: int) -> list[int]:
    """The place in a block of the first value of each group, in the order of `Targets.places`."""
    return [place for place in range(BLOCK) if place // along % 4 % width == 0]


@lru_cache(maxsize=64)
def targets_of(layout: Layout, strides: tuple[int, ...], itemsize: int, aligned: int, device: torch.device) -> Targets:
    """The targets of a layout in an output of which a sample has these strides, in values of `itemsize` bytes.

    aligned: how many values the output's address and its stride of samples are multiples of. Groups are of 8 bytes at
    most. A sample must span fewer than 2^31 values.
    """
    offsets = _offsets(layout, strides)
    first = np.where(offsets < 0, np.iinfo(np.int64).max, offsets).min(axis=1)
    blocks = np.argsort(first, kind="stable")
    offsets = offsets[blocks]
    widths = [w for w in (4, 2) if w * itemsize <= _STORE_BYTES and aligned % w == 0]
    ways = [(width, along) for width in widths for along in (1, 16)]
    width, along = next((way for way in ways if _in_groups(offsets, *way)), (1, 1))
    places = np.ascontiguousarray(offsets[:, group_starts(width, along)].T) // width
    return Targets(_on(blocks, device), _on(places, device), width, along)


def _offsets(layout: Layout, strides: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """int64 [blocks, 64]: the destination of each place, -1 for padding."""
    value_at = np.zeros((), np.int64)
    for side, stride in zip(layout.spec.shape, strides, strict=True):
        value_at = np.add.outer(value_at, np.arange(side) * stride)
    offsets = np.full(layout.blocks * BLOCK, -1, np.int64)
    # A value that fills padding too is written once, from its own place.
    offsets[gather_of(layout).inverse] = value_at.reshape(-1)
    return offsets.reshape(-1, BLOCK)


def _in_groups(offsets: npt.NDArray[np.int64], width: int, along: int) -> bool:
    """Whether places come in groups that lie side by side, aligned, or are padding altogether."""
    starts = np.array(group_starts(width, along))
    groups = offsets[:, starts[:, None] + along * np.arange(width)].reshape(-1, width)
    first = groups[:, :1]
    good = ((groups == first + np.arange(width)) & (first % width == 0)) | ((first < 0) & (groups < 0))
    return bool(good.all())


def _on(array: npt.NDArray[np.int64], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int32)).to(device)
