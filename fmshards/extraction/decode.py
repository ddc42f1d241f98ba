"""The worker's side: a raw batch becomes base tensors, rendered views and the fields that travel along."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from fmshards.augment import Mirror, Recipe, custom_view, render, view_theta
from fmshards.errors import FmshardsError, InputError
from fmshards.extraction.batches import Batch, RawBatch
from fmshards.extraction.sources import Item, Sample, Source
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
class Kept:
    """Which fields travel with a feature: those named in `fields`, or all but those in `drop`."""

    fields: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()

    def of(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Raises InputError for a name that the sample does not have."""
        named = self.drop if self.fields is None else self.fields
        absent = [name for name in named if name not in fields]
        if absent:
            raise InputError(f"it has no field {absent[0]!r}; it has {', '.join(sorted(fields)) or 'none'}")
        if self.fields is not None:
            return {name: fields[name] for name in self.fields}
        return {name: value for name, value in fields.items() if name not in self.drop}


@dataclass(frozen=True)
class Decoder:
    """RawBatch -> Batch, in a worker. `size` is the base image's (H, W); None where it is not known yet.

    Raises InputError that names the input shard and the key.
    """

    source: Source
    preprocess: Preprocess
    size: tuple[int, int] | None = None
    views: Views | None = None
    keep: Kept = field(default_factory=Kept)

    def __call__(self, raw: RawBatch) -> Batch:
        # One sample after another: a decoded photo takes far more memory than what becomes of it.
        keys, fields, base = [], [], []  # type: tuple[list[str], list[dict[str, Any]], list[torch.Tensor]]
        digests: list[bytes] = []
        views: list[list[torch.Tensor]] = []
        thetas: list[Theta] = []
        for item in self.source.fetched(raw.items):
            sample = self.sample(raw.shard, item)
            keys.append(sample.key)
            fields.append(sample.fields)
            digests += () if sample.digest is None else (sample.digest,)
            base.append(self.base(raw.shard, sample))
            if self.views is not None:
                rendered, theta = self._render_views(raw.shard, sample, base[-1])
                views.append(rendered)
                thetas.append(theta)
        return Batch(
            shard=raw.shard,
            keys=keys,
            fields=fields,
            base=torch.stack(base),
            views=[torch.stack(view) for view in zip(*views, strict=True)],
            theta=np.stack(thetas) if thetas else None,
            last=raw.last,
            work=raw.items[-1].work,
            digests=digests,
        )

    def sample(self, shard: int, item: Item) -> Sample:
        """Load one item."""
        try:
            sample = self.source.load(item)
            return replace(sample, fields=self.keep.of(sample.fields))
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

    def _render_views(self, shard: int, sample: Sample, base: torch.Tensor) -> tuple[list[torch.Tensor], Theta]:
        """The sample's views, each of the base image's shape, and their thetas float32 [V, 2, 3]."""
        plan = self.views
        assert plan is not None
        name, size = self.source.inputs[shard].name, (int(base.shape[1]), int(base.shape[2]))
        theta = view_theta(plan.recipe, plan.mirror, plan.seed, name, [sample.key], plan.count, size)[0]
        rendered = []
        for v in range(plan.count):
            try:
                if plan.recipe.custom is None:
                    view = render(sample.image, self.preprocess, theta[v])
                else:
                    identity = (plan.seed, name, sample.key, v + 1)
                    view = custom_view(sample.image, self.preprocess, plan.recipe, identity)
            except Exception as error:  # a user's transform may raise anything
                where = self._where(shard, sample.key)
                raise InputError(f"{where}: view {v + 1} cannot be rendered: {_describe(error)}") from None
            if view.shape != base.shape:
                where = self._where(shard, sample.key)
                raise InputError(
                    f"{where}: view {v + 1} is {tuple(view.shape)}, the base image {tuple(base.shape)}; a transform of "
                    "images must keep their size, or the preprocessing must set it"
                )
            rendered.append(view.to(torch.float32))
        return rendered, theta

    def _where(self, shard: int, key: str) -> str:
        return f"{self.source.inputs[shard].url}: key {key!r}"


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, FmshardsError) else f"{type(error).__name__}: {error}"
