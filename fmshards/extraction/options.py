"""What an extraction can be told: one frozen set of plain values, checked, as JSON too.

The command line, the function, and whatever starts extractions elsewhere fill in the same `Options`.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from fmshards.augment import Recipe, parse_mirror
from fmshards.calibration import parse_sensitive
from fmshards.codec import FILTERS, Rate, codec_name
from fmshards.errors import FormatError, InputError
from fmshards.extraction.forward import PRECISIONS
from fmshards.extraction.sources import ORIENTATIONS
from fmshards.model import Preprocess
from fmshards.shards import check_name

AUTO = "auto"
"""In place of a rate: the smallest that keeps the network's answers on a sample, chosen when the set is begun."""
ORDERS = ("auto", "none")
"""Whether channels are stored in an order chosen on the calibration sample, where that pays."""

_LEAST = {"views": 0, "calibration": 1, "batch": 1, "workers": 0, "chunk": 1, "shard_size": 1, "seed": -(1 << 63)}
_CHOICES = {"precision": tuple(PRECISIONS), "order": ORDERS, "filter": FILTERS, "orientation": ORIENTATIONS}


@dataclass(frozen=True)
class Options:
    """The options of `extract`, which says what each means. All but the source, the output and the model.

    Values are plain and JSON holds them (`to_json`), with one exception: a function given as `preprocess` or `recipe`.
    None stands for what is decided later: by the set that is there, the device or the source; a mirror is stored. `of`
    takes what is natural: a dict or texts of layers, paths, a Mirror, a torch.device, any sequence of names; it is
    plain afterwards. Raises InputError that names the option.
    """

    layers: Mapping[str, Rate]
    weights: str | None = None
    preprocess: Any = None
    recipe: Any = None
    version: str | None = None
    mirror: str | None = None
    views: int = 0
    sensitive: str | None = None
    calibration: int | None = None
    batch: int | None = None
    device: str | None = None
    precision: str = "float32"
    workers: int = 0
    chunk: int | None = None
    filter: str | None = None
    shard_size: int | None = None
    image_field: str | None = None
    orientation: str | None = None
    classes: str | tuple[str, ...] | None = None
    fields: tuple[str, ...] | None = None
    drop_fields: tuple[str, ...] = ()
    order: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        plain = {
            "layers": layer_rates(self.layers),
            "weights": _path("weights", self.weights),
            "preprocess": self.preprocess if _function(self.preprocess) else _text("preprocess", self.preprocess),
            "recipe": self.recipe if _function(self.recipe) else _text("recipe", _none_if_empty(self.recipe)),
            "version": _text("version", self.version),
            "mirror": str(parse_mirror(self.mirror)),
            "sensitive": None if self.sensitive is None else str(parse_sensitive(self.sensitive)),
            "device": str(self.device) if isinstance(self.device, torch.device) else _text("device", self.device),
            "image_field": _text("image_field", self.image_field),
            "classes": _path("classes", self.classes) if _textual(self.classes) else _names("classes", self.classes),
            "fields": _names("fields", self.fields),
            "drop_fields": _names("drop_fields", self.drop_fields) or (),
            **{name: _whole(name, getattr(self, name), least) for name, least in _LEAST.items()},
        }
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is None and DEFAULTS[name] is None:
                continue
            if not isinstance(value, str) or value not in choices:
                none = ", or none" if DEFAULTS[name] is None else ""
                raise InputError(f"{name} is {value!r}; expected one of {', '.join(choices)}{none}")
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        if self.fields is not None and self.drop_fields:
            raise InputError("fields and drop_fields are both given: fields names all that are kept, leave one out")

    @staticmethod
    def of(**given: Any) -> Options:
        """Options from values of any type: they are checked and made plain here, so no caller's type matters."""
        return Options(**given)

    def to_json(self) -> dict[str, Any]:
        """The options as JSON holds them. Raises InputError where a function is among them."""
        found = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if _function(value):
                raise InputError(f"{field.name} is a function, which no text can hold: write it as text")
            found[field.name] = list(value) if isinstance(value, tuple) else value
        found["layers"] = dict(self.layers)
        return found

    @staticmethod
    def from_json(value: Any) -> Options:
        """Read `to_json`'s output; what is left out has its default. Raises InputError."""
        known = {field.name for field in fields(Options)}
        if not isinstance(value, Mapping) or "layers" not in value or not set(value) <= known:
            odd = sorted(map(str, set(value) - known)) if isinstance(value, Mapping) else [type(value).__name__]
            raise InputError(
                f"options are an object with layers and any of {', '.join(sorted(known - {'layers'}))}; found "
                f"{', '.join(odd) or 'no layers'}"
            )
        return Options.of(**value)


def layer_rates(given: Any) -> dict[str, Rate]:
    """What names layers and rates, as a dict: a mapping name -> rate, a text `NAME:RATE`, or a list of such texts.

    A rate is one of a codec's, or AUTO.

    Raises InputError that names the argument, FormatError for a name that no set can hold.
    """
    if isinstance(given, Mapping):
        layers = dict(given)
    elif isinstance(given, str) or (isinstance(given, Iterable) and not isinstance(given, (bytes, torch.Tensor))):
        layers = _parsed([given] if isinstance(given, str) else list(given))
    else:
        raise InputError(f"layers is {given!r}; {_LAYERS}"[:300])
    if not layers:
        raise InputError(f"layers: no layer is given; {_LAYERS}")
    for name, rate in layers.items():
        try:
            check_name(name, "layers: the layer's name")
        except FormatError as error:
            raise InputError(str(error)) from None
        if isinstance(rate, bool) or not isinstance(rate, (str, int, float)):
            raise InputError(f"layers: the rate of {name!r} is {rate!r}; expected bits a value or text such as 'fp16'")
        if rate != AUTO:
            codec_name(rate)
    return layers


_LAYERS = "expected {'layer2': 4}, 'layer2:4', or a list of such texts"


def _parsed(texts: Sequence[Any]) -> dict[str, Rate]:
    layers: dict[str, Rate] = {}
    for text in texts:
        name, colon, rate = text.rpartition(":") if isinstance(text, str) else ("", "", "")
        if not colon or not name or not rate:
            raise InputError(
                f"layers: the layer {text!r} reads wrong; expected NAME:RATE, such as layer2:4 or layer2:fp16"
            )
        if name in layers:
            raise InputError(f"layers: the layer {name!r} is given twice")
        layers[name] = rate
    return layers


def _function(value: Any) -> bool:
    """What stays the object that it is: a function, or what was parsed from one."""
    return callable(value) or (isinstance(value, Preprocess) and value.function is not None) or _custom(value)


def _custom(value: Any) -> bool:
    return isinstance(value, Recipe) and value.custom_text is not None


def _none_if_empty(value: Any) -> Any:
    return None if isinstance(value, str) and not value else value


def _textual(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _text(name: str, value: Any) -> str | None:
    if isinstance(value, Preprocess):
        return value.text
    if isinstance(value, Recipe):
        return str(value)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        kind = "text or a function" if name in ("preprocess", "recipe") else "text"
        raise InputError(f"{name} is {value!r}; expected {kind}"[:300])
    return value


def _path(name: str, value: Any) -> str | None:
    return _text(name, os.fspath(value) if isinstance(value, os.PathLike) else value)


def _names(name: str, value: Any) -> tuple[str, ...] | None:
    """A list of names; of fields also as the command line writes them, with commas between."""
    if value is None:
        return None
    items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) and item for item in items):
        raise InputError(f"{name} is {value!r}; expected a list of names"[:300])
    if len(set(items)) != len(items):
        raise InputError(f"{name} has a name twice: {', '.join(items)}"[:300])
    return tuple(items)


def _whole(name: str, value: Any, least: int) -> int | None:
    if value is None and DEFAULTS[name] is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or not least <= number < 1 << 63:
        raise InputError(
            f"{name} is {value!r}; expected a whole number{'' if least < 0 else f', {least} or more'}"[:300]
        )
    return number


DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Options)}
"""What an option is where it is not given."""
