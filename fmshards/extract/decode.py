"""The worker's side: a raw batch becomes base tensors, rendered views and the fields that travel along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from fmshards.augment import Mirror, Recipe, custom_view, render, view_theta
from fmshards.errors import FmshardsError, InputError
from fmshards.extract.batches import Batch, RawBatch
from fmshards.extract.sources import Item, Sample, Source
from fmshards.model import Preprocess

Theta = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Views:
    """What is to be rendered beside the base image."""

    recipe: Recipe
    mirror: Mirror
    count: int
    seed: int


@dataclass(frozen=True)
class Decoder:
    """RawBatch -> Batch, in a worker. `size` is the base image's (H, W); None where it is not known yet.

    Raises InputError that names the input shard and the key.
    """

    source: Source
    preprocess: Preprocess
    size: tuple[int, int] | None = None
    views: Views | None = None

    def __call__(self, raw: RawBatch) -> Batch:
        samples = [self.sample(raw.shard, item) for item in raw.items]
        keys = [sample.key for sample in samples]
        base = torch.stack([self.base(raw.shard, sample) for sample in samples])
        views, theta = self._views(raw.shard, samples, keys, base)
        return Batch(
            shard=raw.shard,
            keys=keys,
            fields=[sample.fields for sample in samples],
            base=base,
            views=views,
            theta=theta,
            last=raw.last,
            work=raw.items[-1].work,
        )

    def sample(self, shard: int, item: Item) -> Sample:
        """Load one item."""
        try:
            return self.source.load(item)
        except FmshardsError as error:
            raise InputError(f"{self._where(shard, item.key)}: {error}") from None
        except Exception as error:  # a user's data set may raise anything
            raise InputError(f"{self._where(shard, item.key)}: it cannot be read: {_describe(error)}") from None

    def base(self, shard: int, sample: Sample) -> torch.Tensor:
        """float32 [3, H, W], the image as the prefix sees it."""
        try:
            x = self.preprocess.base(sample.image)
        except Exception as error:  # a user's function may raise anything
            raise InputError(f"{self._where(shard, sample.key)}: preprocessing failed: {_describe(error)}") from None
        if not isinstance(x, torch.Tensor) or x.ndim != 3:
            shape = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
            raise InputError(
                f"{self._where(shard, sample.key)}: preprocessing gave {shape}; expected a tensor [channels, H, W]"
            )
        if self.size is not None and tuple(x.shape[1:]) != self.size:
            raise InputError(
                f"{self._where(shard, sample.key)}: the image is {x.shape[1]} x {x.shape[2]} after preprocessing, the "
                f"first one {self.size[0]} x {self.size[1]}; add resize() and center_crop() to the preprocessing"
            )
        return x.to(torch.float32)

    def _views(
        self, shard: int, samples: list[Sample], keys: list[str], base: torch.Tensor
    ) -> tuple[list[torch.Tensor], Theta | None]:
        if self.views is None or not self.views.count:
            return [], None
        plan = self.views
        name = self.source.inputs[shard].name
        theta = view_theta(plan.recipe, plan.mirror, plan.seed, name, keys, plan.count, (base.shape[2], base.shape[3]))
        rendered = []
        for v in range(plan.count):
            view = torch.empty_like(base)
            for i, sample in enumerate(samples):
                try:
                    view[i] = self._render(sample.image, name, keys[i], v + 1, theta[i, v])
                except Exception as error:  # a user's transform may raise anything
                    where = self._where(shard, sample.key)
                    raise InputError(f"{where}: view {v + 1} cannot be rendered: {_describe(error)}") from None
            rendered.append(view)
        return rendered, theta

    def _render(self, image: Image.Image, name: str, key: str, view: int, theta: Theta) -> torch.Tensor:
        assert self.views is not None
        recipe = self.views.recipe
        if recipe.custom is None:
            return render(image, self.preprocess, theta)
        return custom_view(image, self.preprocess, recipe, (self.views.seed, name, key, view))

    def _where(self, shard: int, key: str) -> str:
        return f"{self.source.inputs[shard].url}: key {key!r}"


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, FmshardsError) else f"{type(error).__name__}: {error}"
