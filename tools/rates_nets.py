"""The networks that `check_rates.py` measures: their images, their cuts, and the suffixes that are trained anew."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from measure import DATA, PREPROCESS, RESNET20, ROOT, TEST, TRAIN, jpegs, picture
from torch import nn

from fmshards.model import Preprocess, load_model, parse_preprocess, split

VIT = (f"{ROOT}/examples/vit_tiny.py:vit_tiny", f"{DATA}/vit_tiny.safetensors")
GROUPS = (151, 269, 398, 923)
"""Where ImageNet's numbers of classes change their subject: animals that are no mammals (the first mammals with them),
dogs, other animals, things, food and landscapes. What a fresh suffix learns on photos of too many classes to learn."""

Raw = list[tuple[bytes, int]]


@dataclass(frozen=True)
class Task:
    """A suffix to train anew: from which cut, on which images, how.

    test: None where seed s is tested on images s, s + folds, ... and trained on the others. recipe: its moves are by
    whole cells. fresh: the suffix with newly drawn weights.
    """

    layer: str
    what: str
    images: Raw = field(repr=False)
    test: Raw | None = field(repr=False)
    folds: int
    recipe: str
    epochs: int
    batch: int
    rate: float
    fresh: Callable[[], nn.Module] = field(repr=False)


@dataclass(frozen=True)
class Net:
    """A network with images: those that codecs are fitted on, and others that it is measured on."""

    title: str
    names: tuple[str, str]
    preprocess: Preprocess = field(repr=False)
    layers: tuple[str, ...]
    fitted: Raw = field(repr=False)
    test: Raw = field(repr=False)
    task: Task | None

    @property
    def model(self) -> nn.Module:
        return load_model(*self.names).eval()

    @property
    def jpeg(self) -> float:
        """Bytes of an image's JPEG, as it is in the data set."""
        return sum(len(data) for data, _ in self.test) / len(self.test)

    @property
    def conditions(self) -> str:
        """What its figures depend on, besides the rate."""
        weights = hashlib.sha256(Path(self.names[1]).read_bytes()).hexdigest()[:8]
        return f"{self.title}; weights {weights}; {len(self.test)} images; codecs fitted on {len(self.fitted)}"

    def inputs(self, images: Raw) -> torch.Tensor:
        """float32 [N, 3, H, W]."""
        return torch.stack([self.preprocess.base(picture(data)) for data, _ in images])


def labels_of(images: Raw) -> torch.Tensor:
    return torch.tensor([label for _, label in images])


def cifar_nets(quick: bool) -> list[Net]:
    """The bundled networks on the bundled images."""
    train, test = jpegs(TRAIN), jpegs(TEST, 200 if quick else None)
    fitted, some = jpegs(TRAIN, 64 if quick else 512), jpegs(TEST, 200 if quick else 1000)
    preprocess = parse_preprocess(PREPROCESS)
    task = Task(
        layer="layer2",
        what="a fresh layer3 and classifier, on 2,500 images",
        images=train[:500] if quick else train,
        test=test,
        folds=1,
        recipe="flip+crop(pad=4, step=2)",
        epochs=2 if quick else 6,
        batch=100,
        rate=0.1,
        fresh=lambda: renewed(load_model(*RESNET20), "layer2", torch.zeros(1, 3, 32, 32)),
    )
    stages = ("layer1", "layer2", "layer3")
    return [
        Net("ResNet-20, CIFAR-10", RESNET20, preprocess, stages, fitted, some, task),
        Net("small transformer, CIFAR-10", VIT, preprocess, ("blocks.1", "blocks.3"), fitted, some, None),
    ]


def photo_net(folder: Path, quick: bool) -> Net:
    """SqueezeNet 1.0 and photos of ImageNet's classes, from a folder: squeezenet.py, its weights, photos-*.tar."""
    names = (f"{folder}/squeezenet.py:squeezenet", f"{folder}/squeezenet1_0.safetensors")
    for path in (Path(names[0].rpartition(":")[0]), Path(names[1])):
        if not path.is_file():
            sys.exit(f"--photos: expected {path.name} in {folder}, found none")
    photos = jpegs(sorted(folder.glob("photos-*.tar")))
    fitted, test = photos[::8], [photo for i, photo in enumerate(photos) if i % 8]

    def fresh() -> nn.Module:
        model = load_model(*names)
        model.net.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, len(GROUPS) + 1, 1), nn.AdaptiveAvgPool2d(1))
        return renewed(model, "net.features.10", torch.zeros(1, 3, 227, 227))

    bounds = torch.tensor(GROUPS)
    grouped = [(data, int(torch.bucketize(torch.tensor(label), bounds, right=True))) for data, label in photos]
    task = Task(
        layer="net.features.10",
        what=f"a fresh last fire module and classifier, on two thirds of {len(photos)} photos in {len(GROUPS) + 1} "
        "groups of classes",
        images=grouped[:60] if quick else grouped,
        test=None,
        folds=3,
        recipe="flip+crop(pad=16, step=8)",
        epochs=2 if quick else 6,
        batch=25,
        rate=0.001,
        fresh=fresh,
    )
    layers = tuple(f"net.features.{i}" for i in (5, 7, 10))
    preprocess = parse_preprocess("resize(256)+center_crop(227)")
    fitted, test = (fitted[:16], test[:32]) if quick else (fitted, test[:300])
    return Net("SqueezeNet 1.0, ImageNet", names, preprocess, layers, fitted, test, task)


def renewed(model: nn.Module, layer: str, example: torch.Tensor) -> nn.Module:
    """The suffix from a cut on, its weights drawn from torch's generator."""
    _, suffix = split(model, layer, example)
    for module in suffix.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return suffix
