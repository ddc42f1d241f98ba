"""Encoded bytes to an RGB image, whole or not at all, the right way up."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

from fmshards.errors import InputError
from fmshards.model.image import to_rgb

ORIENTATIONS = ("apply", "ignore", "refuse")
"""What becomes of an image whose EXIF says that it lies on its side: turned, taken as it lies, or an InputError."""

_TAG = 0x0112
# EXIF 2.32, table 6, as what undoes it. (`ImageOps.exif_transpose` does the same, and stumbles over other tags.)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def check_orientation(orientation: str) -> str:
    """`orientation`, if it is one of ORIENTATIONS. Raises InputError."""
    if orientation not in ORIENTATIONS:
        raise InputError(f"orientation is {orientation!r}; expected one of {', '.join(ORIENTATIONS)}")
    return orientation


def decode_image(data: bytes, orientation: str) -> Image.Image:
    """Encoded bytes -> RGB image, the first where there are several.

    orientation: see ORIENTATIONS. EXIF data that cannot be read, or says nothing of it, turns nothing. (PIL turns a
    TIFF by itself, so that "ignore" is of no effect there.) Raises InputError for what PIL cannot read to its last
    pixel.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        stated = _stated(image) if image.format == "TIFF" else 1
        image.load()
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error ... for bad data
        unknown = "no image format is recognised in it" if data else "it is empty"
        known = not isinstance(error, UnidentifiedImageError)
        reason = f"{type(error).__name__}: {error}".replace("\n", " ") if known else unknown
        raise InputError(f"the image ({len(data)} bytes) cannot be decoded: {reason}") from None
    if orientation == "ignore":
        return to_rgb(image)
    turn = _stated(image)
    if orientation == "refuse" and (turn in _TURNS or stated in _TURNS):
        raise InputError(
            f"the image's EXIF orientation is {turn if turn in _TURNS else stated}: its pixels do not lie as it is to "
            "be seen; turn it and save it anew, or extract with orientation='apply' (as the EXIF says) or 'ignore'"
        )
    # After conversion: not every mode can be turned.
    return to_rgb(image).transpose(_TURNS[turn]) if turn in _TURNS else to_rgb(image)


def _stated(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none. Broken EXIF data has none: viewers show such images as they lie."""
    try:
        found = image.getexif().get(_TAG, 1)
    except Exception:  # PIL raises what its parser runs into
        return 1
    return found if isinstance(found, int) else 1
