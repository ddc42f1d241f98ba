"""T_theta: the image that the prefix would have to see, rendered from the decoded original once.

What lies outside the base image is blank (black before normalisation), never the original's surroundings, so that
T_theta and S_theta, which only knows the base feature, speak of the same image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from fmshards.augment.theta import Theta

if TYPE_CHECKING:
    from fmshards.model import Preprocess

Box = tuple[float, float, float, float]  # left, top, right, bottom

_SNAP = 1e-3  # pixels of the base image
_FINEST = 4  # samples a side of an output pixel where theta is not along the axes


def render(image: Image.Image, preprocess: Preprocess, theta: npt.ArrayLike | torch.Tensor) -> torch.Tensor:
    """The base image moved by theta [2, 3]: float32[3, H, W], preprocessed.

    Flips and whole-pixel shifts (within a thousandth of a pixel) are slices of `preprocess.base(image)`, so the
    identity is the base image bit for bit. Boxes inside the base image are resized straight from the original with
    the preprocessing's own filter; other maps are averaged from up to 4 x 4 bilinear samples a pixel. Where the
    preprocessing is a function, its geometry is unknown and theta is applied to its output.
    """
    t = np.asarray(theta, dtype=np.float64).reshape(2, 3)
    geometry = preprocess.geometry(image.size)
    if geometry is None:
        base = preprocess.base(image)
        size = (int(base.shape[1]), int(base.shape[2]))
        whole = _whole(t, size)
        if whole is not None:
            return _slice(base, whole, preprocess, image)
        box = (0.0, 0.0, float(size[1]), float(size[0]))
        value, covered = _sample(base, t, size, box)
        return value + (1 - covered) * _blank(preprocess, image, size)
    box, size = geometry
    whole = _whole(t, size)
    if whole is not None:
        return _slice(preprocess.base(image), whole, preprocess, image)
    from fmshards.model.image import to_rgb  # loaded by whoever made `preprocess`; streams do without it

    image, box = _reaching(to_rgb(image), box)
    inside = _inside(t, size)
    if inside is not None:
        resized = image.resize((size[1], size[0]), preprocess.resample, box=_in_original(inside, size, box, image.size))
        out = preprocess.tensor(resized)
        flips = [axis for axis, scale in ((2, t[0, 0]), (1, t[1, 1])) if scale < 0]
        return out.flip(flips) if flips else out
    shrink = max(1, int(_steepness(t, size, box) // _FINEST))
    small = image.reduce(shrink) if shrink > 1 else image
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
    value, _ = _sample(pixels, t, size, (box[0] / shrink, box[1] / shrink, box[2] / shrink, box[3] / shrink))
    return preprocess.normalize(value)


def _reaching(image: Image.Image, box: Box) -> tuple[Image.Image, Box]:
    """The image with black where `box` reaches beyond it, as where a centred crop pads; and the box in it."""
    left, top = math.floor(min(box[0], 0)), math.floor(min(box[1], 0))
    right, bottom = math.ceil(max(box[2], image.width)), math.ceil(max(box[3], image.height))
    if (left, top, right, bottom) == (0, 0, *image.size):
        return image, box
    return image.crop((left, top, right, bottom)), (box[0] - left, box[1] - top, box[2] - left, box[3] - top)


def _pixels(t: Theta, size: tuple[int, int], axis: int) -> tuple[float, float]:
    """Along x (axis 0) or y (1), theta as base pixels: output pixel i shows input pixel a * i + c."""
    n, a = size[1 - axis], float(t[axis, axis])
    return a, (a - 1 + (1 - a + float(t[axis, 2])) * n) / 2


def _whole(t: Theta, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """((a, c) for x, (a, c) for y) where theta only flips and shifts by whole pixels."""
    if t[0, 1] or t[1, 0]:
        return None
    out = []
    for axis in (0, 1):
        a, c = _pixels(t, size, axis)
        sign = 1 if a > 0 else -1
        ends = abs(a - sign) * size[1 - axis]
        if ends > _SNAP or abs(c - round(c)) > _SNAP:
            return None
        out.append((sign, round(c)))
    return out[0], out[1]


def _slice(
    base: torch.Tensor,
    whole: tuple[tuple[int, int], tuple[int, int]],
    preprocess: Preprocess,
    image: Image.Image,
) -> torch.Tensor:
    (ax, cx), (ay, cy) = whole
    height, width = int(base.shape[1]), int(base.shape[2])
    x, y = ax * torch.arange(width) + cx, ay * torch.arange(height) + cy
    to_x, to_y = ((x >= 0) & (x < width)).nonzero()[:, 0], ((y >= 0) & (y < height)).nonzero()[:, 0]
    if len(to_x) == width and len(to_y) == height:
        return base[:, y][:, :, x]
    out = _blank(preprocess, image, (height, width)).clone()
    out[:, to_y[:, None], to_x] = base[:, y[to_y][:, None], x[to_x]]
    return out


def _blank(preprocess: Preprocess, image: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    if preprocess.geometry(image.size) is None:
        blank: torch.Tensor = preprocess.base(Image.new("RGB", image.size))
    else:
        blank = preprocess.normalize(torch.zeros(3, *size))
    return blank


def _inside(t: Theta, size: tuple[int, int]) -> Box | None:
    """The box (left, top, right, bottom) of base pixels that theta shows, if it is along the axes and inside."""
    if t[0, 1] or t[1, 0]:
        return None
    box = []
    for axis in (0, 1):
        n = size[1 - axis]
        ends = [(end * float(t[axis, axis]) + float(t[axis, 2]) + 1) * n / 2 for end in (-1, 1)]
        low, high = min(ends), max(ends)
        if low < -_SNAP or high > n + _SNAP or high - low < _SNAP:
            return None
        box.append((max(low, 0.0), min(high, float(n))))
    return box[0][0], box[1][0], box[0][1], box[1][1]


def _in_original(
    inside: Box,
    size: tuple[int, int],
    box: Box,
    original: tuple[int, int],
) -> Box:
    """Base pixels to original pixels, held inside the original, as PIL demands."""
    sx, sy = (box[2] - box[0]) / size[1], (box[3] - box[1]) / size[0]
    return (
        max(0.0, box[0] + inside[0] * sx),
        max(0.0, box[1] + inside[1] * sy),
        min(float(original[0]), box[0] + inside[2] * sx),
        min(float(original[1]), box[1] + inside[3] * sy),
    )


def _steepness(t: Theta, size: tuple[int, int], box: Box) -> float:
    """Source pixels that one step of an output pixel crosses, along the steeper axis."""
    half = np.array([(box[2] - box[0]) / 2, (box[3] - box[1]) / 2])
    steps = half[:, None] * t[:, :2] * np.array([2 / size[1], 2 / size[0]])
    return float(np.linalg.norm(steps, axis=0).max())


def _sample(source: torch.Tensor, t: Theta, size: tuple[int, int], box: Box) -> tuple[torch.Tensor, torch.Tensor]:
    """source [3, h, w], whose part `box` is the base image, averaged over each output pixel of theta.

    Returns the sum over what is inside the base image [3, H, W] and the part of the pixel that is [1, H, W].
    """
    n = min(max(2, math.ceil(_steepness(t, size, box))), _FINEST)
    height, width = size
    y = (2 * torch.arange(height * n, dtype=torch.float64) + 1) / (height * n) - 1
    x = (2 * torch.arange(width * n, dtype=torch.float64) + 1) / (width * n) - 1
    qx = t[0, 0] * x + t[0, 1] * y[:, None] + t[0, 2]
    qy = t[1, 0] * x + t[1, 1] * y[:, None] + t[1, 2]
    covered = ((qx.abs() <= 1) & (qy.abs() <= 1)).float()[None, None]
    h, w = source.shape[1:]
    px = (box[0] + (qx + 1) / 2 * (box[2] - box[0])) / w * 2 - 1
    py = (box[1] + (qy + 1) / 2 * (box[3] - box[1])) / h * 2 - 1
    grid = torch.stack([px, py], dim=-1).float()[None]
    value = F.grid_sample(source[None], grid, padding_mode="border", align_corners=False) * covered
    return F.avg_pool2d(value, n)[0], F.avg_pool2d(covered, n)[0]
