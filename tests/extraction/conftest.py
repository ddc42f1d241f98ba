"""Small inputs for the tests of extraction: tars and images made here, a few images of the bundled ones."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fmshards.model import load_model, parse_preprocess
from fmshards.shards import layer_url, read_chunk, read_index, read_manifest

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


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """On busy cores torch's threads wait for each other longer than these small networks compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tars(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three input shards of 40, 24 and 40 real images."""
    folder = tmp_path_factory.mktemp("input")
    return [str(write_tar(folder / f"in-{i}.tar", members_of(TRAIN[i], range(n)))) for i, n in enumerate((40, 24, 40))]


def options(**more: Any) -> dict[str, Any]:
    """Arguments of a small extraction from the bundled network."""
    return {
        "model": MODEL,
        "weights": WEIGHTS,
        "device": "cpu",
        "preprocess": "normalize(imagenet)",
        "layers": {"layer2": 4},
        "batch": 16,
        "chunk": 10,
        "calibration": 16,
        **more,
    }


@pytest.fixture(scope="session")
def eight(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Eight input shards of 30 images."""
    folder = tmp_path_factory.mktemp("eight")
    return [
        str(write_tar(folder / f"in-{i}.tar", members_of(TRAIN[i // 2], range(30 * i, 30 * i + 30)))) for i in range(8)
    ]


@pytest.fixture(scope="session")
def alone(eight: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes of them, undisturbed."""
    out = tmp_path_factory.mktemp("alone") / "set"
    assert start(eight, out).wait(300) == 0
    return tree(out)


def line(eight: list[str], out: Path, *more: str) -> list[str]:
    """A small extraction as it is typed: the words after `fmshards`."""
    words = ["extract", f"{Path(eight[0]).parent}/in-{{0..7}}.tar", str(out), "--model", MODEL, "--weights", WEIGHTS]
    words += ["--layer", "layer2:4", "--preprocess", "normalize(imagenet)", "--recipe", "flip", "--device", "cpu"]
    return [*words, "--batch", "2", "--chunk", "10", "--calibration", "16", *more]


def start(eight: list[str], out: Path, *more: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fmshards", *line(eight, out, *more)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        # As torchrun and Ray have it: the number of threads stands in a plan's provenance.
        env={**os.environ, "OMP_NUM_THREADS": "1", **environ},
        start_new_session=True,
    )  # fmt: skip


def network() -> torch.nn.Module:
    return load_model(MODEL, WEIGHTS)


def tree(folder: Path | str) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too: path -> bytes."""
    root = Path(folder)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@dataclass(frozen=True)
class Stored:
    """What a set holds of one layer, all shards end to end."""

    keys: list[str]
    fields: dict[str, list[Any]]
    theta: np.ndarray | None
    streams: dict[str, torch.Tensor]


def stored(out: Path | str, layer: str) -> Stored:
    """Read a layer of a whole set, every checksum verified."""
    manifest = read_manifest(str(out))
    codecs = manifest.plan.layer_members(layer)
    keys: list[str] = []
    fields: dict[str, list[Any]] = {}
    thetas: list[np.ndarray] = []
    streams: dict[str, list[torch.Tensor]] = {name.partition(".")[0]: [] for name in codecs}
    for entry in manifest.shards[layer]:
        url = layer_url(str(out), layer, entry.name)
        index = read_index(url, entry)
        for j in range(len(index.chunks)):
            chunk = read_chunk(url, index, j, list(codecs))
            keys += chunk.keys
            for name, column in chunk.fields.items():
                fields.setdefault(name, []).extend(column)
            if chunk.theta is not None:
                thetas.append(chunk.theta)
            for name, codec in codecs.items():
                rows = codec.rows(chunk.members[name], chunk.n)
                streams[name.partition(".")[0]].append(codec.decode(rows))
    theta = np.concatenate(thetas) if thetas else None
    return Stored(keys, fields, theta, {name: torch.cat(parts) for name, parts in streams.items()})


def images_of(tar: str) -> list[Image.Image]:
    with tarfile.open(tar) as file:
        data = [file.extractfile(info).read() for info in file if info.name.endswith(".jpg")]
    return [Image.open(io.BytesIO(one)).convert("RGB") for one in data]


def direct(
    tars: list[str], layer: str, change: Callable[[torch.Tensor], torch.Tensor] = lambda x: x, batch: int = 16
) -> torch.Tensor:
    """The layer's features by the model itself, in the batches and the layout that extraction gives it."""
    model = network().eval()
    preprocess = parse_preprocess("normalize(imagenet)", model=model, name=None)
    found: list[torch.Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda module, args, out: found.append(out.clone()))
    with torch.no_grad():
        for tar in tars:
            x = torch.stack([preprocess.base(image) for image in images_of(tar)])
            for part in x.split(batch):
                model(change(part).to(memory_format=torch.channels_last))
    hook.remove()
    return torch.cat(found)


def error_db(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(10 * torch.log10((found - wanted).square().sum() / wanted.square().sum()))
