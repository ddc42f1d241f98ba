"""An image in the mode that a network takes: the one place where other modes, and more than 8 bits, become that."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from fmshards.errors import InputError

_MODES = {1: "L", 3: "RGB"}


def to_rgb(image: Image.Image, channels: int = 3) -> Image.Image:
    """Any image as RGB, or as grey ("L") where `channels` is 1: grey, palette, CMYK ...; transparency is dropped.

    Of 16 bits a channel the upper 8 are taken, as PIL takes them of a colour PNG: 0 to 65535 becomes 0 to 255. Raises
    InputError for 32-bit integers and floats, whose black and white nobody knows, and for what PIL cannot convert.
    """
    if not isinstance(image, Image.Image):
        raise InputError(f"expected a PIL image, found {type(image).__name__}")
    if channels not in _MODES:
        raise InputError(f"an image has 1 or 3 channels here, not {channels}; give the preprocessing as a function")
    try:
        # Pillow before 11 opens a PNG of 16 bits in mode I.
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
            image = Image.fromarray(upper_bits(np.asarray(image).astype(np.uint16)))
        elif image.mode.startswith(("I", "F")):
            raise InputError(
                f"the image has mode {image.mode!r} (32 bits a channel, of no known range); expected 8 or 16 bits: "
                "convert it to 8 bits first"
            )
        elif image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # PIL warns of each such image otherwise
        return image if image.mode == _MODES[channels] else image.convert(_MODES[channels])
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise InputError(f"the image of mode {image.mode!r} cannot be converted: {reason}") from None


def upper_bits(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint16 -> uint8, of any shape: the upper 8 bits."""
    return (pixels >> 8).astype(np.uint8)
