"""What the tools share: the bundled data, sides that take turns, and pages of results."""

from __future__ import annotations

import io
import os
import platform
import statistics
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "examples" / "data"
TRAIN = sorted(str(path) for path in DATA.glob("cifar10-train-*.tar"))
TEST = sorted(str(path) for path in DATA.glob("cifar10-test-*.tar"))
SHARD = 500
"""Images in each of the bundled tars."""

RESNET20 = (f"{ROOT}/examples/resnet20.py:resnet20", f"{DATA}/resnet20.safetensors")
"""The published network of the bundled data, and its weights: the arguments of `load_model`."""
PREPROCESS = "normalize(imagenet)"

Row = tuple[str, str, str, str]


# Data.


def jpegs(tars: Iterable[str | Path], most: int | None = None) -> list[tuple[bytes, int]]:
    """(JPEG, class) of the samples of WebDataset tars, in stored order; `most` of them, evenly spread."""
    found: list[tuple[bytes, int]] = []
    for path in tars:
        with tarfile.open(path) as tar:
            fields = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]  # a file, not a folder
        found += [(data, int(fields[name[:-3] + "cls"])) for name, data in fields.items() if name.endswith("jpg")]
    if not found:
        sys.exit("no images found: see --data and --pattern")
    return found if most is None else [found[i * len(found) // most] for i in range(min(most, len(found)))]


def picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def pictures(tars: Iterable[str | Path], most: int | None = None) -> tuple[list[Image.Image], torch.Tensor]:
    """The images and labels of these tars; `most` of them, evenly spread."""
    found = jpegs(tars, most)
    return [picture(data) for data, _ in found], torch.tensor([label for _, label in found])


class Jpegs(Dataset[tuple[torch.Tensor, int]]):
    """JPEGs that are decoded, augmented and made a tensor at each access: what is done without shards."""

    def __init__(
        self,
        raw: list[tuple[bytes, int]],
        to_tensor: Callable[[Image.Image], torch.Tensor],
        augment: Callable[[Image.Image], Image.Image] | None = None,
    ) -> None:
        self.raw, self.to_tensor, self.augment = raw, to_tensor, augment

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        image = picture(self.raw[i][0])
        return self.to_tensor(image if self.augment is None else self.augment(image)), self.raw[i][1]


class Memmap(Dataset[tuple[torch.Tensor, int]]):
    """Features as fp16 in one memory-mapped file."""

    def __init__(self, path: Path, x: torch.Tensor, labels: Sequence[int]) -> None:
        self.data = np.memmap(path, np.float16, "w+", shape=tuple(x.shape))
        self.data[:] = x.numpy()
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.data[i].astype(np.float32)), self.labels[i]


# Turns.


def in_turns(reps: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Each side's figures; every round runs each side once, and a first round is thrown away."""
    figures: list[list[float]] = [[] for _ in sides]
    for turn in range(reps + 1):
        for side, found in zip(sides, figures, strict=True):
            value = side()
            if turn:
                found.append(value)
    return figures


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    """A side: how long `work` takes. clock: `time.thread_time` or `process_time` where others use the cores too."""

    def run() -> float:
        began = clock()
        work()
        return clock() - began

    return run


def speed(
    work: Callable[[], object], amount: float, clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """A side: `amount` a second of what `work` does."""
    took = seconds(work, clock)
    return lambda: amount / took()


def consume(batches: Iterable[object]) -> None:
    """A whole epoch, dropped."""
    for _ in batches:
        pass


def on_threads(count: int, side: Callable[[], float]) -> float:
    """A side's figure with that many threads of torch and of the codec."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return side()
    finally:
        torch.set_num_threads(before)


median = statistics.median


def ratio(ours: list[float], other: list[float]) -> float:
    """The median of the rounds' ratios."""
    return median(a / b for a, b in zip(ours, other, strict=True))


# Pages.


def machine(threads: int | None = None) -> str:
    """The CPU, its cores and the versions that figures depend on; no names of hosts or folders."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    used = "" if threads is None else f" ({threads} used)"
    return f"{model}, {os.cpu_count()} cores{used}, torch {torch.__version__}, Python {platform.python_version()}"


def results(name: str) -> Path:
    """Where a tool's page goes, unless it is told otherwise."""
    return ROOT / "tools" / "results" / name


def compared(what: str, unit: str, ours: list[float], other: list[float], note: str = "") -> Row:
    """A row: medians, and the median of the rounds' ratios."""
    beside = f"{median(other):,.0f} {unit}"
    return what, f"{median(ours):,.0f} {unit}", f"{beside}: {note}" if note else beside, f"{ratio(ours, other):.2f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def write_page(path: Path, lines: Iterable[str]) -> None:
    """Print a Markdown page and write it."""
    text = "\n".join(lines).rstrip("\n") + "\n"
    print("\n" + text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_table(path: Path, title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown page with one table and write it."""
    write_page(path, [f"# {title}", "", note, "", *table(header, rows)])
