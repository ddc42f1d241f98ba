"""Augmentation that survives caching: recipes, thetas, and the same move on images and on features.

recipe.py       what the user asks for, as text, JSON and plain data
mirror.py       where the flipped image's feature comes from, likewise
random.py       counter-based random numbers
theta.py        affine maps of the base image
followed.py     a crop's step where a recipe leaves it open; moves that features follow badly
draws.py        which of them a sample takes in an epoch or a view
features/       a feature moved as its image would move, a view's stored channels put in
mirror_map.py   the flipped image's feature as a linear map of the base's
mirror_parts.py the mirror put together from stored channels and what stands in for the others
render.py       the image itself moved
custom.py       a transform of the user's, on images
"""

from __future__ import annotations

from fmshards.augment.custom import custom_view
from fmshards.augment.draws import check_drawable, fresh_theta, view_reference, view_theta
from fmshards.augment.features import LayerMove, move, replace
from fmshards.augment.followed import Strides, poor_moves, settle_step, whole_cells
from fmshards.augment.mirror import Mirror, parse_mirror
from fmshards.augment.mirror_map import MirrorMap
from fmshards.augment.mirror_parts import MirrorParts, may_look
from fmshards.augment.random import draw, hash64, philox, uniforms
from fmshards.augment.recipe import Crop, Flip, Recipe, RecipeTerm, ResizedCrop, parse_recipe
from fmshards.augment.render import render
from fmshards.augment.theta import FLIP, compose, crop_box, identity_theta, invert, phi_of, translate

__all__ = [
    "FLIP",
    "Crop",
    "Flip",
    "LayerMove",
    "Mirror",
    "MirrorMap",
    "MirrorParts",
    "Recipe",
    "RecipeTerm",
    "ResizedCrop",
    "Strides",
    "check_drawable",
    "compose",
    "crop_box",
    "custom_view",
    "draw",
    "fresh_theta",
    "hash64",
    "identity_theta",
    "invert",
    "may_look",
    "move",
    "parse_mirror",
    "parse_recipe",
    "phi_of",
    "philox",
    "poor_moves",
    "render",
    "replace",
    "settle_step",
    "translate",
    "uniforms",
    "view_reference",
    "view_theta",
    "whole_cells",
]
