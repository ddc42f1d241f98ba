"""What recipes a set can serve: that it was extracted with one binds nobody, what it stores does.

Crops and boxes are drawn afresh and applied to the stored feature, so any set whose features have places serves them.
A flip needs a mirror, stored or mapped. Views show what their own recipe drew, and serve no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from fmshards.augment import (
    Crop,
    Flip,
    Mirror,
    Recipe,
    RecipeTerm,
    ResizedCrop,
    Strides,
    check_drawable,
    parse_recipe,
    settle_step,
    whole_cells,
)
from fmshards.errors import InputError
from fmshards.shards import LayerPlan, Plan
from fmshards.units import count_text

Given = str | Recipe | Callable[[Image.Image], Any] | None
"""A recipe as training is given one; None stands for the set's own."""


def given_recipe(plan: Plan, layers: Sequence[LayerPlan], given: Given, where: str) -> Recipe | None:
    """The recipe that training is to take in place of the set's own, its step settled for `layers`; None: the own one.

    Raises InputError for what is no recipe, and where the set cannot serve it, saying what to do.
    """
    if given is None:
        return None
    own, recipe = Recipe.from_json(plan.recipe), settle_step(parse_recipe(given), strides_of(plan, layers))
    if recipe == own:
        return None
    if recipe.custom_text is not None:
        raise InputError(
            f"{where}: no stored feature can follow the recipe {recipe}, a transform of images: extract with it, as "
            "whole views (views=4, sensitive=1.0)"
        )
    for term in recipe.terms:
        reason = refusal(plan, layers, term)
        if reason is not None:
            raise InputError(f"{where}: the set cannot serve recipe={str(recipe)!r}: {reason}")
    check_drawable(recipe, plan.base_size, references_of(plan, recipe))
    return recipe


def references_of(plan: Plan, recipe: Recipe) -> tuple[str, ...]:
    """What training with this recipe starts from: the mirror too where the recipe flips and there is one."""
    return plan.references if recipe.flips else plan.references[:1]


def strides_of(plan: Plan, layers: Sequence[LayerPlan]) -> Strides:
    """By layer, how far its cells lie apart in pixels (y, x), of layers with places; as FORMAT.md has it where it was
    not measured."""
    found = {}
    for layer in layers:
        if layer.grid is not None:
            found[layer.name] = layer.grid.stride
        elif layer.spec.spatial is not None:
            (h, w), (rows, columns) = plan.base_size, layer.spec.spatial
            found[layer.name] = (h / rows, w / columns)
    return found


def refusal(plan: Plan, layers: Sequence[LayerPlan], term: RecipeTerm) -> str | None:
    """Why the set cannot serve this term of a recipe that is not its own, and what to do; None where it can."""
    if isinstance(term, Flip):
        if plan.mirrored:
            return None
        # A plan without a mirror is that of a recipe that does not flip, or flips the features themselves.
        if not Recipe.from_json(plan.recipe).flips:
            return (
                "it keeps no mirror, the flipped images' features: extract with a flip in the recipe, its mirror "
                "stored or mapped (--recipe flip --mirror mapped)"
            )
    elif isinstance(term, Crop) and not term.pad:
        return None
    for layer in layers:
        if layer.spec.spatial is None:
            return (
                f"layer {layer.name} has no places to move: leave it out (layers=...), or extract whole views of this "
                "recipe (views=4, sensitive=1.0)"
            )
        if layer.grid is None or plan.calibration is None:
            return (
                f"where the cells of layer {layer.name} lie was not measured, as no version before did for recipes "
                "that move nothing: extract again"
            )
    return None


def serves(plan: Plan) -> dict[str, dict[str, str]]:
    """What recipes the set of this plan can serve whatever its own is, views left aside: `{"serves": {term: how},
    "refuses": {term: why, and what to do}}`, of `none` and the terms of recipes."""
    layers = plan.layers
    step = count_text(whole_cells(strides_of(plan, layers)), "pixel")
    ways = {
        "none": "the features as they are",
        "flip": f"the mirror {Mirror.from_json(plan.mirror)}" if plan.mirrored else "the feature itself flipped",
        "crop": f"by default in steps of {step}, whole cells of every layer",
        "resized_crop": "the feature itself enlarged, which is seldom better than leaving it as it is",
    }
    terms: dict[str, RecipeTerm] = {"flip": Flip(), "crop": Crop(1), "resized_crop": ResizedCrop()}
    reasons = {name: refusal(plan, layers, term) for name, term in terms.items()}
    refuses = {name: reason for name, reason in reasons.items() if reason is not None}
    return {"serves": {name: how for name, how in ways.items() if name not in refuses}, "refuses": refuses}
