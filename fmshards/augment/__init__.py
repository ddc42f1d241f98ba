"""Augmentation that survives caching: recipes, thetas, and the same move on images and on features.

- `recipe`, `mirror`: what the user asks for, as text, JSON and plain data.
- `random`, `theta`, `draws`: counter-based draws of affine maps.
- `s_theta` moves features (`move_cpu`: float32 on a CPU in one pass, on the vectors of `lanes`), `t_theta` renders
  images, `custom` runs a transform of the user's on images.
- `mirror_map`, `fit`: the flipped image's feature as a linear map of the base's.
- `channels`: a view's stored channels into a moved reference.
- `on_device`, `move_kernel`: both in one kernel on CUDA devices.
"""

from __future__ import annotations

from fmshards.augment.custom import custom_view
from fmshards.augment.draws import fresh_theta, view_reference, view_theta
from fmshards.augment.features.channels import replace
from fmshards.augment.features.move import move
from fmshards.augment.mirror import Mirror, parse_mirror
from fmshards.augment.mirror_map import MirrorMap
from fmshards.augment.random import draw, hash64, philox, uniforms
from fmshards.augment.recipe import Crop, Flip, Recipe, ResizedCrop, parse_recipe
from fmshards.augment.render import render
from fmshards.augment.theta import FLIP, compose, crop_box, identity_theta, invert, phi_of, translate

__all__ = [
    "FLIP",
    "Crop",
    "Flip",
    "Mirror",
    "MirrorMap",
    "Recipe",
    "ResizedCrop",
    "compose",
    "crop_box",
    "custom_view",
    "draw",
    "fresh_theta",
    "hash64",
    "identity_theta",
    "invert",
    "move",
    "parse_mirror",
    "parse_recipe",
    "phi_of",
    "philox",
    "render",
    "replace",
    "translate",
    "uniforms",
    "view_reference",
    "view_theta",
]
