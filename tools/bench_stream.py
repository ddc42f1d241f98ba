"""fmshards beside other loaders of features: from a warm local disk, and from a store behind a slow link.

    python tools/bench_stream.py --peers DIR                  # the bundled network's layer2, on the bundled images
    python tools/bench_stream.py --peers DIR --only fmshards LitData --links --workers 0 --reps 3
    python tools/bench_stream.py --peers DIR --source 'photos/*.tar' --model net.py:make --weights net.safetensors \\
        --layer features.7 --preprocess 'resize(256)+center_crop(227)' --times 1 --name photos

--peers: a folder for the peers' environments, made there the first time (some 700 MB): each sees this environment's
packages after its own. Without it only fmshards and WebDataset take part.

Every side reads the same features, in batches of float32 with labels, shuffled anew in each epoch. Sides take turns,
each in a process that holds its own packages and forks a fresh child for each figure; a first round is thrown away, but
for its memory. Local: seconds, samples and CPU seconds of two epochs after a first one, in which copies are unpacked
and caches are filled. From the store: one epoch, all that a loader does included, with nothing kept from before, but
that compiled kernels are loaded, as packages are. The page, its chart and all figures go to
tools/results/bench_stream*.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import PREPROCESS, RESNET20, ROOT, TRAIN, machine, results, write_page
from stream_page import Figures, chart, page
from stream_peers import BATCH, folder_of, side_of, sides
from stream_store import served

import fmshards

ENVIRONMENTS = {
    "common": ["litdata==0.2.76", "h5py==3.16.0", "hdf5plugin==7.1.0", "zstd==1.5.7.2"],
    "mosaic": ["mosaicml-streaming==0.13.0"],  # it takes numpy down: by itself
}
PACKAGES = {
    "": ["fmshards.stream", "numba", "fsspec.implementations.http", "webdataset"],
    "common": ["litdata", "h5py", "hdf5plugin", "fsspec"],
    "mosaic": ["streaming"],
}
LOCAL = 0.0
"""The link that stands for a local disk."""
RECIPE = "flip+crop(pad=4)"


@dataclass(frozen=True)
class Data:
    """What is extracted: tars of images, repeated `times`, and the model that makes features of them."""

    source: list[str]
    model: str
    weights: str
    layer: str
    preprocess: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where the peers' environments are, or shall be")
    parser.add_argument("--source", metavar="GLOB", help="tars of images in place of the bundled ones")
    parser.add_argument("--times", type=int, default=16, help="the source repeated: short epochs measure starts")
    parser.add_argument("--model", default=RESNET20[0])
    parser.add_argument("--weights", default=RESNET20[1])
    parser.add_argument("--layer", default="layer2")
    parser.add_argument("--preprocess", default=PREPROCESS)
    parser.add_argument("--rates", nargs="+", default=["fp16", "4"], help="of fmshards' sets; HDF5's is the last one")
    parser.add_argument("--links", nargs="*", type=float, default=[50, 200, 1000], help="MB/s, besides the local disk")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--store-workers", nargs="+", type=int, default=[0, 2], help="of them, those from a store")
    parser.add_argument("--only", nargs="+", metavar="BEGINNING", help="sides whose names begin so")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="where copies are kept, and found again by a later run")
    parser.add_argument("--name", default="", help="of the results, after bench_stream-")
    args = parser.parse_args()
    source = sorted(glob.glob(args.source)) if args.source else TRAIN
    data = Data(source * args.times, args.model, args.weights, args.layer, args.preprocess)
    with ExitStack() as stack:
        scratch = args.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        names = [name for name in _names(args.rates, args.peers) if not args.only or name.startswith(tuple(args.only))]
        processes = stack.enter_context(_processes(names, args.peers))
        held = prepare(data, names, args.rates, scratch, processes)
        figures = Figures(names, args.workers, args.store_workers, [*args.links, LOCAL], held)
        for turn in range(args.reps + 1):
            one_round(turn, figures, scratch, processes)
    stem = results("bench_stream" + (f"-{args.name}" if args.name else ""))
    what = f"{data.layer} of {Path(data.model.partition(':')[0]).stem}, {held.samples:,} samples, batches of {BATCH}"
    note = f"{machine(1)}. {what}. Medians and quartiles of {args.reps} rounds in which the sides take turns."
    stem.with_suffix(".svg").write_text(chart(figures), encoding="utf-8")
    stem.with_suffix(".json").write_text(json.dumps(asdict(figures), indent=1) + "\n", encoding="utf-8")
    write_page(stem.with_suffix(".md"), page(figures, note, stem.with_suffix(".svg").name))


def _names(rates: Sequence[str], peers: Path | None) -> list[str]:
    own = [f"fmshards {rate}" for rate in rates]
    return [*own, f"{own[-1]}, augmented", *(name for name, side in sides().items() if peers or not side.environment)]


# The copies.


@dataclass(frozen=True)
class Held:
    """What each side's copy holds. bytes: of a sample, all files. read: bytes of a sample that an epoch needs.
    decibels: its error, as the features' power over it; None: as fp16."""

    samples: int
    bytes: dict[str, float]
    decibels: dict[str, float | None]


def prepare(
    data: Data, names: Sequence[str], rates: Sequence[str], scratch: Path, processes: dict[str, Process]
) -> Held:
    """The features, and every side's copy of them."""
    stamp, known = scratch / "data.json", json.dumps([asdict(data), rates[-1]])
    if stamp.exists() and stamp.read_text() != known:
        sys.exit(f"{scratch} holds copies of other data or of another rate; give another --scratch")
    scratch.mkdir(parents=True, exist_ok=True)
    stamp.write_text(known)
    features = scratch / "features"
    if not (features / "y.npy").exists():
        features.mkdir(parents=True, exist_ok=True)
        _write_features(data, _extracted(data, "fp16", False, scratch / "first"), features)
        shutil.rmtree(scratch / "first")
    x, samples = np.load(features / "x.npy", mmap_mode="r"), len(np.load(features / "y.npy"))
    sizes: dict[str, float] = {}
    decibels: dict[str, float | None] = {}
    for name in names:
        copy, side = scratch / "copies" / folder_of(name), side_of(name)
        print(f"copy: {name}", flush=True)
        if name.startswith("fmshards "):
            _extracted(data, side.held, name.endswith("augmented"), copy)
        elif not copy.exists():
            copy.mkdir(parents=True)
            processes[side.environment].ask(side=name, write=str(copy), features=str(features), rate=rates[-1])
        sizes[name] = sum(path.stat().st_size for path in copy.rglob("*") if path.is_file()) / samples
        decibels[name] = None if side.held == "fp16" else _decibels(name, copy, x, processes)
        local = scratch / "local" / copy.name
        # Of hard links: some sides unpack beside their files, or remove them.
        if not local.exists():
            shutil.copytree(copy, local, copy_function=os.link)
    return Held(samples, sizes, decibels)


def _extracted(data: Data, rate: str, augmented: bool, out: Path) -> Path:
    """A set of the data; without a recipe it holds each feature once. The channels keep their order, so that ZFP's
    blocks are those of a peer that knows of none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fmshards.extract(
            data.source,
            out,
            model=data.model,
            weights=data.weights,
            layers=f"{data.layer}:{rate}",
            preprocess=data.preprocess,
            recipe=RECIPE if augmented else "none",
            order="none",
            batch=50,
        )
    return out


def _write_features(data: Data, url: Path, out: Path) -> None:
    """x.npy float16 [N, *shape] and y.npy int64 [N], in stored order."""
    batches = fmshards.loader(url, batch_size=BATCH, train=False, num_workers=0, dtype=torch.float16)
    samples, at = batches.dataset.catalog.manifest.samples, 0
    labels = []
    for batch in batches:
        found = batch[data.layer].numpy()
        if not at:
            x = np.lib.format.open_memmap(out / "x.npy", "w+", np.float16, (samples, *found.shape[1:]))
        x[at : at + len(found)] = found
        at += len(found)
        labels.append(batch["cls"].numpy())
    x.flush()
    np.save(out / "y.npy", np.concatenate(labels))


def _decibels(name: str, copy: Path, x: np.ndarray, processes: dict[str, Process]) -> float:
    """Power of the features over that of the error of a copy's, over its first 512 samples."""
    first = np.asarray(x[:512], np.float64)
    if name.startswith("fmshards "):
        (layer,) = fmshards.inspect(copy)["layers"]
        batches = fmshards.loader(copy, batch_size=len(first), train=False, num_workers=0)
        found = next(iter(batches))[layer["name"]].numpy()
    else:
        answer = processes[side_of(name).environment].ask(decode=str(copy), count=len(first))
        found = np.load(answer["decoded"])
        os.unlink(answer["decoded"])
    return float(10 * np.log10((first**2).sum() / ((found.reshape(first.shape) - first) ** 2).sum()))


# Rounds.


def one_round(turn: int, figures: Figures, scratch: Path, processes: dict[str, Process]) -> None:
    """Every side at every link with every number of workers, once."""
    for link in figures.links:
        with nullcontext() if link == LOCAL else served(scratch / "copies", link) as endpoint:
            for workers in figures.workers_at(link):
                for name in figures.sides:
                    found = _figure(name, endpoint, workers, turn == 0, scratch, processes)
                    figures.add(link, workers, name, turn, found)
                    print(f"round {turn}, {link or 'local'}, {workers} workers, {name}: {_short(found)}", flush=True)


def _figure(
    name: str, endpoint: str | None, workers: int, memory: bool, scratch: Path, processes: dict[str, Process]
) -> dict[str, Any]:
    side, folder = side_of(name), folder_of(name)
    url = str(scratch / "local" / folder)
    if endpoint is not None:
        url = f"{endpoint}/{folder}" if side.scheme == "http" else f"s3://{folder}"
    environment = {
        "BENCH_COPIES": str(scratch / "copies"),
        "LITDATA_DISABLE_VERSION_CHECK": "1",
        "S3_ENDPOINT_URL": endpoint or "",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with tempfile.TemporaryDirectory(dir=scratch) as cache:
        return processes[side.environment].ask(
            side=name,
            url=url,
            cache=cache,
            remote=endpoint is not None,
            local=str(scratch / "local" / folder),
            workers=workers,
            epochs=1 if endpoint else 3,
            environment=environment,
            memory=memory,
        )


def _short(found: dict[str, Any]) -> str:
    if "error" in found:
        return "failed: " + found["error"]
    return f"{found['samples'] / found['seconds']:,.0f}/s, CPU {1e6 * found['cpu'] / found['samples']:.0f} us a sample"


# The peers' processes.


class Process:
    """A process of one environment, that answers requests about its sides."""

    def __init__(self, python: str, packages: Sequence[str]) -> None:
        command = [python, str(ROOT / "tools" / "stream_peers.py"), *packages]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the process of {request.get('side', request)} ended; run its part of stream_peers.py by hand")
        found: dict[str, Any] = json.loads(line)
        if "error" in found and "workers" not in request:
            sys.exit(f"{request}: {found['error']}")
        return found

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def _processes(names: Sequence[str], peers: Path | None) -> Iterator[dict[str, Process]]:
    processes: dict[str, Process] = {}
    try:
        for name in names:
            environment = side_of(name).environment
            if environment not in processes:
                python = _environment(environment, peers) if environment and peers else sys.executable
                processes[environment] = Process(python, PACKAGES[environment])
        yield processes
    finally:
        for process in processes.values():
            process.end()


def _environment(name: str, peers: Path) -> str:
    """The Python of a peers' environment, made where it is not there: its own packages, then those of this one."""
    folder = peers / name
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists() or done.read_text().split() != ENVIRONMENTS[name]:
        print(f"making {folder}: {', '.join(ENVIRONMENTS[name])}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *ENVIRONMENTS[name]], check=True)
        done.write_text("\n".join(ENVIRONMENTS[name]))
    return str(python)


if __name__ == "__main__":
    main()
