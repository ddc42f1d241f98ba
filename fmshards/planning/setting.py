"""What a survey is to do, on what, and within which budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fmshards.augment import Mirror, Recipe
from fmshards.calibration import FeaturesOf
from fmshards.model import Cut
from fmshards.planning.measure import Suffix
from fmshards.planning.photos import Photos


@dataclass(frozen=True)
class Budget:
    """drop: of accuracy, 0 to 1, None where bytes alone bound. bytes: a sample's, the mirror's with it, or None."""

    drop: float | None
    bytes: float | None


@dataclass(frozen=True)
class Halves:
    """A network cut in two, as it is run here. prefix: images [B, 3, H, W] on the device to features [B, *shape]."""

    prefix: Callable[[torch.Tensor], torch.Tensor]
    suffix: Suffix


@dataclass(frozen=True)
class Setting:
    """What a survey is to do. halves: a cut in two. prefix_of: all cuts in one pass, by name.

    suffix: one of `judge.SUFFIXES`. mirror: None where it is to be chosen. batch: photos in a forward of the prefix.
    speed: the trainer's samples/s, None: as measured. memory: bytes of features that are held.
    """

    photos: Photos
    halves: Callable[[Cut], Halves]
    prefix_of: Callable[[Sequence[Cut]], FeaturesOf]
    device: torch.device
    budget: Budget
    recipe: Recipe
    mirror: Mirror | None
    suffix: str = "auto"
    batch: int = 8
    speed: float | None = None
    filter: str | None = None
    order: str = "auto"
    seed: int = 0
    memory: int = 1 << 30
