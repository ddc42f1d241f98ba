"""Small models and the reference that a split is held against."""

from __future__ import annotations

import copy
import functools
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from fmshards.model import Analysis, Cut, analyse, cuts_of


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _torchvision(name: str, **options: Any) -> nn.Module:
    from torchvision import models

    return models.get_model(name, weights=None, **options)


def _timm(name: str, **options: Any) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=10, **options)


def _maxvit() -> nn.Module:
    from torchvision.models.maxvit import MaxVit

    return MaxVit((64, 64), 8, 2, [8, 16], [1, 2], 8, stochastic_depth_prob=0.3, num_classes=10)


def _vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 3, 2, 16, 32, dropout=0.1, attention_dropout=0.1, num_classes=10)


def _swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], dropout=0.1, stochastic_depth_prob=0.3, num_classes=10)


def _densenet() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(8, (2, 3, 2), 16, drop_rate=0.2, num_classes=10)


def _mobilenet() -> nn.Module:
    from torchvision.models import MobileNetV2

    return MobileNetV2(num_classes=10, width_mult=0.25)


_DROPS = {"drop_path_rate": 0.3, "drop_rate": 0.2}
_SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}

# name -> (maker, image side): small, so that every one runs in a second or two.
SMALL: dict[str, tuple[Any, int]] = {
    "torchvision resnet18": (lambda: _torchvision("resnet18"), 32),
    "torchvision densenet": (_densenet, 32),
    "torchvision mobilenet_v2": (_mobilenet, 32),
    "torchvision mobilenet_v3_small": (lambda: _torchvision("mobilenet_v3_small"), 32),
    "torchvision efficientnet_b0": (lambda: _torchvision("efficientnet_b0", stochastic_depth_prob=0.4), 32),
    "torchvision regnet_y_400mf": (lambda: _torchvision("regnet_y_400mf"), 32),
    "torchvision shufflenet_v2_x0_5": (lambda: _torchvision("shufflenet_v2_x0_5"), 32),
    "torchvision squeezenet1_1": (lambda: _torchvision("squeezenet1_1"), 48),
    "torchvision vit": (_vit, 32),
    "torchvision swin": (_swin, 32),
    "torchvision maxvit": (_maxvit, 64),
    "timm resnet18 drop_path": (lambda: _timm("resnet18", **_DROPS), 32),
    "timm regnetx_002": (lambda: _timm("regnetx_002", drop_path_rate=0.3), 32),
    "timm convnext_atto": (lambda: _timm("convnext_atto", **_DROPS), 32),
    "timm vit drops": (lambda: _timm("vit_tiny_patch16_224", attn_drop_rate=0.2, **_DROPS, **_VIT), 32),
    "timm deit distilled": (lambda: _timm("deit_tiny_distilled_patch16_224", drop_path_rate=0.3, **_VIT), 32),
    "timm beit": (lambda: _timm("beit_base_patch16_224", drop_path_rate=0.3, **_VIT), 32),
    "timm swin": (lambda: _timm("swin_tiny_patch4_window7_224", drop_path_rate=0.3, **_SWIN), 32),
}

_TORCHVISION = {
    "resnet50": 64, "resnext50_32x4d": 64, "wide_resnet50_2": 32, "densenet121": 64, "mobilenet_v3_large": 64,
    "mnasnet0_5": 64, "efficientnet_v2_s": 64, "regnet_x_400mf": 64, "convnext_tiny": 64, "swin_v2_t": 64,
    "vgg11_bn": 64, "alexnet": 96, "googlenet": 96, "inception_v3": 299,
}  # fmt: skip
_TIMM = {
    "efficientnet_b0": 64, "mobilenetv3_small_100": 64, "mixer_s32_224": 224, "levit_128s": 224, "cait_xxs24_224": 224,
    "pvt_v2_b0": 64, "resnet26d": 64, "regnety_002": 64, "ghostnet_050": 64, "poolformer_s12": 64,
    "edgenext_xx_small": 64, "mobilevit_xxs": 64, "visformer_tiny": 224, "coatnet_nano_rw_224": 224,
}  # fmt: skip

LARGE: dict[str, tuple[Any, int]] = {
    **{f"torchvision {name}": (functools.partial(_torchvision, name), side) for name, side in _TORCHVISION.items()},
    **{f"timm {name}": (functools.partial(_timm, name), side) for name, side in _TIMM.items()},
}


@functools.cache
def analysed(name: str) -> tuple[nn.Module, torch.Tensor, Analysis]:
    """A model of the tables above, a batch for it, and its analysis, made once."""
    make, side = {**SMALL, **LARGE}[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)  # a head of zeros would hide what comes before it
    x = torch.randn(2, 3, side, side)
    return model, x, analyse(model, x)


def spread(known: Analysis, most: int) -> list[Cut]:
    """Up to `most` cuts that can be split at, from the first to the last."""
    valid = sorted((c for c in cuts_of(known) if c.problem is None), key=lambda c: c.place)
    return [valid[round(i * (len(valid) - 1) / max(most - 1, 1))] for i in range(min(most, len(valid)))]


def same(a: Any, b: Any) -> bool:
    ours, theirs = pytree.tree_leaves(a), pytree.tree_leaves(b)
    return len(ours) == len(theirs) and all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))


def loss(outputs: Any) -> torch.Tensor:
    total = torch.zeros(())
    for x in pytree.tree_leaves(outputs):
        total = total + (x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum()
    return total


def reference(model: nn.Module, prefix: nn.Module, suffix: nn.Module) -> nn.Module:
    """A copy of `model` in train mode; the modules that only the prefix calls in eval mode."""
    copied = copy.deepcopy(model).train()
    ours, late = set(model.modules()), set(suffix.modules())
    for path, module in prefix.named_modules():
        if module in ours and module not in late:
            copied.get_submodule(path).eval()
    return copied
