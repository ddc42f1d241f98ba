"""Whether a feature is a function of its image: neither of the other images of its batch nor of chance.

Batch statistics, a mean over the batch, a sampling encoder and a dropout that is always on give features that no set
can hold: each epoch, or each neighbour in a batch, would give others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from fmshards.model.graph.modes import generator_states, seed
from fmshards.model.graph.run import run
from fmshards.model.graph.trace import Trace

# Between two computations of one feature, by its norm: other kernels for another batch, and what half precision adds.
_NOISE, _DEVICE_NOISE, _HALF_NOISE = 1e-4, 1e-2, 5e-2
_VALUES = 4096
_SEEDS = 6

BATCH = "depends on the other images of its batch (batch statistics, or a mean over the batch)"
CHANCE = "is drawn at random in eval mode too (a sampling layer, or a dropout that is always on)"


def purity(model: nn.Module, traced: Trace, x: torch.Tensor, nodes: Sequence[fx.Node]) -> dict[fx.Node, str]:
    """Of these nodes those whose value is no function of its image alone, and why.

    x: two images that differ. Each is run alone and beside the other (one may be what the other is held against), both
    under different seeds; where random numbers are drawn at all, under several. Run it in eval mode, within
    `kept_generators`.
    """
    seed(0)
    before = generator_states()
    together = _values(model, traced, x, nodes)
    drawn = generator_states() != before or x.device.type != "cpu"
    found: dict[fx.Node, str] = {}
    for number in range(1, _SEEDS) if drawn else ():
        seed(number)
        again = _values(model, traced, x, nodes)
        found |= {n: CHANCE for n in again if _differ(together[n], again[n], x)}
    for i in range(len(x)):
        seed(0)
        alone = _values(model, traced, x[i : i + 1], nodes)
        for n in alone:
            # What quantises activations by the range of their batch moves either image by a rounding, at times: the
            # first one tells of what the second is held against, and need not be so near.
            least = 0.0 if i else _HALF_NOISE
            if n not in found and _differ(together[n][i : i + 1], alone[n], x, least):
                found[n] = BATCH
    return found


def _values(model: nn.Module, traced: Trace, x: torch.Tensor, nodes: Sequence[fx.Node]) -> dict[fx.Node, torch.Tensor]:
    """Up to 4096 values of each image at each node, evenly spread: [images, values]."""
    wanted, found = set(nodes), {}

    def seen(node: fx.Node, value: Any) -> None:
        if node in wanted and isinstance(value, torch.Tensor) and value.is_floating_point():
            flat = value.detach().flatten(1)
            found[node] = flat[:, :: max(1, flat.shape[1] // _VALUES)].double().cpu()

    run(model, traced.graphs[False], traced.constants, x.clone(), seen)
    return found


def _differ(a: torch.Tensor, b: torch.Tensor, x: torch.Tensor, least: float = 0.0) -> bool:
    """By more than noise. least: noise at the least."""
    noise = max(least, _NOISE if x.device.type == "cpu" else _DEVICE_NOISE)
    if x.dtype in (torch.float16, torch.bfloat16):
        noise = _HALF_NOISE
    a, b = torch.nan_to_num(a), torch.nan_to_num(b)
    return bool((a - b).norm() > noise * torch.maximum(a.norm(), b.norm()))
