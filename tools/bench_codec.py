"""The codec's speed, each figure beside what it is compared with, in one run.

    python tools/bench_codec.py [--only decode layouts ...] [--reps 9]
    python tools/bench_codec.py --other CHECKOUT     # encoding and decoding of two commits beside each other

One thread, unless a row says otherwise. Sides take turns, and medians of the rounds' ratios are given. Features are
real: the bundled ResNet-20's over the bundled images (sides 32, 16, 8), and those of a ResNet-50 with random weights
over the same images at 224 pixels (56, 28, 14, 7). The table is printed and written to tools/results/bench_codec.md.
MB/s count the features as float32. The package `tcache` is measured where it is installed.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import zfpy
from measure import (
    PREPROCESS,
    RESNET20,
    TRAIN,
    Jpegs,
    Memmap,
    Row,
    compared,
    consume,
    in_turns,
    jpegs,
    machine,
    median,
    on_threads,
    picture,
    pictures,
    results,
    speed,
    write_table,
)
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.models import resnet18, resnet50
from torchvision.transforms import v2
from versions import compare

import fmshards
from fmshards.codec import Codec, FeatureSpec, codec_for, fit, sample_for
from fmshards.codec.integer.steps import StepSample, fit_steps
from fmshards.model import analyse, load_model, multi_prefix, parse_preprocess

VALUES = 1 << 20  # of a feature batch: 4 MB of float32
BATCH = 100

Features = dict[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--reps", type=int, default=9)
    parser.add_argument("--other", type=Path, metavar="CHECKOUT", help="another checkout, measured beside this one")
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    if args.other:
        compare("codec", args.other, args.reps, args.results)
        return
    torch.set_num_threads(1)
    rows: list[Row] = []
    for part in args.only:
        for row in PARTS[part](args.reps):
            rows.append(row)
            print(" | ".join(row), flush=True)
    from fmshards.codec.zfp.engine import engine

    note = (
        f"{machine()}. Engine {engine().name}: {engine().why}. One thread; medians of {args.reps} rounds in which the "
        "sides take turns."
    )
    place = args.results or results("bench_codec.md")
    write_table(place, "tools/bench_codec.py", note, ("what", "fmshards", "beside", "ratio"), rows)


# Features.


def images(count: int) -> torch.Tensor:
    """The first bundled images, normalised: float32 [count, 3, 32, 32]."""
    base = parse_preprocess(PREPROCESS).base
    return torch.stack([base(image) for image in pictures(TRAIN[:1])[0][:count]])


@lru_cache(maxsize=1)
@torch.no_grad()
def features() -> Features:
    """About VALUES values of each layer, by "side x side"."""
    x = images(256)
    model = load_model(*RESNET20)
    prefix = multi_prefix(model, ["layer1", "layer2", "layer3"], analysis=analyse(model, x[:1]))
    found = list(prefix(x).values())
    torch.manual_seed(0)
    deep = resnet50().eval()
    y = F.interpolate(x[:12], size=224, mode="bilinear")
    y = deep.maxpool(deep.relu(deep.bn1(deep.conv1(y))))
    for layer in (deep.layer1, deep.layer2, deep.layer3, deep.layer4):
        y = layer(y)
        found.append(y)
    enough = [f[: max(1, -(-VALUES // f[0].numel()))].contiguous() for f in found]
    return {f"{f.shape[1]} x {f.shape[2]} x {f.shape[3]}": f for f in enough}


def codec_of(x: torch.Tensor, rate: str | float) -> Codec:
    return codec_for(rate, FeatureSpec("map", tuple(x.shape[1:])))


class Zfpy:
    """zfpy on the plain array [n * C, H, W] of features, into memory that is there."""

    def __init__(self, x: torch.Tensor, rate: float) -> None:
        n, c, h, w = x.shape
        self.array, self.rate = x.numpy().reshape(n * c, h, w), rate
        self.stream = self.encode()
        self.out = np.empty_like(self.array)

    def encode(self) -> bytes:
        return bytes(zfpy.compress_numpy(self.array, rate=self.rate, write_header=False))

    def decode(self) -> None:
        zfpy._decompress(self.stream, zfpy.type_float, self.array.shape, out=self.out, rate=self.rate)


def megabytes(x: torch.Tensor) -> float:
    return x.numel() * 4 / 1e6


# The parts.


def decode(reps: int) -> Iterator[Row]:
    for name, x in features().items():
        if x.shape[-1] % 4:
            continue
        for rate in (2, 4, 8):
            codec, other = codec_of(x, rate), Zfpy(x, rate)
            rows, out = codec.encode(x), torch.empty_like(x)
            ours, zfp = in_turns(
                reps, speed(partial(codec.decode, rows, out), megabytes(x)), speed(other.decode, megabytes(x))
            )
            assert other.out.tobytes() == out.numpy().tobytes()
            yield compared(f"ZFP decode, {name}, {rate} bits, float32", "MB/s", ours, zfp, "zfpy")


def layouts(reps: int) -> Iterator[Row]:
    """Tiles straight to NCHW; and other types and memory formats, beside zfpy on the plain array."""
    for name, x in features().items():
        tiled = x.shape[-1] % 4 != 0
        wanted = [("float32", torch.float32, torch.contiguous_format)] if tiled else []
        if tiled or x.shape[-1] in (16, 28):
            wanted += [
                ("float16", torch.float16, torch.contiguous_format),
                ("bfloat16", torch.bfloat16, torch.contiguous_format),
                ("float32, channels last", torch.float32, torch.channels_last),
            ]
        codec, other = codec_of(x, 4), Zfpy(x, 4)
        rows = codec.encode(x)
        outs = [torch.empty_like(x, dtype=d, memory_format=f) for _, d, f in wanted]
        sides = [speed(partial(codec.decode, rows, out), megabytes(x)) for out in outs]
        *found, zfp = in_turns(reps, *sides, speed(other.decode, megabytes(x)))
        for (what, _, _), ours in zip(wanted, found, strict=True):
            tiles = " in tiles" if tiled else ""
            yield compared(f"ZFP decode, {name}{tiles}, 4 bits, {what}", "MB/s", ours, zfp, "zfpy, plain array, NCHW")


def encode(reps: int) -> Iterator[Row]:
    for name, x in features().items():
        codec, other = codec_of(x, 4), Zfpy(x, 4)
        ours, zfp = in_turns(
            max(3, reps // 2), speed(partial(codec.encode, x), megabytes(x)), speed(other.encode, megabytes(x))
        )
        yield compared(f"ZFP encode, {name}, 4 bits", "MB/s", ours, zfp, "zfpy, plain array")


def integers(reps: int) -> Iterator[Row]:
    """Into 64 MB, beside a copy of as much: more than caches hold, as batches are that come one after another."""
    for name, few in features().items():
        x = few.repeat(16, 1, 1, 1)
        for rate in ("int4", "int4-channel"):
            steps = channel_steps(x, 4) if rate.endswith("channel") else None
            codec = codec_for(rate, FeatureSpec("map", tuple(x.shape[1:])), steps=steps)
            rows, out, source = codec.encode(x), torch.empty_like(x), x.clone()
            ours, copy = in_turns(
                reps,
                speed(partial(codec.decode, rows, out), megabytes(x)),
                speed(partial(out.copy_, source), megabytes(x)),
            )
            yield compared(f"{rate} decode, {name}, float32, 64 MB", "MB/s", ours, copy, "a copy of the output")


def transformed(reps: int) -> Iterator[Row]:
    """`dct` beside zfpy at equal rates, and beside this package's ZFP at its rate and twice that; tables fitted to the
    batch.

    Seconds are those of this thread: what other processes take of the core does not count.
    """
    clock = time.thread_time
    for name, x in features().items():
        for rate in (0.5, 1, 2):
            codec = fitted(x, f"dct{rate:g}")
            other, same, twice = Zfpy(x, max(rate, 1)), codec_of(x, rate), codec_of(x, 2 * rate)
            rows, out, same_rows, twice_rows = codec.encode(x), torch.empty_like(x), same.encode(x), twice.encode(x)
            ours, zfpy_s, same_s, twice_s = in_turns(
                reps,
                speed(partial(codec.decode, rows, out), megabytes(x), clock),
                speed(other.decode, megabytes(x), clock),
                speed(partial(same.decode, same_rows, out), megabytes(x), clock),
                speed(partial(twice.decode, twice_rows, out), megabytes(x), clock),
            )
            what = f"dct decode, {name}, {rate:g} bits, float32"
            yield compared(what, "MB/s", ours, zfpy_s, f"zfpy at {max(rate, 1):g} bits")
            yield compared(what, "MB/s", ours, same_s, f"ZFP here at {rate:g} bits")
            yield compared(what, "MB/s", ours, twice_s, f"ZFP here at {2 * rate:g} bits")
            (encodes,) = in_turns(max(3, reps // 2), speed(partial(codec.encode, x), megabytes(x), clock))
            yield (f"dct encode, {name}, {rate:g} bits", f"{median(encodes):,.0f} MB/s", "", "")


def fitted(x: torch.Tensor, rate: str) -> Codec:
    spec = FeatureSpec("map", tuple(x.shape[1:]))
    sample = sample_for(rate, spec, "none", len(x))
    assert sample is not None
    sample.add(x)
    return fit(rate, spec, sample)


def channel_steps(x: torch.Tensor, bits: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    sample = StepSample(FeatureSpec("map", tuple(x.shape[1:])))
    sample.add(x)
    return fit_steps(sample, bits)


def gather(reps: int) -> Iterator[Row]:
    """A batch out of 64 chunks, rows wherever they lie in the window, beside as many neighbours of one chunk."""
    x = features()["32 x 16 x 16"]
    for rate in (4, "int4"):
        codec = codec_of(x, rate)
        rows = np.concatenate([codec.encode(x)] * 64)
        picked = np.random.default_rng(0).permutation(len(rows))[: len(x)]
        out = torch.empty_like(x)
        many, one = in_turns(
            reps,
            speed(partial(decode_some, codec, rows, picked, out), megabytes(x)),
            speed(partial(codec.decode, rows[: len(x)], out), megabytes(x)),
        )
        what = f"a batch gathered from 64 chunks, gathering and decoding, 32 x 16 x 16, {rate}"
        yield compared(what, "MB/s", many, one, "as many rows of one chunk, decoding")


def decode_some(codec: Codec, rows: np.ndarray, picked: np.ndarray, out: torch.Tensor) -> None:
    codec.decode(rows[picked], out)


def threads(reps: int) -> Iterator[Row]:
    x = torch.cat([features()["32 x 16 x 16"]] * 8)
    for rate in (4, "int4", "dct1"):
        codec = fitted(x, "dct1") if rate == "dct1" else codec_of(x, rate)
        rows, out = codec.encode(x), torch.empty_like(x)

        work = speed(partial(codec.decode, rows, out), megabytes(x))
        two, one = in_turns(reps, partial(on_threads, 2, work), partial(on_threads, 1, work))
        yield compared(f"two threads, decode, {rate}, {len(x)} rows of 32 x 16 x 16", "MB/s", two, one, "one thread")


def first_call(reps: int) -> Iterator[Row]:
    """A process's first decoding: kernels compiled, and kernels found on disk."""
    program = (
        "import time, torch\n"
        "from fmshards.codec import FeatureSpec, codec_for\n"
        "codec = codec_for(4, FeatureSpec('map', (64, 16, 16)))\n"
        "import numpy as np\n"
        "rows = np.zeros((8, codec.row_bytes), np.uint8)\n"
        "began = time.perf_counter(); codec.decode(rows); print(time.perf_counter() - began)"
    )
    cold, warm = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "FMSHARDS_CACHE_DIR": folder, "OMP_WAIT_POLICY": "passive"}
            for found in (cold, warm):
                done = subprocess.run(
                    [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
                )
                found.append(float(done.stdout))
    yield (
        "a process's first decoding",
        f"{median(warm):.2f} s: kernels found on disk",
        f"{median(cold):.2f} s: kernels compiled, once a machine and version",
        "",
    )


def epoch(reps: int) -> Iterator[Row]:
    """An epoch of layer2, shuffled and not augmented, in one process: what a worker of a DataLoader does."""
    model, weights = RESNET20
    with tempfile.TemporaryDirectory() as scratch:
        sets = {}
        for rate in ("4", "int4"):
            url = f"{scratch}/{rate}"
            fmshards.extract(
                TRAIN * 4, url, model=model, weights=weights, layers={"layer2": rate}, preprocess=PREPROCESS
            )
            sets[rate] = fmshards.loader(url, batch_size=BATCH, num_workers=0)
        still = fmshards.loader(f"{scratch}/4", batch_size=BATCH, num_workers=0, train=False)
        found = [(batch["layer2"].clone(), batch["cls"].tolist()) for batch in still]
        x = torch.cat([features for features, _ in found])
        mapped = DataLoader(
            Memmap(Path(scratch, "features.f16"), x, [c for _, labels in found for c in labels]),
            batch_size=BATCH,
            shuffle=True,
        )
        sides: dict[str, object] = {**sets, "memmap": mapped}
        tensorcache = tcache_of(x, f"{scratch}/tcache")
        if tensorcache is not None:
            sides["tcache"] = tensorcache
        rates = in_turns(reps, *(speed(partial(consume, side), len(x)) for side in sides.values()))
        by = dict(zip(sides, rates, strict=True))
        for rate in sets:
            size = codec_for(rate, FeatureSpec("map", tuple(x.shape[1:]))).row_bytes
            what = f"an epoch of layer2, {'4 bits' if rate == '4' else rate}, {size:,} bytes a sample"
            note = f"DataLoader over an fp16 memmap, {2 * x[0].numel():,} bytes a sample"
            yield compared(what, "samples/s", by[rate], by["memmap"], note)
            if "tcache" in by:
                bytes_ = sum(p.stat().st_size for p in Path(scratch).glob("tcache*")) / len(x)
                yield compared(what, "samples/s", by[rate], by["tcache"], f"tcache, {bytes_:,.0f} bytes a sample")


def tcache_of(x: torch.Tensor, prefix: str) -> object | None:
    """The features in the package's own cache, its defaults, as an iterable of decoded, shuffled batches."""
    try:
        import tensorcache
    except ImportError:
        return None

    n, c, h, w = x.shape
    writer = tensorcache.FeatureCacheWriter(prefix, n, c, h * w, group_size=32, amo_bq=True, amo_mode="balanced")
    for start in range(0, n, BATCH):
        writer.append(x[start : start + BATCH].reshape(-1, c, h * w))
    writer.close()
    cache = tensorcache.FeatureCacheDataset(prefix)

    class Epochs:
        def __iter__(self) -> Iterator[torch.Tensor]:
            return iter(cache.iter_batches(batch_size=BATCH, shuffle=True, device="cpu"))

    return Epochs()


def large_jpegs(count: int) -> Jpegs:
    """Bundled images as JPEGs of 224 x 224 pixels, decoded, cropped, flipped and normalised at each access."""

    def enlarged(data: bytes) -> bytes:
        out = io.BytesIO()
        picture(data).resize((224, 224), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        return out.getvalue()

    raw = [(enlarged(data), label) for data, label in jpegs(TRAIN[:1])[:count]]
    augment = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()])
    return Jpegs(raw, parse_preprocess(PREPROCESS).base, augment)


def photos(reps: int) -> Iterator[Row]:
    """Features of 224-pixel photos, decoded and augmented, beside the photos themselves, decoded and augmented."""
    raw = DataLoader(large_jpegs(200), batch_size=BATCH, shuffle=True)
    cases = [("layer3", "256 x 14 x 14"), ("layer4", "512 x 7 x 7")]
    with tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(0)
        model = resnet18().eval()
        torch.set_num_threads(os.cpu_count() or 1)
        fmshards.extract(
            TRAIN[:2],
            scratch,
            model=model,
            layers={layer: 4 for layer, _ in cases},
            preprocess="resize((224, 224))+normalize(imagenet)",
            recipe="flip+crop(pad=16, step=1)",
            calibration=64,
        )
        torch.set_num_threads(1)
        for layer, shape in cases:
            shards = fmshards.loader(scratch, layers=layer, batch_size=BATCH, num_workers=0)
            ours, other = in_turns(
                max(3, reps // 2), speed(partial(consume, shards), 1000), speed(partial(consume, raw), 200)
            )
            what = f"samples/s a core, ResNet-18 {layer}, {shape}, 4 bits, decoded and augmented"
            yield compared(what, "samples/s", ours, other, "JPEGs of 224, decoded and augmented")


PARTS: dict[str, Callable[[int], Iterator[Row]]] = {
    "decode": decode,
    "layouts": layouts,
    "encode": encode,
    "integers": integers,
    "transformed": transformed,
    "gather": gather,
    "threads": threads,
    "first_call": first_call,
    "epoch": epoch,
    "photos": photos,
}

if __name__ == "__main__":
    main()
