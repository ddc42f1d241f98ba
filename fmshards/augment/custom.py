"""A recipe that is a transform of the user's: seeded for each stored view, run on the decoded original."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from fmshards.augment.random import hash64
from fmshards.augment.recipe import Recipe
from fmshards.errors import InputError

if TYPE_CHECKING:
    from fmshards.model import Preprocess

_LOCK = threading.Lock()  # the generators that transforms draw from belong to the process


def custom_view(
    image: Image.Image, preprocess: Preprocess, recipe: Recipe, identity: tuple[int, str, str, int]
) -> torch.Tensor:
    """One stored view of the recipe's transform: float32[3, H, W], preprocessed.

    identity: (seed, input shard, key, view). torch's, numpy's and Python's global generators are seeded from it and put
    back afterwards, so a view depends on nothing else. The transform gets an RGB image and gives an image or a
    uint8[3, h, w] tensor. Raises InputError where the recipe has no transform at hand or it gives something else.
    """
    if recipe.custom is None:
        raise InputError(f"recipe {str(recipe)!r} is known by its text alone: pass the transform itself")
    number = hash64("custom", *identity)
    with _LOCK, torch.random.fork_rng(devices=[]):
        python, legacy = random.getstate(), np.random.get_state()
        torch.manual_seed(number & (2**63 - 1))
        random.seed(number)
        np.random.seed(number & 0xFFFFFFFF)
        try:
            moved = recipe.custom(image.convert("RGB"))
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
    base: torch.Tensor = preprocess.base(_image(moved, recipe))
    return base


def _image(moved: object, recipe: Recipe) -> Image.Image:
    if isinstance(moved, Image.Image):
        return moved
    if isinstance(moved, torch.Tensor) and moved.dtype == torch.uint8 and moved.ndim == 3 and len(moved) == 3:
        return Image.fromarray(moved.permute(1, 2, 0).cpu().contiguous().numpy())
    what = f"{moved.dtype}{list(moved.shape)}" if isinstance(moved, torch.Tensor) else type(moved).__name__
    raise InputError(
        f"recipe {str(recipe)!r}: expected an image or uint8[3, h, w] before normalisation, found {what}; "
        "normalisation belongs to the preprocessing"
    )
