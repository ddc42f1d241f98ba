"""Two checkouts of fmshards beside each other in one run: is anything slower than it was?

    git worktree add ../before COMMIT
    python tools/bench_codec.py --other ../before
    python tools/bench_path.py --other ../before

Each checkout has a process of its own, which makes its data once and then does the work that it is asked for; the two
take turns. What runs in one thread is measured in CPU time, since others may use the cores. The works use what both
have: `codec_for`, `codec_from_config`, `split`, `extract`, `loader`. This file is the program of both processes:
`python tools/versions.py codec` reads names of works and answers with figures.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import (
    PREPROCESS,
    RESNET20,
    ROOT,
    SHARD,
    TRAIN,
    compared,
    consume,
    in_turns,
    machine,
    on_threads,
    pictures,
    results,
    seconds,
    speed,
    write_table,
)

Works = dict[str, tuple[str, Callable[[], float]]]
"""By name: the unit, and the side that measures."""

VALUES = 1 << 20  # of a feature batch: 4 MB of float32
LARGE = 100  # images of 224 pixels
SHORT, MORE = 1.0, 6  # seconds up to which a figure has so many times the rounds: short ones scatter more
LEAST_SECONDS = 0.05  # of a figure: what is shorter is done several times


def compare(part: str, other: Path, reps: int, path: Path | None = None) -> None:
    """Measure a part ("codec" or "path") with both checkouts, print the ratios and write them."""
    checkouts = (ROOT, other.resolve())
    names = [f"`{commit(checkout)}`" for checkout in checkouts]
    with Worker(part, checkouts[0]) as ours, Worker(part, checkouts[1]) as theirs:
        rows: list[tuple[str, ...]] = []
        for work, unit in ours.works.items():
            sides = partial(ours.run, work), partial(theirs.run, work)
            long = seconds(sides[0])() > SHORT
            a, b = in_turns(reps if long else MORE * reps, *sides)
            low, _, high = statistics.quantiles([x / y for x, y in zip(a, b, strict=True)])
            rows.append((*compared(work, unit, a, b), f"{low:.2f} to {high:.2f}"))
            print(" | ".join(rows[-1]), flush=True)
    note = (
        f"{machine(1)}. Medians of {reps} rounds, {MORE * reps} of short works, in which the two checkouts take turns, "
        "each in its own process; half of the rounds' ratios lie between the quartiles."
    )
    place = path or results(f"bench_{part}-versions.md")
    write_table(place, f"tools/bench_{part}.py --other", note, ("what", *names, "ratio", "quartiles"), rows)


def commit(checkout: Path) -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", checkout, *words], capture_output=True, text=True, check=True).stdout

    return git("rev-parse", "--short", "HEAD").strip() + (
        " and changes" if git("status", "--porcelain").strip() else ""
    )


class Worker:
    """A process with one checkout."""

    def __init__(self, part: str, checkout: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_WAIT_POLICY": "passive"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, part],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        found = self._answer()
        assert Path(found["fmshards"]).parent.parent == checkout, f"{found['fmshards']} is not of {checkout}"
        self.works: dict[str, str] = found["works"]

    def run(self, work: str) -> float:
        self._process.stdin.write(work + "\n")  # type: ignore[union-attr]  # both are pipes
        self._process.stdin.flush()  # type: ignore[union-attr]  # both are pipes
        return float(self._answer())

    def _answer(self) -> Any:
        line = self._process.stdout.readline()  # type: ignore[union-attr]  # both are pipes
        if not line:
            raise SystemExit(f"a checkout's process ended with exit code {self._process.wait()}; its error is above")
        return json.loads(line)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]  # both are pipes
        self._process.wait()


# The works, in a checkout's process.


def codec_works(scratch: Path) -> Works:
    from fmshards.codec import FeatureSpec, codec_for, codec_from_config

    works: Works = {}
    for name, x in features().items():
        spec = FeatureSpec("map", tuple(x.shape[1:]))
        megabytes = x.numel() * 4 / 1e6
        most = x.amax((0, 2, 3)).clamp(min=1e-3)
        steps = {"scale": (most / 15).tolist(), "offset": torch.zeros_like(most).tolist()}
        codecs = {str(rate): codec_for(rate, spec) for rate in (2, 4, 8, "int4", "fp16")}
        codecs["int4-channel"] = codec_from_config({**codec_for("int4", spec).config(), **steps})
        for rate, codec in codecs.items():
            rows, out = codec.encode(x), torch.empty_like(x)
            works[f"decode, {rate}, {name}"] = "MB/s", often(partial(codec.decode, rows, out), megabytes)
            if rate in ("4", "int4", "int4-channel"):
                works[f"encode, {rate}, {name}"] = "MB/s", often(partial(codec.encode, x), megabytes)
    x = features()["32 x 16 x 16"]
    spec, megabytes = FeatureSpec("map", (32, 16, 16)), x.numel() * 4 / 1e6
    for rate in (4, "int4"):
        codec = codec_for(rate, spec)
        rows, half = codec.encode(x), torch.empty_like(x, dtype=torch.bfloat16)
        works[f"decode into bfloat16, {rate}"] = "MB/s", often(partial(codec.decode, rows, half), megabytes)
        two = often(partial(codec.decode, rows, torch.empty_like(x)), megabytes, time.perf_counter)
        works[f"decode on two threads, {rate}"] = "MB/s", partial(on_threads, 2, two)
        filtered = codec_for(rate, spec, filter="zstd")
        member = filtered.member(rows)
        works[f"filter undone, {rate}"] = "MB/s", often(partial(filtered.rows, member, len(rows)), megabytes)
        works[f"filter done, {rate}"] = "MB/s", often(partial(filtered.member, rows), megabytes)
    return works


@torch.no_grad()
def features() -> dict[str, torch.Tensor]:
    """About VALUES values each, by shape: ReLU features of the bundled network, and of random convolutions."""
    import fmshards
    from fmshards.model import load_model, parse_preprocess

    base = parse_preprocess(PREPROCESS).base
    x = torch.stack([base(image) for image in pictures(TRAIN[:1], 128)[0]])
    model = load_model(*RESNET20)
    found = [fmshards.split(model, layer, x[:1])[0](x) for layer in ("layer1", "layer2", "layer3")]
    torch.manual_seed(0)
    for channels, side in ((256, 14), (512, 7)):
        kernel = torch.randn(channels, 3, 5, 5) / 5
        found.append(F.interpolate(F.conv2d(x, kernel, padding=2).relu(), size=side, mode="area"))
    enough = [y[: max(1, -(-VALUES // y[0].numel()))].contiguous() for y in found]
    return {" x ".join(map(str, y.shape[1:])): y for y in enough}


def path_works(scratch: Path) -> Works:
    from torchvision.models import resnet18

    import fmshards

    model, weights = RESNET20
    recipe = "flip+crop(pad=4, step=1)"
    common = {"layers": {"layer2": 4}, "preprocess": PREPROCESS, "recipe": recipe, "calibration": 128}
    torch.manual_seed(0)
    large = resnet18().eval()
    turn = iter(range(1 << 30))

    def extract_small() -> None:
        fmshards.extract(TRAIN[:2], scratch / str(next(turn)), model=model, weights=weights, **common)

    few = scratch / "few.tar"
    write_samples(TRAIN[0], few, LARGE)

    def extract_large() -> None:
        options = {"layers": {"layer3": 4}, "preprocess": f"resize(224)+{PREPROCESS}", "calibration": 16}
        fmshards.extract(str(few), scratch / str(next(turn)), model=large, **options)

    url, samples = str(scratch / "set"), 4 * SHARD
    fmshards.extract(TRAIN[:4], url, model=model, weights=weights, **common)
    ways = {
        "decoded and augmented": {},
        "decoded": {"augment": False},
        "rows only": {"decode": False},
        "evaluation": {"train": False},
        "decoded and augmented, one worker": {"num_workers": 1},
    }
    works: Works = {
        "extract, ResNet-20 layer2 at 32, mirror stored": ("samples/s", speed(extract_small, 2 * SHARD)),
        "extract, ResNet-18 layer3 at 224": ("samples/s", speed(extract_large, LARGE)),
    }
    for name, options in ways.items():
        batches = fmshards.loader(url, batch_size=100, **{"num_workers": 0, **options})
        clock = time.perf_counter if "num_workers" in options else time.process_time
        works[f"an epoch, {name}"] = "samples/s", often(partial(consume, batches), samples, clock)
    works["a loader made, and its first batch"] = "a second", often(partial(first_batch, url), 1)
    verify = getattr(fmshards, "verify", None) or importlib.import_module("fmshards.extract").verify
    works["verify, bytes alone"] = "samples/s", often(partial(verify, url), samples)
    return works


def write_samples(tar: str, to: Path, count: int) -> None:
    """The first samples of a bundled tar, in which each has two members."""
    with tarfile.open(tar) as source, tarfile.open(to, "w") as out:
        for member in source.getmembers()[: 2 * count]:
            out.addfile(member, source.extractfile(member))


def first_batch(url: str) -> None:
    import fmshards

    next(iter(fmshards.loader(url, batch_size=100, num_workers=0)))


def often(
    work: Callable[[], object], amount: float, clock: Callable[[], float] = time.process_time
) -> Callable[[], float]:
    """A side that does `work` often enough for its clock."""
    work()
    took = seconds(work, clock)()
    times = max(1, round(LEAST_SECONDS / max(took, 1e-6)))
    return speed(lambda: [work() for _ in range(times)], amount * times, clock)


PARTS: dict[str, Callable[[Path], Works]] = {"codec": codec_works, "path": path_works}


def serve(part: str, requests: Iterator[str]) -> None:
    import fmshards

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        works = PARTS[part](Path(scratch))
        units = {name: unit for name, (unit, _) in works.items()}
        print(json.dumps({"fmshards": fmshards.__file__, "works": units}), flush=True)
        for line in requests:
            print(json.dumps(works[line.strip()][1]()), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], iter(sys.stdin))
