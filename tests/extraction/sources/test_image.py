"""Encoded bytes to an image: which way up it is, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fmshards.errors import InputError
from fmshards.extraction.sources import open_source
from fmshards.extraction.sources.image import decode_image
from fmshards.model.image import to_rgb

from ..conftest import write_tar
from .helpers import items

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 24, 3), dtype=np.uint8)


def photo(orientation: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).convert(mode).save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "P"), ("JPEG", "L"), ("WEBP", "RGB"), ("TIFF", "L")]
)
def test_orientation_is_applied_as_pil_applies_it(orientation: int, kind: str, mode: str) -> None:
    data = photo(orientation, kind, mode)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(np.asarray(decode_image(data, "apply")), np.asarray(wanted))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_orientation_is_ignored_or_refused(kind: str) -> None:
    data = photo(6, kind)
    assert np.array_equal(np.asarray(decode_image(data, "ignore")), np.asarray(Image.open(io.BytesIO(data))))
    with pytest.raises(InputError, match="EXIF orientation is 6"):
        decode_image(data, "refuse")
    assert decode_image(photo(1, kind), "refuse").size == (24, 8)


def test_a_tiff_that_pil_turns_is_refused_too() -> None:
    with pytest.raises(InputError, match="EXIF orientation is 8"):
        decode_image(photo(8, "TIFF"), "refuse")


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0nothing", photo(0)[:60]])
def test_broken_exif_turns_nothing(exif: bytes) -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", exif=exif)
    assert decode_image(file.getvalue(), "apply").size == (24, 8)


def test_every_source_turns_encoded_images(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.png").write_bytes(photo(6))
    tar = write_tar(tmp_path / "a.tar", {"x.png": photo(6)})
    kinds = [tmp_path / "folder", tar, [photo(6)], [{"image": photo(6), "label": 1}]]
    for orientation, size in (("apply", (8, 24)), ("ignore", (24, 8))):
        for kind in kinds:
            source = open_source(kind, orientation=orientation)
            assert source.load(items(source)[0]).image.size == size
            assert source.options().get("orientation", "ignore") == orientation
    with pytest.raises(InputError, match="orientation is 'upright'; expected one of apply, ignore, refuse"):
        open_source(tar, orientation="upright")


def test_a_data_sets_own_image_is_taken_as_it_is() -> None:
    source = open_source([Image.open(io.BytesIO(photo(6)))])
    assert source.load(items(source)[0]).image.size == (24, 8)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "it is empty"), (b"no image", "no image format"), (photo(1)[:-40], "cannot be decoded")],
)
def test_what_is_no_whole_image_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        decode_image(data, "apply")
    assert " at 0x" not in str(caught.value)


def test_one_channel_is_grey() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for image in (Image.fromarray(values), Image.fromarray(values).convert("RGB")):
        grey = to_rgb(image, 1)
        assert grey.mode == "L"
        assert np.array_equal(np.asarray(grey), values)
    with pytest.raises(InputError, match="1 or 3 channels here, not 4"):
        to_rgb(Image.fromarray(values), 4)
