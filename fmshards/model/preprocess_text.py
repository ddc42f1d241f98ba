"""Preprocessing from a text, from a library's configuration of a model, or from a function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import nn

from fmshards.errors import InputError, ModelError
from fmshards.functions import callable_name, function_text
from fmshards.model.load import Origin, origin_of
from fmshards.model.preprocess import IMAGENET, RESAMPLE, CenterCrop, Preprocess, Resize
from fmshards.terms import Term, parse_terms

_WHAT = "preprocessing"
_MOST_PIXELS = 16384


def parse_preprocess(
    text: str | Preprocess | Callable[[Image.Image], torch.Tensor] | None,
    *,
    model: nn.Module | None = None,
    name: str | None = None,
    weights: str | None = None,
    version: str | None = None,
) -> Preprocess:
    """Preprocessing as a user gives it.

    text: `resize(256)+center_crop(224)+normalize(imagenet)`; `timm` or `torchvision`, the model's own; a function of
    an RGB PIL image; or None, the model's own, or the PREPROCESS beside its factory. The terms, in any order but
    normalize last: `resize(S)` (shorter side) or `resize((H, W))`, `interpolation=bilinear|bicubic|nearest|lanczos`;
    `center_crop(S)`; `normalize(imagenet)` or `normalize(mean=(..), std=(..))`; `none`. Resizing is antialiased, as
    PIL's always is. model, name, weights: where the model's own is asked for. version: the user's name for what a
    function does, in place of a digest of it.

    Raises InputError, also for a function of which no digest can be made, where `version` is None.
    """
    if isinstance(text, Preprocess):
        return text
    if text is not None and not isinstance(text, str):
        return _of_callable(text, version)
    origin = origin_of(model) or Origin(name or "", weights)
    if text is None:
        text = origin.preprocess or next(
            (lib for lib in ("timm", "torchvision") if origin.name.startswith(f"{lib}:")), None
        )
        if text is None:
            raise InputError(
                f"{origin.name or 'the model'} names no {_WHAT}: give one, such as "
                "preprocess='resize(256)+center_crop(224)+normalize(imagenet)'"
            )
    if text.strip() == "timm":
        return _timm(model, origin)
    if text.strip() == "torchvision":
        return _torchvision(origin)
    return _of_terms(parse_terms(text, _WHAT), text)


def _of_terms(terms: list[Term], text: str) -> Preprocess:
    made: list[Resize | CenterCrop] = []
    for i, term in enumerate(terms):
        if term.name == "resize":
            made.append(_resize(term))
        elif term.name == "center_crop":
            size = _side(_only(term), term)
            made.append(CenterCrop(size if isinstance(size, tuple) else (size, size)))
        elif term.name == "normalize" and i == len(terms) - 1:
            mean, std = _normalize(term)
            return Preprocess(tuple(made), mean, std)
        elif term.name == "none" and len(terms) == 1:
            return Preprocess()
        elif term.name == "normalize":
            raise InputError(f"{_WHAT} {text!r}: normalize comes last")
        else:
            raise InputError(f"{_WHAT} {text!r}: expected resize, center_crop, normalize or none, found {term.name!r}")
    return Preprocess(tuple(made))


def _resize(term: Term) -> Resize:
    known = {k: v for k, v in term.kwargs.items() if k in ("interpolation", "antialias")}
    interpolation = str(known.get("interpolation", "bilinear"))
    if interpolation not in RESAMPLE:
        raise InputError(f"{_WHAT}: {term}: expected interpolation={'|'.join(RESAMPLE)}, found {interpolation!r}")
    if str(known.get("antialias", True)).lower() != "true":
        raise InputError(f"{_WHAT}: {term}: images are resized by PIL, which always antialiases: leave antialias out")
    rest = {k: v for k, v in term.kwargs.items() if k not in known}
    return Resize(_side(_only(Term(term.name, term.args, rest)), term), interpolation)


def _only(term: Term) -> Any:
    """The one argument of a term: by place, or as size=."""
    found = [*term.args, *([term.kwargs["size"]] if "size" in term.kwargs else [])]
    if len(found) != 1 or set(term.kwargs) - {"size"}:
        raise InputError(f"{_WHAT}: {term}: expected {term.name}(SIZE) or {term.name}((HEIGHT, WIDTH))")
    return found[0]


def _side(value: Any, term: Term) -> int | tuple[int, int]:
    sides = value if isinstance(value, tuple) else (value,)
    whole = all(isinstance(s, int) and not isinstance(s, bool) and 0 < s <= _MOST_PIXELS for s in sides)
    if not whole or not (not isinstance(value, tuple) or len(sides) == 2):
        raise InputError(f"{_WHAT}: {term}: expected pixels from 1 to {_MOST_PIXELS}, found {value!r}")
    return (sides[0], sides[1]) if isinstance(value, tuple) else sides[0]


def _normalize(term: Term) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if term.args == ("imagenet",) and not term.kwargs:
        return IMAGENET
    if term.args or set(term.kwargs) != {"mean", "std"}:
        raise InputError(f"{_WHAT}: {term}: expected normalize(imagenet) or normalize(mean=(..), std=(..))")
    found = []
    for key in ("mean", "std"):
        value = term.kwargs[key]
        values = value if isinstance(value, tuple) else (value,) * 3
        fine = len(values) == 3 and all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
        if not fine or (key == "std" and min(values) <= 0):
            raise InputError(f"{_WHAT}: {term}: expected three numbers for {key}{', above 0' if key == 'std' else ''}")
        found.append(tuple(float(v) for v in values))
    return found[0], found[1]


def _timm(model: nn.Module | None, origin: Origin) -> Preprocess:
    if model is None or not hasattr(model, "default_cfg"):
        raise InputError(f"{_WHAT} 'timm' is the model's own, and {origin.name or 'the model'} is no timm model")
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(model)
    height, width = config["input_size"][-2:]
    tall, wide = (math.floor(side / config["crop_pct"]) for side in (height, width))
    mode = config.get("crop_mode") or "center"
    if mode == "squash" or (mode == "center" and height == width):
        size: int | tuple[int, int] = (tall, wide) if mode == "squash" else tall
    else:
        raise InputError(
            f"{_WHAT} 'timm': the model's crop mode {mode!r} at {height}x{width} is not known here; write it out, "
            f"such as resize(({tall}, {wide}))+center_crop(({height}, {width}))+normalize(..)"
        )
    interpolation = config["interpolation"] if config["interpolation"] in RESAMPLE else "bilinear"
    mean, std = (tuple(float(v) for v in config[key]) for key in ("mean", "std"))
    return Preprocess((Resize(size, interpolation), CenterCrop((height, width))), mean, std)


def _torchvision(origin: Origin) -> Preprocess:
    if not origin.name.startswith("torchvision:"):
        raise InputError(
            f"{_WHAT} 'torchvision' is the model's own, and {origin.name or 'the model'} is no torchvision:NAME"
        )
    from torchvision import models

    try:
        known = models.get_model_weights(origin.name.partition(":")[2])
    except ValueError as error:
        raise ModelError(str(error)) from None
    members = known.__members__
    chosen = members[origin.weights] if origin.weights in members else getattr(known, "DEFAULT", None)
    made = chosen.transforms() if chosen is not None else None
    found = _preset(made)
    if found is None:
        raise InputError(f"{_WHAT} 'torchvision': {origin.name} has no {_WHAT} of a classifier; write it out")
    return found


def _preset(made: Any) -> Preprocess | None:
    """torchvision's preset of a classifier in this module's words; None for anything else."""
    from torchvision.transforms._presets import ImageClassification

    if not isinstance(made, ImageClassification):
        return None
    sizes = [s[0] if len(s) == 1 else tuple(s) for s in (made.resize_size, made.crop_size)]
    crop = sizes[1] if isinstance(sizes[1], tuple) else (sizes[1], sizes[1])
    interpolation = str(made.interpolation.value)
    return Preprocess(
        (Resize(sizes[0], interpolation), CenterCrop(crop)),
        tuple(float(v) for v in made.mean),
        tuple(float(v) for v in made.std),
    )


def _of_callable(function: Any, version: str | None) -> Preprocess:
    if not callable(function):
        raise InputError(f"{_WHAT}: expected a text or a function of a PIL image, found {type(function).__name__}")
    known = _preset(function)
    if known is not None:
        return known
    named = function_text(function, f"the {_WHAT}", callable_name(function), version)
    return Preprocess(function=function, named=named)
