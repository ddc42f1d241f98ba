"""Preprocessing is torchvision's, to the last bit, and knows where the base image lies in the original."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from fmshards.errors import InputError
from fmshards.model import load_model, parse_preprocess
from fmshards.model.preprocess import IMAGENET

TEXT = "resize(256)+center_crop(224)+normalize(imagenet)"


def _image(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("size", [(300, 400), (500, 260), (100, 90), (224, 224), (31, 512)])
@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        (TEXT, [v2.Resize(256), v2.CenterCrop(224)]),
        (
            "resize((40, 60), interpolation=bicubic)+normalize(imagenet)",
            [v2.Resize((40, 60), v2.InterpolationMode.BICUBIC)],
        ),
        ("center_crop((101, 50))+normalize(imagenet)", [v2.CenterCrop((101, 50))]),
        ("resize(size=33)+normalize(imagenet)", [v2.Resize(33)]),
        ("normalize(imagenet)", []),
    ],
)
def test_bits_are_torchvisions(size: tuple[int, int], text: str, theirs: list[object]) -> None:
    image = _image(*size)
    ours = parse_preprocess(text)
    chain = v2.Compose([*theirs, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET)])
    found = ours.base(image)
    assert found.dtype is torch.float32
    assert torch.equal(found, chain(image))
    box, out = ours.geometry(image.size)
    assert found.shape == (3, *out)
    if ours.size is not None:
        assert out == ours.size
    assert box[2] > box[0]
    assert box[3] > box[1]


def test_geometry_in_pixels_of_the_original() -> None:
    crop = parse_preprocess("center_crop(100)")
    assert crop.geometry((300, 200)) == ((100.0, 50.0, 200.0, 150.0), (100, 100))
    assert crop.geometry((60, 200)) == ((-20.0, 50.0, 80.0, 150.0), (100, 100))
    both = parse_preprocess("resize(100)+center_crop(80)")
    assert both.geometry((400, 200)) == ((120.0, 20.0, 280.0, 180.0), (80, 80))
    assert parse_preprocess("none").geometry((7, 5)) == ((0.0, 0.0, 7.0, 5.0), (5, 7))


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 300), st.integers(20, 300), st.integers(8, 200), st.integers(8, 260))
def test_geometry_finds_the_pixels_that_the_crop_takes(width: int, height: int, tall: int, wide: int) -> None:
    crop = parse_preprocess(f"center_crop(({tall}, {wide}))")
    image = _image(width, height)
    (left, top, right, bottom), out = crop.geometry(image.size)
    assert (right - left, bottom - top) == (wide, tall) == out[::-1]
    expected = image.crop((int(left), int(top), int(right), int(bottom)))
    assert torch.equal(crop.base(image), v2.functional.to_dtype(v2.functional.pil_to_tensor(expected), scale=True))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_every_kind_of_image_is_taken_as_rgb(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((20, 20), 257 * 9, dtype=np.uint16))
    else:
        image = _image(20, 20, mode)
    found = parse_preprocess("none").base(image)
    assert found.shape == (3, 20, 20)
    if mode == "I;16":
        assert torch.equal(found, torch.full((3, 20, 20), 9 / 255))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (TEXT, TEXT),
        (" resize( 256 , antialias=True )+center_crop((224,224)) + normalize(imagenet)", TEXT),
        ("resize((3, 4))", "resize((3, 4))"),
        ("normalize(mean=0.5, std=(1, 2, 3))", "normalize(mean=(0.5, 0.5, 0.5), std=(1.0, 2.0, 3.0))"),
        ("normalize(mean=(0.485,0.456,0.406), std=(0.229,0.224,0.225))", "normalize(imagenet)"),
        ("none", "none"),
    ],
)
def test_texts_are_canonical(text: str, canonical: str) -> None:
    made = parse_preprocess(text)
    assert made.text == canonical
    assert parse_preprocess(made.text) == made


@pytest.mark.parametrize(
    "text",
    [
        "rezise(256)", "resize()", "resize(0)", "resize(256.5)", "resize(1, 2)", "resize(99999)", "resize((1, 2, 3))",
        "resize(8, interpolation=best)", "resize(8, antialias=False)", "center_crop(True)", "resize(", "timm",
        "normalize(imagenet)+resize(8)", "normalize(mean=(1, 2), std=1)", "normalize(mean=0, std=0)",
        "normalize(cifar)", "torchvision",
    ],
)  # fmt: skip
def test_bad_texts(text: str) -> None:
    with pytest.raises(InputError):
        parse_preprocess(text)


@pytest.mark.filterwarnings("ignore:.*random weights")
def test_the_libraries_own() -> None:
    model = load_model("torchvision:resnet18")
    assert parse_preprocess("torchvision", model=model).text == TEXT
    assert parse_preprocess(None, model=model).text == TEXT
    assert parse_preprocess("torchvision", name="torchvision:resnet50").text.startswith("resize(232)")
    own = parse_preprocess("torchvision", name="torchvision:resnet50", weights="IMAGENET1K_V1")
    assert own.text == TEXT
    image = _image(320, 270)
    from torchvision.models import ResNet50_Weights

    # torchvision multiplies by 1/255 in v2 and divides by 255 in its presets: the last bit.
    assert torch.allclose(own.base(image), ResNet50_Weights.IMAGENET1K_V1.transforms()(image), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*random weights")
@pytest.mark.parametrize(
    "name", ["resnet18", "deit_tiny_patch16_224", "mobilenetv3_small_100", "beit_base_patch16_224"]
)
def test_timms_own(name: str) -> None:
    import timm
    from timm.data import create_transform, resolve_model_data_config

    model = timm.create_model(name, num_classes=2, **({"depth": 1} if "patch" in name else {}))
    ours = parse_preprocess("timm", model=model)
    theirs = create_transform(**resolve_model_data_config(model), is_training=False)
    for size in ((320, 270), (200, 500)):
        assert torch.allclose(ours.base(_image(*size)), theirs(_image(*size)), rtol=0, atol=1e-6)


def test_beside_a_factory() -> None:
    with pytest.warns(UserWarning, match="random weights"):
        model = load_model("examples/resnet20.py:resnet20")
    made = parse_preprocess(None, model=model)
    assert made.text == "normalize(imagenet)"
    assert made.size is None
    with pytest.raises(InputError, match="names no preprocessing"):
        parse_preprocess(None, model=torch.nn.Linear(1, 1))


def _halved(image: Image.Image) -> torch.Tensor:
    return transforms.functional.to_tensor(image)[:, ::2, ::2]


def test_a_function() -> None:
    made = parse_preprocess(_halved)
    assert made.base(_image(20, 10, "L")).shape == (3, 5, 10)
    assert made.geometry((20, 10)) is None
    assert "test_preprocess:_halved sha256:" in made.text
    with pytest.raises(InputError, match="must give a float tensor"):
        parse_preprocess(lambda image: image).base(_image(4, 4))
    with pytest.raises(InputError, match="cannot be taken apart"):
        made.normalize(torch.zeros(3, 2, 2))


def test_the_blank_image_is_the_black_one() -> None:
    made = parse_preprocess("center_crop(8)+normalize(imagenet)")
    assert torch.equal(made.blank, made.base(Image.new("RGB", (8, 8))))
    assert parse_preprocess("normalize(imagenet)").blank.shape == (3, 1, 1)
    array = np.asarray(_image(8, 8))
    assert torch.equal(made.tensor(array), made.base(_image(8, 8)))
    assert torch.equal(made.tensor(torch.from_numpy(array.copy()).permute(2, 0, 1)), made.base(_image(8, 8)))
