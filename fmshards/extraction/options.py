"""All options of an extraction, checked before anything is run, and the part of them that a plan is compared by."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from fmshards.augment import Mirror, Recipe, parse_mirror, parse_recipe
from fmshards.calibration import Sensitive, parse_sensitive
from fmshards.codec import FILTERS, codec_name
from fmshards.errors import InputError
from fmshards.extraction.forward import PRECISIONS
from fmshards.extraction.sources import Source, open_source
from fmshards.model import Analysis, Preprocess, analyse, load_on, parse_preprocess, prefix_digest
from fmshards.shards import check_name

Rate = str | float
ORDERS = ("auto", "none")
"""Whether channels are stored in an order chosen on the calibration sample, where that pays."""


@dataclass(frozen=True)
class Request:
    """What `extract` was asked for; every text is parsed, every default filled in."""

    source: Source
    source_text: str
    out: str
    model: nn.Module
    model_text: str
    weights_text: str | None
    layers: dict[str, Rate]
    preprocess: Preprocess
    recipe: Recipe
    mirror: Mirror
    views: int
    sensitive: Sensitive | None
    calibration: int | None
    batch: int
    device: torch.device
    precision: str
    workers: int
    chunk: int | None
    order: str
    filter: str | None
    seed: int
    _analysed: dict[tuple[int, ...], Analysis] = field(default_factory=dict, compare=False, repr=False)

    def analysis(self, example: torch.Tensor) -> Analysis:
        """The model's graph, held against the model on images like `example` [1, 3, H, W]; done once."""
        size = tuple(example.shape[1:])
        if size not in self._analysed:
            self._analysed[size] = analyse(self.model, example)
        return self._analysed[size]

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digest of the prefix of each layer."""
        return {name: prefix_digest(self.model, name) for name in self.layers}

    def decided(self, base_size: Sequence[int]) -> dict[str, Any]:
        """What of a plan's JSON is decided before anything is run."""
        return {"identity": self.identity(base_size), "options": self.options()}

    def identity(self, base_size: Sequence[int]) -> dict[str, Any]:
        """What decides whether a shard set is this one, for readers too."""
        return {
            "layers": {name: {"cut": name, "prefix": prefix_digest(self.model, name)} for name in self.layers},
            "dtype": self.precision,
            "preprocess": self.preprocess.text,
            "recipe": str(self.recipe),
            "mirror": str(self.mirror),
            "views": self.views,
            "sensitive": None if self.sensitive is None else str(self.sensitive),
            "seed": self.seed,
            "base_size": list(base_size),
        }

    def options(self) -> dict[str, Any]:
        """The other options on which bytes depend."""
        return {
            **self.source.options(),
            "rates": {name: _rate_text(rate) for name, rate in self.layers.items()},
            "batch": self.batch,
            "calibration": self.calibration,
            "chunk": self.chunk,
            "order": self.order,
            # Only where there is one: a set without stays the set that it was.
            **({} if self.filter is None else {"filter": self.filter}),
        }


def layer_rates(texts: Iterable[str]) -> dict[str, Rate]:
    """`NAME:RATE` texts as `extract`'s `layers`. Raises InputError."""
    layers: dict[str, Rate] = {}
    for text in texts:
        name, colon, rate = text.rpartition(":")
        if not colon or not name or not rate:
            raise InputError(f"the layer {text!r} reads wrong; expected NAME:RATE, such as layer2:4 or layer2:fp16")
        if name in layers:
            raise InputError(f"the layer {name!r} is given twice")
        layers[name] = rate
    return layers


def make_request(
    source: Any,
    out: str,
    *,
    model: str | nn.Module,
    layers: Mapping[str, Rate],
    weights: str | None,
    preprocess: Any,
    recipe: Any,
    mirror: str | Mirror,
    views: int,
    sensitive: Any,
    calibration: int | None,
    batch: int,
    device: str | torch.device | None,
    precision: str,
    workers: int,
    chunk: int | None,
    filter: str | None,
    shard_size: int | None,
    image_field: str | None,
    order: str,
    seed: int,
) -> Request:
    """Check and parse. Raises InputError or ModelError, naming the option."""
    if not layers:
        raise InputError("no layer is given; expected at least one NAME:RATE")
    for name, rate in layers.items():
        check_name(name, "the layer's name")
        codec_name(rate)
    for what, value, least in (
        ("batch", batch, 1),
        ("calibration", 1 if calibration is None else calibration, 1),
        ("views", views, 0),
        ("workers", workers, 0),
        ("chunk", 1 if chunk is None else chunk, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{what} is {value!r}; expected a whole number, {least} or more")
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if order not in ORDERS:
        raise InputError(f"order is {order!r}; expected one of {', '.join(ORDERS)}")
    if filter is not None and filter not in FILTERS:
        raise InputError(f"filter is {filter!r}; expected one of {', '.join(FILTERS)}, or none")
    found_recipe = parse_recipe(recipe)
    found_mirror = parse_mirror(mirror) if found_recipe.flips else Mirror("none")
    chosen = _check_views(found_recipe, views, sensitive)
    if views % 2 and found_mirror.way != "none":
        warnings.warn(
            f"views={views} is odd: even views show the mirror, so that flipped and unflipped come unevenly; an even "
            "number shows both alike",
            stacklevel=4,
        )
    loaded, where = load_on(model, weights, device)
    return Request(
        source=open_source(source, shard_size=shard_size, image_field=image_field, seed=seed),
        source_text=_source_text(source),
        out=out,
        model=loaded,
        model_text=model if isinstance(model, str) else type(model).__name__,
        weights_text=weights,
        layers=dict(layers),
        preprocess=parse_preprocess(preprocess, model=loaded, name=model if isinstance(model, str) else None),
        recipe=found_recipe,
        mirror=found_mirror,
        views=views,
        sensitive=chosen,
        calibration=calibration,
        batch=batch,
        device=where,
        precision=precision,
        workers=workers,
        chunk=chunk,
        order=order,
        filter=filter,
        seed=seed,
    )


def _rate_text(rate: Rate) -> str:
    """One text for 4, 4.0 and "4"."""
    try:
        return f"{float(rate):g}"
    except ValueError:
        return str(rate)


def _source_text(source: Any) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (list, tuple)) and source and isinstance(source[0], str):
        return source[0] if len(source) == 1 else f"{source[0]} and {len(source) - 1} more"
    return type(source).__name__


def _check_views(recipe: Recipe, views: int, sensitive: Any) -> Sensitive | None:
    """The choice of channels that views hold, None without views. Raises InputError where these contradict."""
    if not views:
        if sensitive is not None:
            raise InputError("sensitive is given without views: it says which channels stored views hold")
        if recipe.custom_text is not None:
            raise InputError(
                "the recipe is a transform of images, which no feature can follow: store whole views of it (views=4, "
                "sensitive=1.0)"
            )
        return None
    if not recipe:
        raise InputError(f"views={views} without a recipe: views are drawn from one")
    if sensitive is None:
        raise InputError(
            f"views={views} without sensitive: say which channels they hold: a fraction such as 0.25 (1.0: whole "
            "views), threshold(0.9), or a list"
        )
    chosen = parse_sensitive(sensitive)
    if recipe.custom_text is not None and not chosen.whole:
        raise InputError(f"the recipe is a transform of images: its views must be whole (sensitive=1.0, not {chosen})")
    return chosen
