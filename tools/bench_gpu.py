"""Decoding speed of the kernels on a CUDA device, as a part of the device's own copy speed, in one run.

    python tools/bench_gpu.py [--only 56x56 ...] [--codec zfp2 int4 ...] [--out fp32 ...] [--samples 256] [--reps 30]

Sides take turns, times are medians between CUDA events. GB/s are of float32: four bytes a value, whatever the output.
Every output is first held against the CPU's, bit for bit, and every call captured in a CUDA graph and replayed. The
first call is timed too: it compiles the kernel, unless a row before it did, and a codec's first one tries its kernels
on the device. Rows are printed as they come, and the table so far written to tools/results/bench_gpu-<device>.md after
each. Where there is no CUDA device it says so.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fmshards.codec import Codec, FeatureSpec, codec_for
from fmshards.kernels import cuda

RESULTS = Path(__file__).resolve().parent / "results"
SPECS = {
    "56x56": FeatureSpec("map", (64, 56, 56)),
    "14x14": FeatureSpec("map", (256, 14, 14)),
    "7x7": FeatureSpec("map", (512, 7, 7)),
    "tokens": FeatureSpec("tokens", (197, 768), (14, 14), 1),
}
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
RATES = {"zfp2": "2", "zfp4": "4", "zfp8": "8", "int4": "int4", "dct0.5": "dct0.5", "dct1": "dct1", "dct2": "dct2"}
DISTINCT = 8  # samples that are encoded; the batch repeats them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(SPECS), default=list(SPECS), metavar="PLACE")
    parser.add_argument("--codec", nargs="*", choices=list(RATES), default=list(RATES), metavar="NAME")
    parser.add_argument("--out", nargs="*", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--reps", type=int, default=30)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench_gpu: there is no CUDA device here; nothing was measured")
    if cuda.missing():
        raise SystemExit(f"bench_gpu: {cuda.missing()}")
    name = torch.cuda.get_device_name()
    lines = [
        f"# Decoding on {name}",
        "",
        f"`tools/bench_gpu.py --samples {options.samples} --reps {options.reps}`; torch {torch.__version__}, "
        f"Python {platform.python_version()}. Random ReLU features, smooth across places. Copy: a tensor as large "
        "as the output copied on the device, its bytes counted once, in the same turns. First call: with what it "
        "compiles. Every output equalled the CPU's, bit for bit, in a replayed CUDA graph too.",
        "",
        "| codec | feature | out | GB/s of fp32 | GB/s written | copy GB/s | part of the copy | first call, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"bench_gpu-{name.replace(' ', '-').replace('/', '-')}.md"
    print("\n".join(lines), flush=True)
    for place in options.only:
        x = features(SPECS[place])
        for codec_name in options.codec:
            codec = codec_for(RATES[codec_name], SPECS[place])
            for out in options.out:
                row = measure(codec, x, FORMATS[out], options.samples, options.reps)
                lines.append(f"| {codec_name} | {place} | {out} | " + " | ".join(row) + " |")
                print(lines[-1], flush=True)
                file.write_text("\n".join([*lines, ""]))


def features(spec: FeatureSpec) -> torch.Tensor:
    """ReLU features that neighbouring places share half of."""
    x = torch.randn(DISTINCT, *spec.shape, generator=torch.Generator().manual_seed(0))
    return (x + torch.roll(x, 1, -1) + torch.roll(x, 1, -2)).relu()


def measure(codec: Codec, x: torch.Tensor, dtype: torch.dtype, samples: int, reps: int) -> list[str]:
    """Columns of the table for one codec into one dtype. Raises AssertionError where the values differ."""
    rows = torch.from_numpy(codec.encode(x))
    wanted = codec.decode(rows, dtype=dtype).cuda()
    on = rows[torch.arange(samples) % len(rows)].cuda()

    def decode() -> object:
        return codec.decode(on, out=out)

    out = torch.full((samples, *x.shape[1:]), torch.nan, dtype=dtype, device="cuda")
    torch.cuda.synchronize()
    began = time.perf_counter()
    decode()
    torch.cuda.synchronize()
    first = time.perf_counter() - began
    check(out, wanted)
    out.fill_(torch.nan)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        decode()
    graph.replay()
    check(out, wanted)
    other = torch.empty_like(out)
    took: dict[str, list[float]] = {"decode": [], "copy": []}
    for _ in range(reps + 3):
        for side, call in (("decode", graph.replay), ("copy", lambda: other.copy_(out))):
            took[side].append(seconds(call))
    decoding, copying = (statistics.median(t[3:]) for t in took.values())
    size = out.numel() * out.element_size()
    return [
        f"{4 * out.numel() / decoding / 1e9:.0f}",
        f"{size / decoding / 1e9:.0f}",
        f"{size / copying / 1e9:.0f}",
        f"{copying / decoding:.2f}",
        f"{first:.1f}",
    ]


def check(out: torch.Tensor, wanted: torch.Tensor) -> None:
    for first in range(0, len(out), len(wanted)):
        part = out[first : first + len(wanted)]
        assert torch.equal(part, wanted[: len(part)]), "what the device decodes is not what the CPU decodes"


def seconds(call: Callable[[], object]) -> float:
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1000


if __name__ == "__main__":
    main()
