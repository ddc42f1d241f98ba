"""An extraction that is ready to run: the options with every default decided, and the objects that they name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from fmshards.augment import Mirror, Recipe, parse_mirror, parse_recipe
from fmshards.calibration import Sensitive, default_calibration, parse_sensitive
from fmshards.codec import Rate
from fmshards.errors import InputError, warn
from fmshards.extraction.calibration_images import sample_count
from fmshards.extraction.decode import Decoder, Kept, Views
from fmshards.extraction.forward import PRECISIONS, Forward, best_memory_format
from fmshards.extraction.options import AUTO, Options
from fmshards.extraction.sources import Source, open_source
from fmshards.model import (
    Analysis,
    Identities,
    Preprocess,
    analyse,
    blank_image,
    image_type,
    load_on,
    multi_prefix,
    parse_preprocess,
)
from fmshards.shards import Plan

BATCH, CPU_BATCH = 64, 8
"""Samples in a forward where none are asked for: on an accelerator, and on a CPU, where more leave the caches and
take memory that the system maps anew for each layer (tools/bench_path.py)."""
_MEMORY_FORMATS = ("contiguous", "channels_last")


@dataclass(frozen=True)
class Request:
    """What `extract` was asked for. `options` are plain; the rest are what they name, loaded and parsed.

    calibration: its samples. batch, memory_format: of a forward. These are the set's own where there is one and the
    options leave them open; so are orientation and a crop's step. Of a set that is not there yet calibration settles
    the step.
    """

    options: Options
    source: Source
    source_text: str
    out: str
    model: nn.Module
    model_text: str
    preprocess: Preprocess
    recipe: Recipe
    mirror: Mirror
    sensitive: Sensitive | None
    device: torch.device
    calibration: int
    batch: int
    memory_format: str
    orientation: str
    _analysed: dict[tuple[int, ...], Analysis] = field(default_factory=dict, compare=False, repr=False)

    def analysis(self, example: torch.Tensor) -> Analysis:
        """The model's graph, held against the model on images like `example` [1, 3, H, W]; done once."""
        size = tuple(example.shape[1:])
        if size not in self._analysed:
            self._analysed[size] = analyse(self.model, example)
        return self._analysed[size]

    def settled(self, stored: Plan | None) -> Request:
        """The same, with what is left open, rates too, as the plan of the set that is there has it."""
        options = _bound(self.options, stored)
        decided = _decide(options, stored, self.device, self.model)
        decided |= {"calibration": _calibration(options, stored, self.source)}
        return replace(self, options=options, recipe=_settled(self.recipe, stored), **decided)

    def decoder(self, plan: Plan) -> Decoder:
        """What makes images of the set of `plan` ready for the prefix."""
        views = Views(self.recipe, self.mirror, plan.views, self.options.seed) if plan.views else None
        return Decoder(self.source, self.preprocess, plan.base_size, views, self.kept)

    def forward(self, plan: Plan) -> Forward:
        """The prefix of all layers of `plan`, on the device."""
        example = blank_image(self.model, plan.base_size)
        prefix = multi_prefix(self.model, [layer.cut for layer in plan.layers], analysis=self.analysis(example))
        return Forward(prefix, plan, self.device, self.options.precision, self.memory_format)

    @property
    def kept(self) -> Kept:
        """The fields that travel."""
        return Kept(self.options.fields, self.options.drop_fields)

    @cached_property
    def identities(self) -> Identities:
        """What of the model decides its features; each layer's is computed once."""
        return Identities(self.model)

    def decided(self, base_size: Sequence[int]) -> dict[str, Any]:
        """What of a plan's JSON is decided before anything is run."""
        classes = self.source.classes
        return {
            "identity": self.identity(base_size),
            "options": self.plan_options(),
            "classes": None if classes is None else list(classes),
        }

    def identity(self, base_size: Sequence[int]) -> dict[str, Any]:
        """What decides whether a shard set is this one, for readers too."""
        return {
            "layers": {name: self.identities.layer(name) for name in self.options.layers},
            "dtype": self.options.precision,
            "preprocess": self.preprocess.text,
            "recipe": str(self.recipe),
            "mirror": str(self.mirror),
            "views": self.options.views,
            "sensitive": None if self.sensitive is None else str(self.sensitive),
            "seed": self.options.seed,
            "base_size": list(base_size),
        }

    def plan_options(self) -> dict[str, Any]:
        """The other options on which bytes depend. Those that are newer than sets only where they are used: a set
        without them stays the set that it was."""
        options = self.options
        newer = {
            "filter": options.filter,
            "fields": None if options.fields is None else list(options.fields),
            "drop_fields": list(options.drop_fields) or None,
            "orientation": None if self.orientation == "ignore" else self.orientation,
        }
        return {
            **self.source.options(),
            "rates": {name: _rate_text(rate) for name, rate in options.layers.items()},
            "batch": self.batch,
            "calibration": self.calibration,
            "chunk": options.chunk,
            "order": options.order,
            **{name: value for name, value in newer.items() if value is not None},
        }


def prepare(source: Any, out: str, model: str | nn.Module, options: Options, stored: Plan | None = None) -> Request:
    """Load and parse what the options name, and decide what they leave open. stored: the plan of the set at `out`.

    Raises InputError or ModelError, naming the option.
    """
    options = _bound(options, stored)
    recipe = _settled(parse_recipe(options.recipe, options.version), stored)
    mirror = parse_mirror(options.mirror) if recipe.flips else Mirror("none")
    sensitive = _check_views(recipe, options.views, options.sensitive)
    _warn(recipe, mirror, options.views, sensitive)
    loaded, device = load_on(model, options.weights, options.device)
    _check_precision(loaded, options.precision)
    name = model if isinstance(model, str) else None
    preprocess = parse_preprocess(options.preprocess, model=loaded, name=name, version=options.version)
    if options.version is not None and preprocess.function is None and recipe.custom is None:
        raise InputError("version is given, and neither preprocess nor recipe is a function that it could name")
    decided = _decide(options, stored, device, loaded)
    found = open_source(
        source,
        shard_size=options.shard_size,
        image_field=options.image_field,
        seed=options.seed,
        classes=options.classes,
        orientation=decided["orientation"],
        fields=options.fields,
        drop_fields=options.drop_fields,
    )
    return Request(
        options=options,
        source=found,
        source_text=_source_text(source),
        out=out,
        model=loaded,
        model_text=name or type(loaded).__name__,
        preprocess=preprocess,
        recipe=recipe,
        mirror=mirror,
        sensitive=sensitive,
        device=device,
        calibration=_calibration(options, stored, found),
        **decided,
    )


def _settled(recipe: Recipe, stored: Plan | None) -> Recipe:
    """The stored recipe where an open one leaves nothing but the step to it; else the recipe as it is."""
    if stored is None or not recipe.open:
        return recipe
    there = Recipe.from_json(stored.recipe)
    return there if there.with_step(None) == recipe else recipe


def _bound(options: Options, stored: Plan | None) -> Options:
    """The options with the rate of the set that is there for each AUTO: a set is gone on with as it was begun."""
    kept = {} if stored is None else stored.options.get("rates")
    if not isinstance(kept, dict):
        return options
    rates = {name: kept.get(name, rate) if rate == AUTO else rate for name, rate in options.layers.items()}
    return replace(options, layers=rates)


def _calibration(options: Options, stored: Plan | None, source: Source) -> int:
    kept = None if stored is None else stored.options.get("calibration")
    if options.calibration is not None:
        return options.calibration
    return kept if type(kept) is int and kept > 0 else default_calibration(sample_count(source))


def _decide(options: Options, stored: Plan | None, device: torch.device, model: nn.Module) -> dict[str, Any]:
    """Batch, memory format and orientation. A set that is there is gone on with as it was begun."""
    cpu = device.type == "cpu"
    batch = options.batch or (CPU_BATCH if cpu else BATCH)
    memory_format = best_memory_format(model) if cpu else "contiguous"
    orientation = options.orientation or "apply"
    if stored is not None:
        kept = stored.options.get("batch")
        if options.batch is None and type(kept) is int and kept > 0:
            batch = kept
        found = stored.provenance.get("memory_format")
        memory_format = found if found in _MEMORY_FORMATS else "contiguous"
        # Sets of before know of no orientation: their images are as they lie in the file.
        orientation = options.orientation or ("apply" if stored.options.get("orientation") == "apply" else "ignore")
    return {"batch": batch, "memory_format": memory_format, "orientation": orientation}


def _check_precision(model: nn.Module, precision: str) -> None:
    """Raise InputError where autocast would meet weights of the other half precision: torch mixes these nowhere."""
    asked, found = PRECISIONS[precision], image_type(model)[1]
    if asked is not None and found in (torch.float16, torch.bfloat16) and found is not asked:
        raise InputError(
            f"precision is {precision}, but the model's weights are {str(found).removeprefix('torch.')} already: leave "
            "precision as it is (float32), which runs the model in the dtype of its weights"
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
    if isinstance(source, (list, tuple)) and source and isinstance(source[0], (str, os.PathLike)):
        first = os.fspath(source[0])
        return first if len(source) == 1 else f"{first} and {len(source) - 1} more"
    return type(source).__name__


def _check_views(recipe: Recipe, views: int, sensitive: str | None) -> Sensitive | None:
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


def _warn(recipe: Recipe, mirror: Mirror, views: int, sensitive: Sensitive | None) -> None:
    if views % 2 and mirror.way != "none":
        warn(
            f"views={views} is odd: even views show the mirror, so that flipped and unflipped come unevenly; an even "
            "number shows both alike"
        )
    if recipe.flips and mirror.way == "none" and not (sensitive and sensitive.whole):
        warn(
            "mirror 'none' with a flip in the recipe: training flips the stored feature itself, which is not the "
            "feature of the flipped image; mirror 'stored' keeps that, 'mapped' computes it from the stored one"
        )
