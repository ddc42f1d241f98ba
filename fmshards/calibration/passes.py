"""The calibration sample, and how its images go through the prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from fmshards.augment import render
from fmshards.calibration.grid import FeaturesOf
from fmshards.errors import InputError
from fmshards.model import Preprocess

Stage = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much it is in all."""

Thetas = np.ndarray[Any, np.dtype[np.float32]]


class Counted:
    """The prefix, and how many images have been through it."""

    def __init__(self, prefix: FeaturesOf, total: int, stage: Stage | None) -> None:
        self._prefix, self._total, self._stage = prefix, total, stage
        self._done = 0

    def __call__(self, x: torch.Tensor) -> Mapping[str, torch.Tensor]:
        features = self._prefix(x)
        self._done += len(x)
        if self._stage is not None:
            self._stage("calibration", self._done, self._total)
        return features


@dataclass(frozen=True)
class Run:
    """The sample, and how batches of it are made. size: (H, W) of the base images."""

    prefix: FeaturesOf
    images: Sequence[Image.Image]
    preprocess: Preprocess
    batch: int
    device: torch.device
    size: tuple[int, int]

    def batches(self) -> Iterator[list[int]]:
        for start in range(0, len(self.images), self.batch):
            yield list(range(start, min(start + self.batch, len(self.images))))

    def base(self, chosen: Sequence[int]) -> torch.Tensor:
        return self.base_and_moved(chosen, None)[0]

    def base_and_moved(self, chosen: Sequence[int], theta: Thetas | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The base images of these samples, and where there are thetas the images moved by them; each decoded once."""
        base, moved = [], []
        for place, i in enumerate(chosen):
            image = self.images[i]
            base.append(self.preprocess.base(image))
            if tuple(base[-1].shape[1:]) != self.size:
                raise InputError(
                    f"calibration: base images of several sizes, {self.size} and {tuple(base[-1].shape[1:])}; all must "
                    "be of one (height, width): add resize and center_crop to the preprocessing"
                )
            if theta is not None:
                moved.append(render(image, self.preprocess, theta[place]))
        shown = torch.stack(moved).to(self.device) if moved else None
        return torch.stack(base).to(self.device), shown


def spread(total: int, most: int) -> list[int]:
    """At most `most` of range(total), evenly spread."""
    count = min(total, most)
    return [i * total // count for i in range(count)]


def as_floats(features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Features in float32, by layer."""
    return {name: x.float() for name, x in features.items()}
