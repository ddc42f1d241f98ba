from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fmshards.model import Preprocess, parse_preprocess


@pytest.fixture(scope="session")
def preprocess() -> Preprocess:
    return parse_preprocess("normalize(imagenet)")


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """24 smooth pictures of 32 x 32: noise of 8 x 8, enlarged."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(s).resize((32, 32), Image.Resampling.BICUBIC) for s in small]


@pytest.fixture(scope="session")
def batch(images: list[Image.Image], preprocess: Preprocess) -> torch.Tensor:
    return torch.stack([preprocess.base(image) for image in images])
