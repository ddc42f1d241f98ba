"""What an image goes through before the model: resize, crop, to float, normalise.

Every term is torchvision's own functional of transforms v2 on a PIL image, so results equal it to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as V

from fmshards.errors import InputError
from fmshards.functions import callable_name
from fmshards.model.image import to_rgb

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RESAMPLE = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Resize:
    """To a shorter side of `size` pixels, or to (height, width)."""

    size: int | tuple[int, int]
    interpolation: str = "bilinear"

    def __str__(self) -> str:
        more = "" if self.interpolation == "bilinear" else f", interpolation={self.interpolation}"
        return f"resize({self.size}{more})"


@dataclass(frozen=True)
class CenterCrop:
    """The middle (height, width); a smaller image is padded with black."""

    size: tuple[int, int]

    def __str__(self) -> str:
        return f"center_crop({self.size[0] if self.size[0] == self.size[1] else self.size})"


@dataclass(frozen=True)
class Preprocess:
    """From a PIL image to the tensor that the prefix takes.

    terms: what happens to the image, in order. mean, std: of each channel, for values in [0, 1]; None: as they are.
    function: instead of all these, a function of the user's; it has no geometry, and theta cannot be rendered
    through it. named: how the function stands in a set's identity (fmshards.functions). text: how it is written; the
    same text always means the same preprocessing.
    """

    terms: tuple[Resize | CenterCrop, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    function: Callable[[Image.Image], torch.Tensor] | None = None
    named: str | None = None

    @property
    def text(self) -> str:
        if self.function is not None:
            return self.named or callable_name(self.function)
        parts = [str(term) for term in self.terms]
        if self.mean is not None:
            same = (self.mean, self.std) == IMAGENET
            parts.append("normalize(imagenet)" if same else f"normalize(mean={self.mean}, std={self.std})")
        return "+".join(parts) or "none"

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of every base image; None where it follows from the image."""
        if not self.terms or not isinstance(self.terms[-1].size, tuple):
            return None
        return self.terms[-1].size

    @property
    def resample(self) -> Image.Resampling:
        """PIL's filter of the (last) resize; bilinear where there is none."""
        found = [term.interpolation for term in self.terms if isinstance(term, Resize)]
        return RESAMPLE[found[-1] if found else "bilinear"]

    @property
    def blank(self) -> torch.Tensor:
        """The black image, preprocessed: float32 [3, H, W]; [3, 1, 1], to be expanded, where `size` is None."""
        height, width = self.size or (1, 1)
        if self.function is not None:
            return self.base(Image.new("RGB", (256, 256)))
        return self.normalize(torch.zeros(3, height, width))

    def base(self, image: Image.Image) -> torch.Tensor:
        """The base image, float32 [3, H, W]. Any mode of image is taken as RGB. Raises InputError."""
        image = to_rgb(image)
        if self.function is not None:
            return _checked(self.function(image), self.text)
        for term in self.terms:
            if isinstance(term, Resize):
                size = [term.size] if isinstance(term.size, int) else list(term.size)
                image = V.resize(image, size, interpolation=RESAMPLE[term.interpolation], antialias=True)
            else:
                image = V.center_crop(image, list(term.size))
        return self.tensor(image)

    def tensor(self, image: Image.Image | np.ndarray[Any, Any] | torch.Tensor) -> torch.Tensor:
        """An image of the base size as the normalised tensor: PIL, uint8 array [H, W, 3] or uint8 tensor [3, H, W]."""
        if isinstance(image, Image.Image):
            x: torch.Tensor = V.pil_to_tensor(to_rgb(image))
        else:
            x = image if isinstance(image, torch.Tensor) else torch.from_numpy(image.copy()).permute(2, 0, 1)
        if x.dtype is not torch.uint8 or x.ndim != 3 or len(x) != 3:
            raise InputError(f"expected an RGB image of uint8, found {x.dtype} {tuple(x.shape)}")
        return self.normalize(V.to_dtype(x.contiguous(), torch.float32, scale=True))

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [..., 3, H, W] with values in [0, 1] -> normalised."""
        if self.function is not None:
            raise InputError(f"the preprocessing {self.text} is a function: it cannot be taken apart")
        if self.mean is None or self.std is None:
            return x
        made: torch.Tensor = V.normalize(x, list(self.mean), list(self.std))
        return made

    def geometry(self, image_size: tuple[int, int]) -> tuple[Box, tuple[int, int]] | None:
        """What of an image of (width, height) the base image shows, and the base image's (height, width).

        The box (left, top, right, bottom) is in pixels of the original, as of its edges: (0, 0, width, height) is
        all of it. It reaches beyond, into the negative too, where the crop pads. None: the preprocessing is a function.
        """
        if self.function is not None:
            return None
        width, height = image_size
        left, top, right, bottom = 0.0, 0.0, float(width), float(height)
        for term in self.terms:
            x, y = (right - left) / width, (bottom - top) / height
            if isinstance(term, Resize):
                height, width = _resized(term.size, height, width)
            else:
                first, above = _cropped(term.size[1], width), _cropped(term.size[0], height)
                height, width = term.size
                left, top = left + first * x, top + above * y
                right, bottom = left + width * x, top + height * y
        return (left, top, right, bottom), (height, width)


def _checked(x: Any, text: str) -> torch.Tensor:
    if not isinstance(x, torch.Tensor) or x.ndim != 3 or not x.is_floating_point():
        found = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise InputError(f"the preprocessing {text} must give a float tensor [channels, H, W], found {found}")
    return x.to(torch.float32)


def _resized(size: int | tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """torchvision's rule: the longer side is cut off to whole pixels."""
    if isinstance(size, tuple):
        return size
    if width <= height:
        return int(size * height / width), size
    return size, int(size * width / height)


def _cropped(size: int, side: int) -> int:
    """The first pixel of a centred crop, negative where it pads: torchvision's rule."""
    if size > side:
        return -((size - side) // 2)
    return round((side - size) / 2.0)
