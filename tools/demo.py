"""The main job, end to end, on the bundled real data; run by `tools/demo`.

Extracts layer2 of a published ResNet-20 from 2,500 CIFAR-10 images, verifies the shards, then trains a fresh rest of
the network (layer3 and the classifier) four ways and prints one table: from the shards with the mirror stored, with
the mirror mapped, without augmentation, and with the frozen layers run online on augmented images; with --paper also
from shards with the mirror stored in part: the rest mapped, and the rest flipped, which is the paper's way.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import (
    DATA,
    PREPROCESS,
    RESNET20,
    ROOT,
    TEST,
    TRAIN,
    Jpegs,
    jpegs,
    median,
    ratio,
    results,
    table,
    write_page,
)
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import fmshards
from fmshards.augment import fresh_theta
from fmshards.model import load_model, parse_preprocess
from fmshards.reader import Combination, Fetcher, open_catalog
from fmshards.stream import FeatureDecoder

SOURCE = "cifar10-train-{000000..000004}.tar"
LAYER, RATE = "layer2", 4
BATCH = 100
PAPER = {"part": ("--mirror", "stored(0.3)"), "paper": ("--mirror", "stored(0.3, rest=flip)")}
"""Sets whose mirror is stored in part: the other channels mapped 1 x 1, and flipped as in the paper."""
CHUNK = 10
"""Samples that share a coin and a crop, in the paper's own way; its authors used 4 and 8."""


@dataclass(frozen=True)
class Way:
    """One row of the table. `epoch()` gives an epoch's batches of (input of the suffix, labels)."""

    name: str
    epoch: Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]
    bytes_a_sample: float
    flops_an_epoch: float
    flops_once: float


def command(*words: str) -> None:
    """Run the command a user would type, and show it."""
    print("$ " + " ".join(shlex.quote(w.replace(f"{ROOT}/", "")) for w in words), flush=True)
    subprocess.run([sys.executable, "-m", *words], check=True)


def fresh_suffix(seed: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """(the whole model, its frozen prefix, its suffix with newly drawn weights)."""
    model = load_model(*RESNET20)
    prefix, suffix = fmshards.split(model, LAYER, torch.zeros(1, 3, 32, 32))
    torch.manual_seed(seed)
    for module in suffix.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model, prefix, suffix


def fit(
    suffix: nn.Module, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], optimizer: torch.optim.Optimizer
) -> None:
    suffix.train()
    for x, y in batches:
        loss = F.cross_entropy(suffix(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(250), labels.split(250), strict=True))
    return 100 * right / len(labels)


def shard_epochs(
    url: Path, model: nn.Module, augment: bool, seed: int
) -> Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    batches = fmshards.loader(str(url), batch_size=BATCH, num_workers=0, model=model, augment=augment, seed=seed)

    def epoch() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in batches:
            yield batch[LAYER], batch["cls"]

    return epoch


def drawn_epochs(url: Path, together: int, seed: int) -> Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """Epochs of a set whose mirror is stored in part: one coin and one crop for each `together` samples in a row.

    So the authors of the paper draw them, for each of their chunks; fmshards.loader draws a crop for each sample and
    mixes the chunks that it flips. All rows are held in memory.
    """
    catalog = open_catalog(url)
    fetcher, decoder = Fetcher(catalog), FeatureDecoder(catalog)
    chunks = [fetcher.fetch(i, Combination("mirror", 0)) for i in range(catalog.chunks)]
    base, mirror = (np.concatenate([c.rows[LAYER][name] for c in chunks]) for name in ("base", "mirror"))
    labels = torch.tensor([int(label) for chunk in chunks for label in chunk.fields["cls"]])
    groups, size, epochs = len(base) // together, catalog.manifest.plan.base_size, itertools.count()

    def epoch() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        number = next(epochs)
        random = np.random.default_rng([seed, number])
        flipped = random.random(groups) < 0.5
        theta = fresh_theta(catalog.recipe, seed, number, np.arange(groups), flipped, size)
        for chosen in random.permutation(groups)[: groups - groups % (BATCH // together)].reshape(
            -1, BATCH // together
        ):
            row = (chosen[:, None] * together + np.arange(together)).ravel()
            drawn = np.repeat(chosen, together)
            batch = {
                f"{LAYER}.rows": torch.from_numpy(base[row]),
                f"{LAYER}.mirror_rows": torch.from_numpy(mirror[row]),
                "theta": torch.from_numpy(theta[drawn]),
                "mirrored": torch.from_numpy(flipped[drawn]),
            }
            yield decoder(batch)[LAYER], labels[row]

    return epoch


def online_epochs(prefix: nn.Module, images: Jpegs) -> Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    batches = DataLoader(images, batch_size=BATCH, shuffle=True, drop_last=True)

    def epoch() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for x, y in batches:
            yield prefix(x), y

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each way; the table gives their mean")
    parser.add_argument(
        "--paper", action="store_true", help="also the paper's way: 30%% of the mirror, the rest flipped"
    )
    parser.add_argument("--out", type=Path, help="where the shard sets go (a temporary folder)")
    parser.add_argument("--results", type=Path, default=results("demo.md"))
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs: expected 2 or more: OneCycleLR's rate in a single one is near 0")
    with tempfile.TemporaryDirectory() as scratch:
        run(args.out or Path(scratch), args.epochs, args.seeds, args.paper, args.results)


def run(out: Path, epochs: int, seeds: int, paper: bool, page: Path) -> None:
    started = time.perf_counter()
    network, weights = RESNET20
    sets = {
        "stored": ("--mirror", "stored"),
        "mapped": ("--mirror", "mapped"),
        **(PAPER if paper else {}),
    }
    for way, options in sets.items():
        command(
            *(
                "fmshards",
                "extract",
                f"{DATA}/{SOURCE}",
                f"{out}/{way}",
                "--model",
                network,
                "--weights",
                weights,
            ),
            *("--preprocess", PREPROCESS, "--layer", f"{LAYER}:{RATE}", "--recipe", "flip+crop(pad=4)"),
            *options,
        )
        command("fmshards", "verify", f"{out}/{way}", "--model", network, "--weights", weights)

    to_tensor = parse_preprocess(PREPROCESS).base
    test = Jpegs(jpegs(TEST), to_tensor)
    images = torch.stack([test[i][0] for i in range(len(test))])
    labels = torch.tensor([y for _, y in test.raw])
    augmented = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(32, padding=4)])
    train = Jpegs(jpegs(TRAIN), to_tensor, augmented)
    jpeg = statistics.mean(len(raw) for raw, _ in train.raw)
    model = load_model(*RESNET20)
    cut = next(c for c in fmshards.cuts(model, torch.zeros(1, 3, 32, 32)) if c.name == LAYER)

    scores: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    ways: list[Way] = []
    print(f"training {epochs} epochs, {seeds} seed(s) ...", flush=True)
    for seed in range(seeds):
        runs = []
        ways = []
        for name, folder, augment, together in (
            ("shards, mirror stored", "stored", True, 0),
            ("shards, mirror mapped", "mapped", True, 0),
            ("shards, no augmentation", "mapped", False, 0),
            *([("shards, 30% of the mirror stored, the rest mapped", "part", True, 0)] if paper else []),
            *([("the paper's: 30% of the mirror, the rest flipped", "paper", True, 1)] if paper else []),
            *([(f"the same, a coin and a crop for each {CHUNK}", "paper", True, CHUNK)] if paper else []),
            ("online, frozen layers in the loop", "", True, 0),
        ):
            model, prefix, suffix = fresh_suffix(seed)
            if folder:
                url = out / folder
                epoch = drawn_epochs(url, together, seed) if together else shard_epochs(url, model, augment, seed)
                stored = sum(p.stat().st_size for p in (out / folder / LAYER).glob("*.tar")) / len(train)
                passes = 1 if folder == "mapped" else 2
                # Half the chunks show the mirror; where (a part of) it is mapped that takes a convolution.
                known = fmshards.inspect(str(url))["layers"][0]["mirror_map"]
                mapping = 0.5 * 2 * known["multiplications"] if known and augment else 0
                flops = (3 * cut.flops_after + mapping) * len(train)
                ways.append(Way(name, epoch, stored, flops, passes * cut.flops_before * len(train)))
            else:
                epoch = online_epochs(prefix, train)
                ways.append(Way(name, epoch, jpeg, (cut.flops_before + 3 * cut.flops_after) * len(train), 0))
            optimizer = torch.optim.SGD(suffix.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs)
            runs.append((name, epoch, model, suffix, optimizer, schedule))
        # The ways take turns, an epoch each, so that a busy moment of the machine is shared by all.
        for turn in range(epochs):
            for name, epoch, _, suffix, optimizer, schedule in runs:
                began = time.perf_counter()
                fit(suffix, epoch(), optimizer)
                seconds.setdefault(name, []).append(time.perf_counter() - began)
                schedule.step()
            if turn % 5 == 4:
                print(f"  seed {seed}, epoch {turn + 1}/{epochs}, {time.perf_counter() - started:.0f} s", flush=True)
        for name, _, model, *_ in runs:
            scores.setdefault(name, []).append(accuracy(model, images, labels))

    lines = report(ways, scores, seconds, cut.bytes, jpeg, epochs, seeds, len(train), len(test))
    write_page(page, lines)
    print(f"({time.perf_counter() - started:.0f} s in all)")


def report(
    ways: list[Way],
    scores: dict[str, list[float]],
    seconds: dict[str, list[float]],
    full: int,
    jpeg: float,
    epochs: int,
    seeds: int,
    samples: int,
    tests: int,
) -> list[str]:
    online = ways[-1].name
    header = ("way", "accuracy, %", "s an epoch", "speed-up", "bytes a sample", "of fp32", "of JPEG", "GFLOPs an epoch")
    rows = [
        (
            way.name,
            f"{statistics.mean(scores[way.name]):.1f}",
            f"{median(seconds[way.name]):.2f}",
            f"{ratio(seconds[online], seconds[way.name]):.2f}x",
            f"{way.bytes_a_sample:.0f}",
            f"{way.bytes_a_sample / full:.3f}",
            f"{way.bytes_a_sample / jpeg:.1f}",
            f"{way.flops_an_epoch / 1e9:.0f}",
            f"{way.flops_once / 1e9:.0f}",
        )
        for way in ways
    ]
    spread = 100 * (0.7 * 0.3 / tests) ** 0.5
    note = (
        f"{samples} training images, {tests} test images, {epochs} epochs, mean of {seeds} seed(s); sampling error "
        f"of one accuracy about {spread:.1f}. The fp32 feature is {full} bytes. Accuracy is the whole network's on "
        f"images. Torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}."
    )
    title = " ".join(["# tools/demo", *sys.argv[1:]])
    return [title, "", *table((*header, "once"), rows), "", note]


if __name__ == "__main__":
    main()
