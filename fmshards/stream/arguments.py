"""What people give for an argument, as this room works on it; else an InputError that names the argument."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from fmshards.augment import Recipe, parse_recipe
from fmshards.errors import InputError
from fmshards.reader import Ledger
from fmshards.units import parse_bytes

_FORMATS = {"contiguous_format": torch.contiguous_format, "channels_last": torch.channels_last}


def whole(name: str, value: Any, least: int | None = None) -> int:
    """A whole number of any kind, numpy's among them, `least` or more."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)) or (least is not None and number < least):
        raise InputError(
            f"{name} is a whole number{'' if least is None else f' from {least} on'}, found {_shown(value)}"
        )
    return number


def whole_or_none(name: str, value: Any, least: int | None = None) -> int | None:
    """As `whole`; None stays."""
    return None if value is None else whole(name, value, least)


def flag(name: str, value: Any) -> bool:
    """True or False, numpy's among them."""
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} is True or False, found {_shown(value)}")
    return bool(value)


def given_to(recipe: Any, augment: bool) -> Recipe | None:
    """A recipe, or None, for what augments. Raises InputError for one that would be left aside."""
    if recipe is not None and not augment:
        raise InputError(
            f"recipe={_shown(recipe)} is given, and nothing is augmented without training and augment: leave it out"
        )
    return None if recipe is None else parse_recipe(recipe)


def memory_bytes(value: Any) -> int:
    """Bytes from a number of any kind ("2e9" among them) or from text such as "2GB"."""
    if isinstance(value, (float, np.integer, np.floating)) and np.isfinite(value) and value >= 1:
        value = int(value)
    return parse_bytes(value)


def ledger_of(on_bad: Any) -> Ledger | None:
    """Where chunks that are bad are written down, for on_bad="skip"; None for "raise"."""
    if not isinstance(on_bad, str) or on_bad not in ("raise", "skip"):
        raise InputError(f'on_bad is "raise" or "skip", found {_shown(on_bad)}')
    if on_bad == "raise":
        return None
    ledger = Ledger()
    ledger.tell_at_end()
    return ledger


def dtype_of(value: Any) -> torch.dtype:
    """A torch dtype, or its name: "bfloat16"."""
    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    if not isinstance(found, torch.dtype):
        raise InputError(f'dtype is one of torch\'s, or its name such as "bfloat16", found {_shown(value)}')
    if not found.is_floating_point:
        raise InputError(f"dtype={found}: features are floating-point")
    return found


def memory_format_of(value: Any) -> torch.memory_format:
    """torch.contiguous_format or torch.channels_last, or its name."""
    found = _FORMATS.get(value.removeprefix("torch.")) if isinstance(value, str) else value
    if found not in tuple(_FORMATS.values()):
        raise InputError(
            f"memory_format={_shown(value)}: expected torch.contiguous_format or torch.channels_last, or its name"
        )
    return found


def field_names(value: Any) -> tuple[str, ...] | None:
    """Names of fields: None for all, a text for one, else a sequence of texts, [] for none."""
    if value is None:
        return None
    names = (value,) if isinstance(value, str) else value
    if isinstance(names, Iterable) and not isinstance(names, (Mapping, bytes)):
        names = tuple(names)
        if all(isinstance(name, str) for name in names):
            return tuple(dict.fromkeys(names))
    raise InputError(f"fields: names of fields, None for all or [] for none, found {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, (str, int, float, list, tuple, bytes)) or value is None:
        text = repr(value)
        return text if len(text) <= 80 else text[:77] + "..."
    return f"a {type(value).__name__}"
