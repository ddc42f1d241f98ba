"""The device's side: batches of images through the prefix, all layers in one pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fmshards.calibration import FeaturesOf
from fmshards.extraction.batches import Batch
from fmshards.shards import BASE, MIRROR, Plan

_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def best_memory_format(model: nn.Module) -> str:
    """The memory format that a CPU runs a model fastest in: channels last where it is mostly convolutions.

    SqueezeNet at 227 pixels and ResNet-18 at 224 run 2.5 and 1.5 times as fast so, a transformer no faster.
    """
    convolutions = sum(isinstance(m, nn.Conv2d) for m in model.modules())
    others = sum(isinstance(m, (nn.Linear, nn.MultiheadAttention)) for m in model.modules())
    return "channels_last" if convolutions > others else "contiguous"


def run_prefix(
    prefix: FeaturesOf, x: torch.Tensor, device: torch.device, precision: str, memory_format: str = "contiguous"
) -> Mapping[str, torch.Tensor]:
    """Features by cut name of x [B, 3, H, W]; in the dtype that the prefix gives, on the device.

    memory_format: the memory format that the images come in, "contiguous" or "channels_last"; features come in any.
    """
    dtype = PRECISIONS[precision]
    x = x.to(device, non_blocking=True, memory_format=_FORMATS[memory_format])
    with torch.no_grad(), torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        return prefix(x)


class Forward:
    """Batch -> {layer: {stream: [B, *shape]}}: base, mirror and views, each a batch of its own.

    The mirror is the flipped base tensor. Of each stream the channels that it stores are kept.
    """

    def __init__(
        self, prefix: FeaturesOf, plan: Plan, device: torch.device, precision: str, memory_format: str = "contiguous"
    ) -> None:
        self._prefix, self._plan, self._device = prefix, plan, device
        self._precision, self._memory_format = precision, memory_format
        self._channels: dict[tuple[str, str], torch.Tensor] = {}
        for layer in plan.layers:
            for stream in plan.streams(layer.name):
                if stream.channels is not None and len(stream.channels) < layer.spec.channels:
                    index = torch.tensor(stream.channels, dtype=torch.long, device=device)
                    self._channels[layer.name, stream.name] = index

    def __call__(self, batch: Batch) -> dict[str, dict[str, torch.Tensor]]:
        features: dict[str, dict[str, torch.Tensor]] = {layer.name: {} for layer in self._plan.layers}
        base = batch.base.to(self._device, non_blocking=True)
        images = {BASE: base}
        if self._plan.mirror_stored:
            images[MIRROR] = base.flip(-1)
        images |= {f"view{v}": view for v, view in enumerate(batch.views, 1)}
        for name, x in images.items():
            found = run_prefix(self._prefix, x, self._device, self._precision, self._memory_format)
            for layer in self._plan.layers:
                for stream in self._plan.streams(layer.name):
                    if stream.name == name:
                        feature, index = found[layer.cut], self._channels.get((layer.name, name))
                        if index is not None:
                            feature = feature.index_select(layer.spec.channel_axis + 1, index)
                        features[layer.name][name] = feature
        return features
