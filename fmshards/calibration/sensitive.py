"""Which channels a view stores."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fmshards.calibration.similarity import Comparison
from fmshards.errors import InputError
from fmshards.terms import parse_terms

_FORMS = "a fraction of the channels such as 0.25, threshold(0.9) on the cosine, or a list such as [3, 5, 7]"


@dataclass(frozen=True)
class Sensitive:
    """One of three ways to choose channels; the other two are None."""

    fraction: float | None = None
    threshold: float | None = None
    channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise InputError(f"sensitive: a fraction must be above 0 and at most 1, found {self.fraction}")
        if self.threshold is not None and not -1 < self.threshold <= 1:
            raise InputError(f"sensitive: a threshold on the cosine must be in (-1, 1], found {self.threshold}")
        if self.channels is not None and (not self.channels or len(set(self.channels)) < len(self.channels)):
            raise InputError(f"sensitive: expected different channels, at least one, found {list(self.channels)}")
        if self.channels is not None and min(self.channels) < 0:
            raise InputError(f"sensitive: channels are counted from 0, found {min(self.channels)}")

    def __str__(self) -> str:
        """The canonical text, which `parse_sensitive` reads back."""
        if self.fraction is not None:
            return str(self.fraction)
        return f"threshold({self.threshold})" if self.threshold is not None else str(list(self.channels or ()))

    @property
    def whole(self) -> bool:
        """Whether it is all channels of any layer: views are whole features."""
        return self.fraction == 1

    def choose(self, comparison: Comparison, layer: str) -> tuple[int, ...]:
        """The chosen channels in increasing order.

        A fraction takes those that carry most of the squared error that moving leaves (ties: the lower number). At
        equal bytes that leaves the least error, and in 7 of 8 measured cases with flips at early layers more of a
        trained suffix's accuracy than taking those of least cosine (.760 against .696 at a quarter of ResNet-20's
        layer2; tools/results/check_views.md). A threshold takes those whose cosine is below it.

        Raises InputError where a listed channel does not exist or a threshold chooses nothing.
        """
        count = comparison.spec.channels
        if self.fraction is not None:
            return largest(comparison.gap, self.fraction)
        if self.threshold is not None:
            cosine = comparison.similarity().cosine
            chosen = tuple(c for c, value in enumerate(cosine) if value < self.threshold)
            if not chosen:
                raise InputError(
                    f"sensitive={self}: no channel of {layer} has a cosine below {self.threshold} (the least is "
                    f"{min(cosine):.4f}): raise the threshold, give a fraction, or leave the views out"
                )
            return chosen
        listed = tuple(sorted(self.channels or ()))
        if listed[-1] >= count:
            raise InputError(f"sensitive={self}: {layer} has channels 0 to {count - 1}, there is no {listed[-1]}")
        return listed


def largest(gap: npt.NDArray[np.float64], fraction: float) -> tuple[int, ...]:
    """This share of the channels, at least one, rising: those of the largest `gap` [C] (ties: the lower number)."""
    k = max(1, math.ceil(fraction * len(gap) - 1e-9))
    return tuple(sorted(int(c) for c in np.argsort(-gap, kind="stable")[:k]))


def parse_sensitive(value: str | float | Sequence[int] | Sensitive) -> Sensitive:
    """A choice from `0.25`, `threshold(0.9)` or `[3, 5, 7]`: text, or the number or list itself. Raises InputError."""
    if isinstance(value, Sensitive):
        return value
    if isinstance(value, str):
        return _parse_text(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Sensitive(fraction=float(value))
    if isinstance(value, Sequence):
        channels = [v for v in value if isinstance(v, int) and not isinstance(v, bool)]
        if len(channels) == len(value):
            return Sensitive(channels=tuple(channels))
    raise InputError(f"sensitive: expected {_FORMS}, found {value!r}")


def _parse_text(text: str) -> Sensitive:
    bare = text.strip()
    try:
        return Sensitive(fraction=float(bare))
    except ValueError:
        pass
    if bare.startswith(("[", "(")):
        try:
            return parse_sensitive(list(ast.literal_eval(bare)))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise InputError(f"sensitive {text!r} cannot be read as a list: expected {_FORMS}") from None
    terms = parse_terms(bare, "sensitive") if bare else []
    if len(terms) != 1 or terms[0].name != "threshold":
        raise InputError(f"sensitive {text!r}: expected {_FORMS}")
    values = [*terms[0].args, *terms[0].kwargs.values()]
    if len(values) != 1 or terms[0].kwargs.keys() - {"cosine"} or not _is_number(values[0]):
        raise InputError(f"sensitive {text!r}: threshold takes one number, the cosine below which a channel is stored")
    return Sensitive(threshold=float(values[0]))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
