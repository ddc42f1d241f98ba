"""Drawing thetas: afresh for (seed, epoch, sample), or once for a stored view of (seed, input shard, key, view)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fmshards.augment.mirror import Mirror
from fmshards.augment.random import draw, hash64
from fmshards.augment.recipe import Crop, Flip, Recipe, ResizedCrop
from fmshards.augment.theta import FLIP, Theta, compose, crop_box, translate
from fmshards.errors import InputError

_BLOCKS = 16  # counter blocks reserved for one term of a recipe
_ATTEMPTS = 10  # torchvision's number of tries at a box that fits


def fresh_theta(
    recipe: Recipe,
    seed: int,
    epoch: int,
    samples: npt.ArrayLike,
    mirrored: npt.ArrayLike,
    size: tuple[int, int],
    *,
    references: Sequence[str] = ("base", "mirror"),
) -> npt.NDArray[np.float32]:
    """The whole thetas float32[B, 2, 3] of samples int64[B] (their numbers in the set) for one epoch.

    `mirrored` bool[B] says whose reference is the mirror: there the recipe's flip is in theta, elsewhere it is not.
    Where `references` has no mirror the recipe's flip is drawn for each sample. A sample's theta depends on nothing but
    (seed, epoch, sample, whether it is mirrored): not on the batch, the order or the process.
    """
    ids = np.atleast_1d(np.asarray(samples, dtype=np.int64))
    flips = None if "mirror" not in references else np.broadcast_to(np.asarray(mirrored, bool), ids.shape)
    return _thetas(recipe, hash64("fresh", seed), ids, epoch, flips, size)


def check_drawable(recipe: Recipe, size: tuple[int, int], references: Sequence[str]) -> None:
    """Raise InputError where thetas of this recipe cannot be drawn for base images of `size` (H, W).

    references: what training starts from. A custom recipe has no theta to draw.
    """
    fresh_theta(recipe, 0, 0, [0], [False], size, references=references)


def view_theta(
    recipe: Recipe, mirror: Mirror, seed: int, input_shard: str, keys: Sequence[str], views: int, size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """The whole thetas float32[n, V, 2, 3] of the stored views 1..V of these samples of one input shard.

    A view's reference decides whether it is flipped (`view_reference`); with mirror none the flip is drawn. A custom
    recipe has no theta: identity.
    """
    ids = np.array([hash64(input_shard, key) for key in keys], dtype=np.uint64)
    key = hash64("view", seed)
    out = np.empty((len(ids), views, 2, 3), dtype=np.float32)
    for v in range(1, views + 1):
        decided = recipe.flips and mirror.way != "none"
        flips = np.full(len(ids), view_reference(v, recipe, mirror) == "mirror") if decided else None
        out[:, v - 1] = _thetas(recipe, key, ids, v, flips, size)
    return out


def view_reference(view: int, recipe: Recipe, mirror: Mirror) -> str:
    """The reference of view 1, 2, ...: `mirror` for even ones where the recipe flips and a mirror is kept."""
    return "mirror" if view % 2 == 0 and recipe.flips and mirror.way != "none" else "base"


def _thetas(
    recipe: Recipe,
    key: int,
    stream: npt.NDArray[np.int64] | npt.NDArray[np.uint64],
    index: int,
    flips: npt.NDArray[np.bool_] | None,
    size: tuple[int, int],
) -> npt.NDArray[np.float32]:
    """The terms in the recipe's order; `flips` bool[B] says who is flipped, None draws it."""
    theta = np.broadcast_to(np.eye(2, 3), (len(stream), 2, 3))
    for number, term in enumerate(recipe.terms):
        block = number * _BLOCKS
        if isinstance(term, Flip):
            if flips is not None and term.p != 0.5:
                raise InputError(
                    f"recipe {str(recipe)!r}: base and mirror are drawn evenly, so a flip with p other than 0.5 needs "
                    "mirror=none"
                )
            chosen = draw(key, stream, index, block)[:, 0] < term.p if flips is None else flips
            theta = np.where(chosen[:, None, None], compose(theta, FLIP), theta)
        elif isinstance(term, Crop):
            theta = compose(theta, _shift(term, draw(key, stream, index, block), size))
        else:
            theta = compose(theta, _box(term, key, stream, index, block, size))
    return theta.astype(np.float32)


def _shift(term: Crop, u: npt.NDArray[np.float64], size: tuple[int, int]) -> Theta:
    if term.pad >= min(size):
        raise InputError(f"crop(pad={term.pad}) would shift a base image of {size[0]}x{size[1]} out of sight")
    most = term.pad // term.step
    dx, dy = (term.step * (np.floor(u[:, i] * (2 * most + 1)) - most) for i in (0, 1))
    return translate(dx, dy, size)


def _box(
    term: ResizedCrop,
    key: int,
    stream: npt.NDArray[np.int64] | npt.NDArray[np.uint64],
    index: int,
    block: int,
    size: tuple[int, int],
) -> Theta:
    """torchvision's RandomResizedCrop.get_params with a box in fractions of a pixel: it rounds, this does not.

    Area uniform, ratio log-uniform, up to ten tries at a box that fits; else the largest centred box whose ratio is
    within bounds.
    """
    height, width = size
    low, high = np.log(term.ratio[0]), np.log(term.ratio[1])
    n = len(stream)
    ratio = min(max(width / height, term.ratio[0]), term.ratio[1])
    w = np.full(n, min(width, height * ratio))
    h = np.full(n, min(height, width / ratio))
    left, top = (width - w) / 2, (height - h) / 2
    open_ = np.ones(n, dtype=bool)
    for attempt in range(_ATTEMPTS):
        u = draw(key, stream, index, block + attempt)
        area = height * width * (term.scale[0] + (term.scale[1] - term.scale[0]) * u[:, 0])
        aspect = np.exp(low + (high - low) * u[:, 1])
        tw, th = np.sqrt(area * aspect), np.sqrt(area / aspect)
        # Within rounding of the whole image: scale=(1, 1), ratio=(1, 1) must fit a square.
        fits = open_ & (tw <= width * (1 + 1e-9)) & (th <= height * (1 + 1e-9))
        w, h = np.where(fits, tw, w), np.where(fits, th, h)
        left = np.where(fits, u[:, 2] * np.maximum(width - tw, 0), left)
        top = np.where(fits, u[:, 3] * np.maximum(height - th, 0), top)
        open_ &= ~fits
        if not open_.any():
            break
    return crop_box(left, top, w, h, size)
