"""A small vision transformer for CIFAR-10: six blocks over 8 x 8 tokens of 4 x 4 pixels and a class token.

A hybrid as in Dosovitskiy et al. (2020), section 3.1: patches are cut from the map of a convolutional network, here
ResNet-20's first two stages, since patches of pixels need more images than there are. Blocks are normalised before.
`examples/data/vit_tiny.safetensors` holds weights, trained by `tools/train_vit.py`: 71% of CIFAR-10's test images are
right. The stages' are the published ones, kept as they were. Use it as `examples/vit_tiny.py:vit_tiny`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from resnet20 import ResNet20
from torch import nn

PREPROCESS = "normalize(imagenet)"


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.heads, self.head_width)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, width: int = 96, depth: int = 6, heads: int = 4, classes: int = 10) -> None:
        super().__init__()
        net = ResNet20()
        self.stages = nn.Sequential(net.conv1, net.bn1, nn.ReLU(), net.layer1, net.layer2)
        self.patches = nn.Conv2d(32, width, 2, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 65, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Maps of the stages [N, 32, 16, 16] to [N, 65, width], the class token first."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [N, T, width], the class token first, to logits."""
        return self.head(self.norm(self.blocks(x))[:, 0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classify(self.tokens(self.stages(x)))


def vit_tiny() -> ViT:
    return ViT()
