"""Encoded bytes to an RGB image, whole or not at all."""

from __future__ import annotations

import io

from PIL import Image

from fmshards.errors import InputError


def decode_image(data: bytes) -> Image.Image:
    """Encoded bytes -> RGB image. Raises InputError for what PIL cannot read to its last pixel."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error ... for bad data
        raise InputError(f"the image ({len(data)} bytes) cannot be decoded: {_describe(error)}") from None
    return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` as RGB. Raises InputError for modes of more than 8 bits, which PIL would clip without a word."""
    if image.mode.startswith(("I", "F")):
        raise InputError(f"the image has mode {image.mode!r} (more than 8 bits a channel); convert it to 8 bits first")
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except (OSError, ValueError) as error:
        raise InputError(f"the image cannot be decoded: {_describe(error)}") from None


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")
