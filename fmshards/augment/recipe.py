"""Recipes: what happens to an image at each look, as text, as JSON and as plain data.

    flip(p=0.5)                        left and right exchanged
    crop(pad=4, step=2)                shifted by whole pixels, blank outside: torchvision's RandomCrop(padding=pad)
    resized_crop(scale=(a, b), ratio=(a, b))   a box of the base image, enlarged: torchvision's RandomResizedCrop

A crop without a step is *open*: how far cells lie apart decides it, where layers are known (followed.py). Terms are
joined by `+`, in the order in which they are applied. A recipe can also be any callable on images (a torchvision v2
transform); it is then `custom`, and only whole stored views can hold what it does.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fmshards.errors import FormatError, InputError
from fmshards.functions import function_text
from fmshards.terms import Term, parse_terms


@dataclass(frozen=True)
class Flip:
    """Exchange left and right with probability `p`, in (0, 1]."""

    p: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", _number(self.p, "flip's p"))
        if not 0 < self.p <= 1:
            raise InputError(f"flip's p must be above 0 and at most 1, found {self.p}")


@dataclass(frozen=True)
class Crop:
    """Shift each axis by whole pixels, drawn evenly from the multiples of `step` in -pad..pad.

    step None: open, the layers' own, whole cells of each; nothing can be drawn before it is settled.
    """

    pad: int
    step: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("pad", 0), ("step", 1)):
            value = getattr(self, name)
            if name == "step" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 1 << 16:
                raise InputError(f"crop's {name} must be a whole number of pixels, {least} or more, found {value!r}")
        if self.pad and self.step is not None and self.step > self.pad:
            raise InputError(f"crop's step of {self.step} is larger than its pad of {self.pad}: it would never shift")


@dataclass(frozen=True)
class ResizedCrop:
    """A box with this part of the base image's area and this ratio of width to height, enlarged to the whole."""

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)

    def __post_init__(self) -> None:
        for name in ("scale", "ratio"):
            object.__setattr__(self, name, _pair(getattr(self, name), f"resized_crop's {name}"))
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"resized_crop's scale must satisfy 0 < low <= high <= 1, found {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise InputError(f"resized_crop's ratio must satisfy 0 < low <= high, found {self.ratio}")


RecipeTerm = Flip | Crop | ResizedCrop
_TERMS: dict[str, type[RecipeTerm]] = {"flip": Flip, "crop": Crop, "resized_crop": ResizedCrop}
_NAMES = {cls: name for name, cls in _TERMS.items()}


@dataclass(frozen=True)
class Recipe:
    """The terms in their order; or a `custom` transform, known in JSON by its `custom_text` alone: text and digest."""

    terms: tuple[RecipeTerm, ...] = ()
    custom_text: str | None = None
    custom: Callable[[Any], Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if sum(isinstance(s, Flip) for s in self.terms) > 1:
            raise InputError(f"recipe {str(self)!r}: at most one flip, found several")
        if sum(isinstance(s, (Crop, ResizedCrop)) for s in self.terms) > 1:
            raise InputError(f"recipe {str(self)!r}: at most one crop or resized_crop, found several")

    @property
    def flips(self) -> bool:
        """Whether the recipe exchanges left and right (a custom transform: unknown, so False)."""
        return any(isinstance(s, Flip) for s in self.terms)

    @property
    def moves(self) -> bool:
        """Whether it moves the image beside flipping it, so that a feature without places cannot follow."""
        return any(isinstance(s, ResizedCrop) or (isinstance(s, Crop) and s.pad > 0) for s in self.terms)

    @property
    def open(self) -> bool:
        """Whether it has a crop whose step is not settled."""
        return any(isinstance(s, Crop) and s.step is None for s in self.terms)

    def with_step(self, step: int | None) -> Recipe:
        """The same with crops of this step, or open ones. Raises InputError where the step is more than the pad."""
        return replace(self, terms=tuple(replace(s, step=step) if isinstance(s, Crop) else s for s in self.terms))

    def __bool__(self) -> bool:
        return bool(self.terms) or self.custom_text is not None

    def __str__(self) -> str:
        """The canonical text, which `parse_recipe` reads back; `none` for no terms, `custom(...)` for a transform."""
        if self.custom_text is not None:
            return f"custom({self.custom_text})"
        return "+".join(str(Term(_NAMES[type(s)], (), _given(s))) for s in self.terms) or "none"

    def to_json(self) -> dict[str, Any]:
        """`{"steps": [{"name": ..., parameters}]}` or `{"custom": text}`. An open crop has no step there."""
        if self.custom_text is not None:
            return {"custom": self.custom_text}
        return {"steps": [{"name": _NAMES[type(s)], **_lists(_given(s))} for s in self.terms]}

    @staticmethod
    def from_json(data: Any) -> Recipe:
        """Read what `to_json` gives of a settled recipe. Raises FormatError for anything else."""
        if isinstance(data, dict) and set(data) == {"custom"} and isinstance(data["custom"], str):
            return Recipe(custom_text=data["custom"])
        if not (isinstance(data, dict) and set(data) == {"steps"} and isinstance(data["steps"], list)):
            raise FormatError(f"recipe: expected {{'steps': [...]}} or {{'custom': text}}, found {str(data)[:200]!r}")
        try:
            recipe = Recipe(tuple(_term_from_json(s) for s in data["steps"]))
        except InputError as error:
            raise FormatError(f"recipe: {error}") from None
        if recipe.open:
            raise FormatError(f"recipe: its crop has no step, found {str(data)[:200]!r}")
        return recipe


def parse_recipe(recipe: str | Recipe | Callable[[Any], Any] | None, version: str | None = None) -> Recipe:
    """A recipe from its text, from an image transform, or from nothing (`None`, `""`, `none`: no augmentation).

    A transform is known by its text and a digest of what it is, or by the `version` that the user gives it.

    Raises InputError for an unknown term (with the nearest names), a value out of range, a repeated term, and a
    transform of which no digest can be made.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe is None or (isinstance(recipe, str) and recipe.strip() in ("", "none")):
        return Recipe()
    if isinstance(recipe, str):
        return Recipe(tuple(_made(t, recipe) for t in parse_terms(recipe, "recipe")))
    if callable(recipe):
        # A function's repr holds its address, which differs from run to run.
        name = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(recipe))
        return Recipe(custom_text=function_text(recipe, "the recipe", name, version), custom=recipe)
    raise InputError(f"recipe must be text, a Recipe or a transform of images, found {type(recipe).__name__}")


def _made(term: Term, text: str) -> RecipeTerm:
    cls = _TERMS.get(term.name)
    if cls is None:
        near = difflib.get_close_matches(term.name, _TERMS, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"recipe {text!r}: no term {term.name!r}; {hint}known: {', '.join(_TERMS)}")
    names = list(cls.__dataclass_fields__)
    unknown = [k for k in term.kwargs if k not in names]
    if unknown or len(term.args) > len(names) or set(term.kwargs) & set(names[: len(term.args)]):
        raise InputError(f"recipe {text!r}: {term.name} takes ({', '.join(names)}), found {term}")
    values = dict(zip(names, term.args, strict=False)) | term.kwargs
    if cls is Crop and "pad" not in values:
        raise InputError(f"recipe {text!r}: crop needs its pad, such as crop(pad=4)")
    return cls(**values)


def _term_from_json(data: Any) -> RecipeTerm:
    if not (isinstance(data, dict) and isinstance(data.get("name"), str)):
        raise InputError(f"expected a term with a name, found {str(data)[:200]!r}")
    values = {k: v for k, v in data.items() if k != "name"}
    return _made(Term(data["name"], (), values), str(data)[:200])


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{what} must be a number, found {value!r}")
    return float(value)


def _pair(value: Any, what: str) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise InputError(f"{what} must be two numbers (low, high), found {value!r}")
    return _number(value[0], what), _number(value[1], what)


def _given(term: RecipeTerm) -> dict[str, Any]:
    """A term's parameters, those that are open left out."""
    return {name: value for name, value in asdict(term).items() if value is not None}


def _lists(values: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
