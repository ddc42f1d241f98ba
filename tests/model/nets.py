"""Small networks of a user's own, each with one habit that a graph cannot hold or a split must notice."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(x))


class Net(nn.Module):
    """stem -> mid -> body -> head."""

    def __init__(self, mid: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = Stem()
        self.mid = mid if mid is not None else nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.mid(self.stem(x))).mean((2, 3)))


class FunctionalDropout(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.5, self.training)


def _drop(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return F.dropout(x, 0.5, module.training)


class DropoutInAHelper(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _drop(self, x)


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn(8, 1, 1)


class PythonChance(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if random.random() < 0.5 else x


class Batchwise(nn.Module):
    """A stochastic depth of one's own, of the batch's size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        return x * torch.empty(x.shape[0], 1, 1, 1).bernoulli_(0.5)


class DataDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else x * 2


class TypeCheck(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3 if isinstance(x, torch.Tensor) else x


class NoGrad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.conv(x)


class InPlace(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)


class InPlaceThroughAView(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x[:, :2].zero_()
        return x + 1


class Own(nn.Module):
    """A network whose own forward does `habit`."""

    def __init__(self, habit: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.stem, self.head, self.habit = Stem(), nn.Linear(8, 5), habit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.habit(self, self.stem(x)).mean((2, 3)))


class Shared(nn.Module):
    """One convolution called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = Stem(), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.conv(self.conv(self.stem(x)))).mean((2, 3)))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(x)))


class SharedDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop, self.act = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Dropout(0.5), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.act(self.b(self.drop(self.act(self.a(x))))))


class Sizes(nn.Module):
    """Takes its sizes from the input, and uses them at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mid, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, h, w = x.shape
        x = self.mid(self.conv(x).flatten(2).transpose(1, 2))
        return self.head(x.transpose(1, 2).reshape(b, 8, h, w).mean((2, 3)))


class WithDefaults(Net):
    def forward(self, x: torch.Tensor, scale: float = 2.0, pooled: bool = True, extra: object = None) -> torch.Tensor:
        x = self.body(self.mid(self.stem(x))) * scale
        return self.head(x.mean((2, 3))) if pooled else x


class TwoInputs(Net):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return super().forward(x + y)


class Positions(nn.Module):
    """A parameter that the forward fetches itself, a buffer, a tensor made in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.block, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 5)
        self.pos = nn.Parameter(torch.randn(1, 5, 8))
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.register_buffer("scale", torch.rand(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1)
        x = self.block(x) * self.scale
        return self.head((x + self.pos + torch.arange(8))[:, 0])
