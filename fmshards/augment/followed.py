"""Which moves features follow: a crop's step, where a recipe leaves it open, and what had better not be asked of them.

A feature moved by whole cells is a copy, and near to the feature of the moved image. Between cells it is an average of
neighbours, and enlarged it is blurred, which the network has not seen: on some networks that is worse than the feature
left where it is (tools/check_moves.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

from fmshards.augment.recipe import Crop, Recipe, ResizedCrop
from fmshards.errors import InputError
from fmshards.units import count_text

Strides = Mapping[str, tuple[float, float]]
"""By layer, how far its cells lie apart in the base image, in pixels (y, x); layers without places left out."""

_OFF = 0.1  # of a cell: nearer than this to whole cells, a move is one of them; an eighth is measurably none


def whole_cells(strides: Strides) -> int:
    """The least number of pixels that moves each layer by whole cells, 1 where no layer has places.

    That is the least common multiple of the strides, the largest of them where each divides the next; a stride that is
    no whole number of pixels counts as the nearest one.
    """
    return math.lcm(*(max(1, round(side)) for side in chain(*strides.values())))


def settle_step(recipe: Recipe, strides: Strides) -> Recipe:
    """The recipe with the step of an open crop: whole cells of each layer, or 1 where the pad is 0.

    Raises InputError where the step is more than the crop's pad, so that nothing would ever move.
    """
    for term in recipe.terms:
        if isinstance(term, Crop) and recipe.open:
            step = whole_cells(strides) if term.pad else 1
            if step > max(term.pad, 1):
                far = ", ".join(f"{name} by {_pixels(stride)}" for name, stride in strides.items())
                raise InputError(
                    f"recipe {str(recipe)!r}: cells lie apart, in {far} pixels, so that {step} pixels are the least "
                    f"move by whole cells, more than the crop's pad of {term.pad}: write crop(pad={step}), or a step "
                    f"of your own, such as crop(pad={term.pad}, step={term.pad}), which moves between cells"
                )
            return recipe.with_step(step)
    return recipe


def poor_moves(recipe: Recipe, strides: Strides) -> list[str]:
    """What of a settled recipe's moves features of these layers follow badly: for each a line that says what to write
    instead; [] where there is none. Views are no matter of this: they are images that were moved."""
    lines = []
    for term in recipe.terms:
        if isinstance(term, Crop) and term.step is not None and term.step != whole_cells(strides):
            between = [name for name, stride in strides.items() if _between(term, stride)]
            if between:
                apart = " and ".join(dict.fromkeys(_pixels(strides[name]) for name in between))
                whole = replace(term, pad=max(term.pad, whole_cells(strides)), step=None)
                better = replace(recipe, terms=tuple(whole if other is term else other for other in recipe.terms))
                steps = f"steps of {count_text(term.step, 'pixel')}"
                lines.append(
                    f"{recipe}: {steps} move {', '.join(between)} by parts of a cell ({apart} pixels), which can be "
                    f"worse than not moving; recipe={str(better)!r} moves by whole cells"
                )
        elif isinstance(term, ResizedCrop) and term.scale[0] < 1 and strides:
            lines.append(
                f"{recipe}: features of {', '.join(strides)} are enlarged by up to {term.scale[0] ** -0.5:.2g} times, "
                "which can be worse than leaving them as they are; move them by whole cells with crop(pad=...), or "
                "extract whole views of this recipe (views=4, sensitive=1.0)"
            )
    return lines


def _between(term: Crop, strides: tuple[float, float]) -> bool:
    """Whether a shift ends between cells."""
    assert term.step is not None
    shifts = range(term.step, term.pad + 1, term.step)
    return any(abs(shift / side - round(shift / side)) > _OFF for shift in shifts for side in strides)


def _pixels(stride: tuple[float, float]) -> str:
    return " x ".join(f"{side:.4g}" for side in dict.fromkeys(stride))
