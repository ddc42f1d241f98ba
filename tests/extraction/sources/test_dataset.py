"""Data sets from Python: forms of samples and images."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fmshards.errors import InputError
from fmshards.extraction.sources import DatasetSource, open_source
from fmshards.extraction.sources.dataset import to_image

from ..conftest import png
from .helpers import items


def test_dataset_forms() -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    image = Image.fromarray(pixels)
    samples = [
        (image, 3),
        (torch.from_numpy(pixels.transpose(2, 0, 1).copy()), torch.tensor(4)),
        (pixels, np.int64(5)),
        {"image": image, "label": 6, "text": "a", "box": torch.tensor([1.0, 2.0]), "__key__": "k"},
        image,
    ]
    source = DatasetSource(samples, shard_size=3)
    assert [shard.samples for shard in source.inputs] == [3, 2]
    loaded = [source.load(item) for shard in (0, 1) for item in items(source, shard)]
    for sample in loaded:
        assert np.array_equal(np.asarray(sample.image), pixels)
    assert [sample.fields for sample in loaded[:3]] == [{"cls": 3}, {"cls": 4}, {"cls": 5}]
    assert loaded[3].fields == {"cls": 6, "text": "a", "box": [1.0, 2.0]}
    assert [sample.key for sample in loaded] == ["00000000", "00000001", "00000002", "k", "00000004"]


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((6, 5), np.uint8),
        np.zeros((6, 5, 1), np.uint8),
        np.zeros((1, 6, 5), np.uint8),
        torch.zeros(1, 6, 5, dtype=torch.uint8),
        torch.zeros(6, 5, 3, dtype=torch.uint8),
        png(0, (5, 6)),
    ],
)
def test_image_forms(value: object) -> None:
    image = to_image(value)
    assert (image.mode, image.size) == ("RGB", (5, 6))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3, 4, 5), "float32"),
        (np.zeros((2, 4, 5), np.uint8), r"\(2, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (7, "int"),
        (b"no image", "cannot be decoded"),
        (Image.new("I", (4, 4)), "32 bits"),
        (Image.new("F", (4, 4)), "32 bits"),
        (np.zeros((4, 5), np.int32), "int32"),
    ],
)
def test_images_that_are_refused(value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_image(value)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ((1, 2, 3), "tuple of 3"),
        ({"picture": 1}, "no image under"),
        ({"image": 1, "img": 2}, "several images"),
        ((Image.new("RGB", (4, 4)), object()), "field 'cls'"),
    ],
)
def test_dataset_refusals(sample: object, message: str) -> None:
    source = DatasetSource([sample], 10)
    with pytest.raises(InputError, match=message):
        source.load(items(source)[0])


def test_empty_and_unsized_data_sets() -> None:
    with pytest.raises(InputError, match="is empty"):
        open_source([])
    with pytest.raises(InputError, match=r"no len\(\)"):
        open_source(iter([1]))


def deep(form: str) -> object:
    """The same image of 16 bits, every value of it."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    if form == "png":
        file = io.BytesIO()
        Image.fromarray(values).save(file, "PNG")
        return file.getvalue()
    return {
        "pil": lambda: Image.fromarray(values),
        "array": lambda: values,
        "tensor": lambda: torch.from_numpy(values),
        "channels": lambda: values[None],
    }[form]()


@pytest.mark.parametrize("form", ["png", "pil", "array", "tensor", "channels"])
def test_sixteen_bits_become_eight_in_one_way(form: str) -> None:
    grey = (np.arange(65536).reshape(256, 256) >> 8).astype(np.uint8)
    assert np.array_equal(np.asarray(to_image(deep(form))), np.repeat(grey[..., None], 3, 2))


def test_fingerprint_is_the_data_sets_own() -> None:
    class Named(list):
        fingerprint = "version 3"

    class Called(list):
        def fingerprint(self) -> int:
            return len(self)

    class HuggingFace(list):
        _fingerprint = "8f3a"

    class Wrong(list):
        fingerprint = np.zeros(3)

    one = [Image.new("RGB", (4, 4))]
    assert [open_source(kind(one)).fingerprint() for kind in (Named, Called, HuggingFace, list)] == [
        "version 3",
        "1",
        "8f3a",
        None,
    ]
    with pytest.raises(InputError, match=r"fingerprint is a ndarray"):
        open_source(Wrong(one)).fingerprint()
