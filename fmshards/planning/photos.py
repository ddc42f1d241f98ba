"""The sample of the user's photos: images, their labels, and what they take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fmshards.augment import render
from fmshards.model import Preprocess

_KEPT_BYTES = 256 << 20  # of base images; what is beyond is decoded anew each time


@dataclass
class Photos:
    """Images as a network takes them. labels: int64 [n], None where there are none. bytes: of an encoded image, the
    mean, None where that is not known. total: samples of the whole source, None where that is not known."""

    images: Sequence[Image.Image]
    preprocess: Preprocess
    labels: torch.Tensor | None
    bytes: float | None
    total: int | None
    _kept: dict[int, torch.Tensor] = field(default_factory=dict, repr=False)
    _seconds: list[float] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the base images."""
        shape = self._base(0).shape
        return int(shape[1]), int(shape[2])

    @property
    def seconds(self) -> float:
        """What decoding and preprocessing an image takes here: the median."""
        return statistics.median(self._seconds) if self._seconds else 0.0

    def base(self, chosen: Sequence[int]) -> torch.Tensor:
        """float32 [B, 3, H, W]."""
        return torch.stack([self._base(i) for i in chosen])

    def moved(self, chosen: Sequence[int], theta: npt.NDArray[np.float32]) -> torch.Tensor:
        """The base images moved by theta [B, 2, 3], float32 [B, 3, H, W]."""
        return torch.stack([render(self.images[i], self.preprocess, t) for i, t in zip(chosen, theta, strict=True)])

    def _base(self, i: int) -> torch.Tensor:
        if i in self._kept:
            return self._kept[i]
        began = time.perf_counter()
        x = self.preprocess.base(self.images[i]).float()
        self._seconds.append(time.perf_counter() - began)
        if (len(self._kept) + 1) * x.numel() * 4 <= _KEPT_BYTES:
            self._kept[i] = x
        return x


def spread(total: int, most: int) -> list[int]:
    """At most `most` of range(total), evenly spread."""
    count = min(total, most)
    return [i * total // count for i in range(count)]
