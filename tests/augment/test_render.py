from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from fmshards.augment import (
    FLIP,
    compose,
    crop_box,
    custom_view,
    fresh_theta,
    identity_theta,
    parse_recipe,
    render,
    translate,
)
from fmshards.errors import InputError
from fmshards.model import Preprocess, parse_preprocess

IDENTITY = identity_theta(1)[0]
TEXTS = [
    "normalize(imagenet)",
    "resize(40)+center_crop(32)+normalize(imagenet)",
    "resize((30, 44), interpolation=bicubic)",
    "center_crop((60, 200))+normalize(imagenet)",
]


def photo(width: int = 97, height: int = 70) -> Image.Image:
    """Smooth enough to compare by value, with detail enough to show a shift."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def opaque(image: Image.Image) -> torch.Tensor:
    x = v2.functional.pil_to_tensor(image.resize((36, 28))).float() / 255
    return x * 2 - 0.5


@pytest.fixture(params=[*TEXTS, "function"])
def preprocess(request) -> Preprocess:
    return parse_preprocess(opaque if request.param == "function" else request.param)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_identity_and_flip_are_the_base_image_bit_for_bit(preprocess: Preprocess, mode: str) -> None:
    image = photo().convert(mode)
    base = preprocess.base(image)
    assert torch.equal(render(image, preprocess, IDENTITY), base)
    assert torch.equal(render(image, preprocess, torch.from_numpy(IDENTITY)), base)
    assert torch.equal(render(image, preprocess, FLIP.astype(np.float32)), base.flip(-1))
    upside_down = np.array([[1.0, 0, 0], [0, -1, 0]])
    assert torch.equal(render(image, preprocess, upside_down), base.flip(-2))


@pytest.mark.parametrize(("dx", "dy"), [(4, 0), (-3, 2), (0, -5), (9, 9)])
def test_whole_shifts_are_slices_with_blank_outside(preprocess: Preprocess, dx: int, dy: int) -> None:
    image = photo()
    base = preprocess.base(image)
    _, height, width = base.shape
    theta = translate(dx, dy, (height, width))
    black = preprocess.base(Image.new("RGB", image.size))
    assert torch.equal(render(image, preprocess, theta.astype(np.float32)), shifted(base, black, dx, dy))
    flipped = compose(FLIP, theta).astype(np.float32)
    assert torch.equal(render(image, preprocess, flipped), shifted(base.flip(-1), black, dx, dy))


def shifted(base: torch.Tensor, black: torch.Tensor, dx: int, dy: int) -> torch.Tensor:
    """Pixel (x, y) shows pixel (x + dx, y + dy)."""
    pad = 16
    _, height, width = base.shape
    wide = black[:, :1, :1].expand(-1, height + 2 * pad, width + 2 * pad).clone()
    wide[:, pad : pad + height, pad : pad + width] = base
    return wide[:, pad + dy : pad + dy + height, pad + dx : pad + dx + width]


def test_crop_is_torchvisions_random_crop_of_the_padded_image() -> None:
    image, preprocess = photo(32, 32), parse_preprocess("normalize(imagenet)")
    padded = v2.functional.pad(v2.functional.pil_to_tensor(image), [4])
    for theta in fresh_theta(parse_recipe("crop(pad=4, step=1)"), 0, 0, np.arange(20), np.zeros(20, bool), (32, 32)):
        left, top = (round(float(theta[axis, 2]) * 16) + 4 for axis in (0, 1))
        wanted = preprocess.tensor(padded[:, top : top + 32, left : left + 32])
        assert torch.equal(render(image, preprocess, theta), wanted)


def test_a_box_is_resized_from_the_original() -> None:
    """Base pixels are half the original's: a box of the base must show the original's detail."""
    image, preprocess = photo(128, 64), parse_preprocess("resize((32, 64))+normalize(imagenet)")
    theta = crop_box(10, 4, 24, 20, (32, 64))
    wanted = preprocess.tensor(image.resize((64, 32), Image.Resampling.BILINEAR, box=(20, 8, 68, 48)))
    assert torch.equal(render(image, preprocess, theta), wanted)
    assert torch.equal(render(image, preprocess, compose(theta, FLIP)), wanted.flip(-1))


@pytest.mark.parametrize("text", TEXTS)
def test_every_path_shows_the_same_picture(text: str) -> None:
    """Along the axes or not, inside or not: close to bilinear sampling of the base image itself."""
    image, preprocess = photo(), parse_preprocess(text)
    base = preprocess.base(image)
    _, height, width = base.shape
    size = (height, width)
    angle = np.deg2rad(20)
    ratio = height / width
    rotation = np.array([[np.cos(angle), -np.sin(angle) * ratio, 0], [np.sin(angle) / ratio, np.cos(angle), 0]])
    boxes = [crop_box(width * 0.2, height * 0.1, width * 0.6, height * 0.7, size)]
    out = [translate(2.5, -1.25, size), rotation, compose(FLIP, rotation), compose(boxes[0], rotation)]
    black = preprocess.base(Image.new("RGB", image.size))[:, :1, :1]
    for theta in boxes + out:
        grid = F.affine_grid(torch.from_numpy(theta).float()[None], [1, 3, height, width], align_corners=False)
        ones = torch.ones(1, 1, height, width)
        covered = F.grid_sample(ones, grid, align_corners=False)[0]
        wanted = F.grid_sample((base - black)[None], grid, align_corners=False)[0]
        got = render(image, preprocess, theta) - black
        sure = (covered > 0.999).expand(3, -1, -1)
        assert (got - wanted)[sure].abs().mean() < 0.03 * wanted[sure].abs().mean() + 0.03
        nothing = (covered == 0).expand(3, -1, -1)
        assert (got[nothing].abs() < 1e-5).all()
        assert (got - wanted).abs().max() < 2.5


def test_large_photos_are_not_aliased() -> None:
    """Stripes of one pixel, 16 to an output pixel, must come out grey on the general path too."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    image, preprocess = Image.fromarray(stripes), parse_preprocess("resize((32, 32))")
    angle = np.deg2rad(10)
    theta = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
    middle = render(image, preprocess, theta)[:, 8:24, 8:24]
    assert (middle - 0.5).abs().max() < 0.05


def test_a_custom_view_depends_on_its_identity_alone() -> None:
    def noisy(image: Image.Image) -> Image.Image:
        x = v2.RandomResizedCrop(32)(image)
        dx = random.randrange(8) + int(np.random.randint(8))  # whatever a user's transform draws from
        return v2.functional.affine(x, 0, [dx, 0], 1.0, [0.0])

    recipe, image, preprocess = parse_recipe(noisy), photo(), parse_preprocess("resize((32, 32))+normalize(imagenet)")
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = custom_view(image, preprocess, recipe, (0, "shard", "key", 1))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    torch.rand(7), random.random(), np.random.rand()
    assert torch.equal(custom_view(image, preprocess, recipe, (0, "shard", "key", 1)), first)
    for other in ((1, "shard", "key", 1), (0, "s", "key", 1), (0, "shard", "k", 1), (0, "shard", "key", 2)):
        assert not torch.equal(custom_view(image, preprocess, recipe, other), first)


def test_a_custom_transform_may_give_bytes_but_not_floats() -> None:
    image, preprocess = photo(32, 32), parse_preprocess("normalize(imagenet)")
    tensor = parse_recipe(v2.Compose([v2.PILToTensor(), v2.RandomHorizontalFlip(1.0)]))
    assert torch.equal(custom_view(image, preprocess, tensor, (0, "s", "k", 1)), preprocess.base(image).flip(-1))
    floats = parse_recipe(v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]))
    with pytest.raises(InputError, match="normalisation belongs to the preprocessing"):
        custom_view(image, preprocess, floats, (0, "s", "k", 1))
    with pytest.raises(InputError, match="pass the transform"):
        custom_view(image, preprocess, type(tensor).from_json(tensor.to_json()), (0, "s", "k", 1))
