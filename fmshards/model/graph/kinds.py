"""What a tensor at a cut is: a map (channels first or last), tokens on a grid, or a vector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from fmshards.codec.feature import FeatureSpec
from fmshards.model.graph.analyse import Analysis

_FIRST_MODULES = (_ConvNd, _NormBase, nn.GroupNorm, _AvgPoolNd, _MaxPoolNd, _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd)
_FIRST = (
    F.conv2d, torch.conv2d, F.batch_norm, torch.batch_norm, F.group_norm, F.max_pool2d, torch.max_pool2d,
    F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.interpolate, F.pixel_unshuffle, F.pixel_shuffle,
)  # fmt: skip
_MOST_CLASS_TOKENS = 16
_FAR = 12


@dataclass(frozen=True)
class Look:
    """A spec and what is worth saying about it."""

    spec: FeatureSpec
    notes: tuple[str, ...] = ()


def look(known: Analysis, node: fx.Node, nodes: list[fx.Node]) -> Look | None:
    """The kind of the tensor that `node` gives. None: not a feature (no float, no batch first, too many axes)."""
    value = known.values[node]
    if node not in known.batched or value.dtype is None or not value.dtype.is_floating_point:
        return None
    shape = value.shape[1:]
    if len(shape) == 1:
        return Look(FeatureSpec("vector", shape))
    if len(shape) == 3:
        return Look(FeatureSpec("map_last" if channels_last(known, node) else "map", shape))
    if len(shape) != 2:
        return None
    if _flat_map(known, node, nodes, shape):
        return Look(
            FeatureSpec("tokens", shape), ("its last axis is the places of a map, not channels: take a cut next to it",)
        )
    grid = _grid(known, nodes, shape[0])
    if grid is None:
        return Look(FeatureSpec("tokens", shape), ("no grid was found for its tokens: they cannot be moved",))
    return Look(FeatureSpec("tokens", shape, grid, shape[0] - grid[0] * grid[1]))


def channels_last(known: Analysis, node: fx.Node) -> bool:
    """Whether a [B, ., ., .] tensor has its channels last.

    First by what makes it and what takes it, through operations that keep its shape; then by which two sides are
    alike; channels first where nothing tells.
    """
    shape = known.values[node].shape
    for forward in (True, False):
        ring, seen = [node], {node}
        for _ in range(_FAR):
            told = {t for n in ring for t in _tells(known, n, shape, forward)}
            if len(told) == 1:
                return told.pop()
            if told:
                break
            nearby = [m for n in ring for m in (n.users if forward else n.all_input_nodes)]
            ring = [m for m in nearby if m not in seen and m in known.values and known.values[m].shape == shape]
            seen.update(ring)
    return shape[1] == shape[2] != shape[3]


def _tells(known: Analysis, node: fx.Node, shape: tuple[int, ...], forward: bool) -> list[bool]:
    takers = list(node.users) if forward else [node]
    return [last for taker in takers if (last := _last(known, taker, node, shape, forward)) is not None]


def _last(known: Analysis, node: fx.Node, of: fx.Node, shape: tuple[int, ...], forward: bool) -> bool | None:
    """True: `node` treats it as channels last; False: as channels first; None: it does not tell."""
    if node.op == "call_module":
        module = known.model.get_submodule(str(node.target))
        if isinstance(module, _FIRST_MODULES):
            return False
        if type(module) is nn.Linear or (type(module) is nn.LayerNorm and len(module.normalized_shape) == 1):
            return True
        return None
    if node.target in _FIRST:
        return False
    if node.target in (F.linear, torch._C._nn.linear):
        return True
    if node.target is F.layer_norm:
        return True if len(_argument(node, 1, "normalized_shape") or ()) == 1 else None
    if node.target in ("permute", torch.permute):
        dims = node.args[1:] if len(node.args) > 2 else _argument(node, 1, "dims")
        order = tuple(dims) if isinstance(dims, (tuple, list)) else ()
        if order == (0, 2, 3, 1):
            return not forward
        if order == (0, 3, 1, 2):
            return forward
    if node.target in ("mean", torch.mean, "flatten", torch.flatten) and forward:
        dims = _argument(node, 1, "dim") or _argument(node, 1, "start_dim")
        if dims in ((2, 3), [2, 3], (-2, -1), [-2, -1], (-1, -2), 2):
            return False
        if dims in ((1, 2), [1, 2]):
            return True
    return None


def _argument(node: fx.Node, place: int, name: str) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name)


def _maps(known: Analysis, nodes: list[fx.Node]) -> list[tuple[int, int, int]]:
    """(channels, h, w) of the maps made so far, the latest first."""
    found = []
    for node in reversed(nodes):
        shape = known.values[node].shape if node in known.batched else ()
        if len(shape) == 4:
            last = channels_last(known, node)
            found.append((shape[3], shape[1], shape[2]) if last else (shape[1], shape[2], shape[3]))
    return found


def _flat_map(known: Analysis, node: fx.Node, nodes: list[fx.Node], shape: tuple[int, ...]) -> bool:
    """Whether [B, C, N] is a map flattened with its channels first."""
    source = node.all_input_nodes[0] if node.all_input_nodes else None
    flat = node.target in ("flatten", torch.flatten, "reshape", "view", torch.reshape)
    if not flat or source is None or source not in known.batched:
        return False
    made = known.values[source].shape
    return len(made) == 4 and made[1] == shape[0] and made[2] * made[3] == shape[1]


def _grid(known: Analysis, nodes: list[fx.Node], tokens: int) -> tuple[int, int] | None:
    """(h, w) of a token grid: of the latest map that has as many places, a few class tokens apart."""
    for _, h, w in _maps(known, nodes):
        if 0 <= tokens - h * w <= _MOST_CLASS_TOKENS and h * w > 1:
            return h, w
    height, width = known.example.shape[-2:] if known.example.ndim == 4 else (1, 1)
    for extra in range(_MOST_CLASS_TOKENS + 1):
        h = math.isqrt((tokens - extra) * height // width) if tokens > extra else 0
        if h and h * h * width == (tokens - extra) * height and h * (h * width // height) > 1:
            return h, h * width // height
    return None
