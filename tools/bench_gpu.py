"""Decoding speed of the kernels on a CUDA device, as a part of the device's own copy speed, in one run.

    python tools/bench_gpu.py [--samples 256] [--reps 30]

Sides take turns, times are medians between CUDA events. GB/s are of float32: four bytes a value, whatever the output.
Every output is first held against the CPU's, bit for bit, and every call captured in a CUDA graph and replayed. The
table is printed and written to tools/results/bench_gpu-<device>.md. Where there is no CUDA device it says so.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fmshards.codec import FeatureSpec, codec_for, on_cuda
from fmshards.kernels import cuda

RESULTS = Path(__file__).resolve().parent / "results"
SPECS = {
    "56x56": FeatureSpec("map", (64, 56, 56)),
    "14x14": FeatureSpec("map", (256, 14, 14)),
    "7x7": FeatureSpec("map", (512, 7, 7)),
    "tokens": FeatureSpec("tokens", (197, 768), (14, 14), 1),
}
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
DISTINCT = 8  # samples that are encoded; the batch repeats them

Decode = Callable[[torch.Tensor, torch.Tensor], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        "as the output copied on the device, its bytes counted once, in the same turns.",
        "",
        "| codec | feature | out | GB/s of fp32 | GB/s written | copy GB/s | part of the copy |",
        "|---|---|---|---|---|---|---|",
    ]
    for place, spec in SPECS.items():
        for codec, (rows, decode, on_cpu) in sides(spec).items():
            for out_name, dtype in FORMATS.items():
                row = measure(rows, decode, on_cpu.to(dtype), options.samples, options.reps)
                lines.append(f"| {codec} | {place} | {out_name} | " + " | ".join(row) + " |")
                print(lines[-1], flush=True)
    text = "\n".join([*lines, "", "Every output equalled the CPU's, bit for bit, in a replayed CUDA graph too.", ""])
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"bench_gpu-{name.replace(' ', '-').replace('/', '-')}.md").write_text(text)


def sides(spec: FeatureSpec) -> dict[str, tuple[np.ndarray, Decode, torch.Tensor]]:
    """For each codec: rows of DISTINCT samples, the call that decodes them on the device, and the CPU's values."""
    x = features(spec)
    found = {}
    for bits in (2, 4, 8):
        codec = codec_for(bits, spec)
        rows = codec.encode(x)
        found[f"zfp {bits} bits"] = (rows, lambda on, out, codec=codec: codec.decode(on, out=out), codec.decode(rows))
    rows, decoded = int_rows(x.numpy(), spec, 4)
    found["int 4 bits"] = (rows, lambda on, out: on_cuda.decode_int(on, spec, 4, None, None, out), decoded)
    return found


def features(spec: FeatureSpec) -> torch.Tensor:
    """ReLU features that neighbouring places share half of."""
    x = torch.randn(DISTINCT, *spec.shape, generator=torch.Generator().manual_seed(0))
    return (x + torch.roll(x, 1, -1) + torch.roll(x, 1, -2)).relu()


def int_rows(x: np.ndarray, spec: FeatureSpec, bits: int) -> tuple[np.ndarray, torch.Tensor]:
    """Rows of the codec `int` with a scale a run, from each run's largest value, and their values."""
    runs = x.reshape(len(x), spec.channels, -1) if spec.kind == "map" else x.transpose(0, 2, 1)
    most = 2**bits - 1
    scale = torch.from_numpy(runs.max(-1) / most).bfloat16()
    step = scale.float().numpy()[..., None]
    number = np.clip(np.rint(runs / np.maximum(step, 1e-30)), 0, most)
    planes = (number.astype(np.uint8)[..., None] >> np.arange(bits)) & 1
    packed = np.packbits(planes.reshape(*number.shape[:2], -1).astype(np.uint8), axis=-1, bitorder="little")
    head = torch.cat([scale, torch.zeros_like(scale)], 1).view(torch.uint8).numpy()
    values = number.astype(np.float32) * step
    values = values.reshape(x.shape) if spec.kind == "map" else values.transpose(0, 2, 1)
    rows = np.concatenate([head, packed.reshape(len(x), -1)], 1)
    return rows, torch.from_numpy(np.ascontiguousarray(values))


def measure(rows: np.ndarray, decode: Decode, expected: torch.Tensor, samples: int, reps: int) -> list[str]:
    """Columns of the table for one codec into one dtype. Raises AssertionError where the values differ."""
    pick = torch.arange(samples) % len(rows)
    on, wanted = torch.from_numpy(rows)[pick].cuda(), expected.cuda()
    out = torch.full((samples, *expected.shape[1:]), torch.nan, dtype=expected.dtype, device="cuda")
    decode(on, out)
    check(out, wanted)
    out.fill_(torch.nan)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        decode(on, out)
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
