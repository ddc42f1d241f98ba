"""Moving float32 features on a CPU along the axes, in one pass: what the kernels of cpu_kernel.py are given.

They stand apart since kernels are compiled anew whenever anything changes that their file imports.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch

from fmshards.augment.features.cpu_kernel import Doubles, Ints, move_cells, move_planes
from fmshards.augment.features.layer_move import LayerMove
from fmshards.kernels import jit

_PART_BYTES = 4 << 20  # of features, that are worth a thread


def fits(x: torch.Tensor) -> bool:
    """Whether features like x can be moved here, by thetas without rotation or shear."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and jit.missing() is None


def move_straight(x: torch.Tensor, phi: Doubles, layer: LayerMove, view: torch.Tensor | None) -> torch.Tensor:
    """Features x float32 [B, *shape] that `fits` moved by phi float64[B, 2, 3], axis-aligned: a new contiguous tensor.

    view [B, *shape of the layer's sensitive channels]: these are not moved but taken from there, class tokens too. Runs
    in as many threads as torch would take here, where there is enough to do.
    """
    spec = layer.spec
    out = torch.empty(x.shape, dtype=torch.float32)
    blank = torch.zeros(spec.shape) if layer.fill is None else layer.fill.to(torch.float32)
    stored, kept = _channels(spec.channels, layer.sensitive if view is not None else ())
    some = torch.empty(len(x), 0) if view is None else view.to(torch.float32)
    axes = np.array(layer.axes, np.float64)
    arrays = [t.contiguous().numpy().reshape(len(x), -1) for t in (x, some, out)]
    plain = blank.contiguous().numpy().reshape(-1)
    kernel, last = (move_planes, kept) if spec.kind == "map" else (move_cells, spec.channels)

    def part(first: int, end: int) -> None:
        features, views, to = (a[first:end] for a in arrays)
        kernel(features, phi[first:end], axes, plain, last, views, stored, to)

    parts = max(1, min(torch.get_num_threads(), x.nbytes // _PART_BYTES, len(x)))
    if parts == 1:
        part(0, len(x))
        return out
    ends = [i * len(x) // parts for i in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(part, ends[:-1], ends[1:]))
    return out


@lru_cache(maxsize=64)
def _channels(count: int, sensitive: tuple[int, ...]) -> tuple[Ints, Ints]:
    """The channels that a view holds, and the others."""
    stored = np.array(sensitive, np.int64)
    return stored, np.setdiff1d(np.arange(count), stored)
