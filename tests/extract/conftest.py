"""Small inputs for the tests of extraction: tars and images made here, a few images of the bundled ones."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
DATA = ROOT / "examples" / "data"
TRAIN = sorted(DATA.glob("cifar10-train-*.tar"))
MODEL = f"{ROOT / 'examples' / 'resnet20.py'}:resnet20"
WEIGHTS = str(DATA / "resnet20.safetensors")


def jpeg(i: int, size: tuple[int, int] = (32, 32)) -> bytes:
    return _encoded(i, size, "JPEG")


def png(i: int, size: tuple[int, int] = (6, 6)) -> bytes:
    return _encoded(i, size, "PNG")


def _encoded(i: int, size: tuple[int, int], kind: str) -> bytes:
    pixels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_tar(
    path: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]], kind: int = tarfile.USTAR_FORMAT
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = members.items() if isinstance(members, Mapping) else members
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in pairs:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def members_of(path: Path, samples: range) -> list[tuple[str, bytes]]:
    """The members of some samples of a bundled tar, in order."""
    with tarfile.open(path) as tar:
        pairs = [(info.name, tar.extractfile(info).read()) for info in tar]
    return pairs[2 * samples.start : 2 * samples.stop]


@pytest.fixture(scope="session")
def tars(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three input shards of 40, 24 and 40 real images."""
    folder = tmp_path_factory.mktemp("input")
    return [str(write_tar(folder / f"in-{i}.tar", members_of(TRAIN[i], range(n)))) for i, n in enumerate((40, 24, 40))]
