"""Example images for a model: of its channels, its size, its dtype and its device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from fmshards.errors import InputError
from fmshards.model.graph.run import attribute
from fmshards.model.graph.trace import Trace, trace

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")


def image_channels(model: nn.Module, traced: Trace) -> int:
    """The channels of the images that a model takes: its library's word, or those of its first convolution; else 3.

    Layers of torch's own and functions before it are taken to keep the channels; a user's module without convolution
    there may make others of them, so that nothing is known.
    """
    size = _config(model).get("input_size")
    if isinstance(size, (tuple, list)) and len(size) == 3:
        return int(size[0])
    for node in traced.nodes:
        if node.op == "call_module":
            for module in model.get_submodule(str(node.target)).modules():
                found = getattr(module, "in_channels", None)
                if isinstance(found, int) and (isinstance(module, _ConvNd) or hasattr(module, "kernel_size")):
                    return found
            if not type(model.get_submodule(str(node.target))).__module__.startswith("torch."):
                return 3
        elif node.op == "call_function" and getattr(node.target, "__name__", "") in _CONVOLUTIONS:
            weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
            groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
            if isinstance(weight, fx.Node) and weight.op == "get_attr" and isinstance(groups, int):
                return int(attribute(model, traced.constants, str(weight.target)).shape[1]) * groups
    return 3


def blank_image(model: nn.Module, size: Sequence[int]) -> torch.Tensor:
    """float32 zeros [1, C, *size] on the model's device, of the channels that it takes."""
    channels = _config(model).get("input_size", [image_channels(model, trace(model))])[0]
    return torch.zeros(1, int(channels), *size, device=image_type(model)[0])


def image_type(model: nn.Module) -> tuple[torch.device, torch.dtype | None]:
    """The device of a model, and the dtype of its first floating-point parameter; None where it has none."""
    state = [*model.parameters(), *model.buffers()]
    device = state[0].device if state else torch.device("cpu")
    return device, next((t.dtype for t in state if t.is_floating_point()), None)


def two_images(model: nn.Module, traced: Trace, example: torch.Tensor | None) -> torch.Tensor:
    """Two images that differ, [2, ...], of the example's shape; without one of the size that the model names, or 224.

    Constant and repeated images hide differences: noise, of another contrast and brightness in each, shows them.
    """
    if example is None:
        side = getattr(model, "image_size", 224)
        size = _config(model).get("input_size")
        sides = (side, side) if isinstance(side, int) else tuple(side)
        example = torch.zeros(1, *(size if size else (image_channels(model, traced), *sides)))
    if not isinstance(example, torch.Tensor) or example.ndim < 2 or not len(example):
        found = type(example).__name__ if not isinstance(example, torch.Tensor) else f"shape {tuple(example.shape)}"
        raise InputError(f"example must be a tensor of one batch, such as torch.zeros(1, 3, 224, 224); found {found}")
    device, dtype = image_type(model)
    x = example.detach()[:2]
    if example.is_floating_point() and dtype is not None:
        x = x.to(device, dtype)
        if len(x) == 1 or bool((x == x.flatten()[0]).all()) or torch.equal(x[0], x[1]):
            noise = torch.rand((2, *x.shape[1:]), generator=torch.Generator().manual_seed(0)) * 2 - 1
            noise[1] = noise[1] * 0.25 + 0.5
            x = noise.to(x)
        return x
    return x.to(device).repeat(2, *[1] * (x.ndim - 1))[:2].contiguous()


def synthetic_image(channels: int, size: Sequence[int]) -> torch.Tensor:
    """float32 [1, channels, *size] in [-1, 1): the same bits on every machine, by whole numbers alone."""
    count = channels * int(size[0]) * int(size[1])
    # A linear congruence by Knuth's multiplier, its upper bits: exact in int64 and in float32.
    bits = (torch.arange(1, count + 1, dtype=torch.int64) * 2654435761) % 2**32 // 2**16
    return (bits.to(torch.float32) / 2**15 - 1).reshape(1, channels, *size)


def _config(model: nn.Module) -> dict[str, Any]:
    found = getattr(model, "default_cfg", None)
    return found if isinstance(found, dict) else {}
