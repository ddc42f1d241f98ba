"""What a rate costs and gives on real features, and where the filter pays.

Features of a published ResNet-20 on real CIFAR-10 test images, cut after layer1, layer2 and layer3; and the input of
layer2's last ReLU, for features with values below 0. Steps of channels are fitted on training images. For each rate:
bits a value in memory and in the store, without and with the filter; the relative squared error; the accuracy of the
published rest of the network on the decoded features; MB/s of float32, one core, in memory: encoding, decoding, and
undoing the filter. From these, for stores of some speeds, the time until rows are there: bytes / speed + undoing the
filter (in one thread, after the bytes: a reader overlaps the two, so that this is the worst case).

    python tools/check_codecs.py            # about 3 minutes on one core; writes tools/results/check_codecs.md
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import zstandard
from check_views import LAYERS
from measure import (
    PREPROCESS,
    RESNET20,
    TEST,
    TRAIN,
    in_turns,
    machine,
    median,
    pictures,
    results,
    seconds,
    write_page,
)

from fmshards.codec import Codec, FeatureSpec, codec_for
from fmshards.codec.integer.codec import IntCodec
from fmshards.codec.integer.steps import StepSample, fit_steps
from fmshards.model import cuts, find_cut, load_model, multi_prefix, parse_preprocess, split

RATES = ("2", "4", "8", "int2", "int3", "int4", "int8", *(f"int{b}-channel" for b in range(2, 9)), "fp16", "bf16")
SIGNED = "layer2.2.bn2"
SORTED = ("2", "4", "8", "int2", "int3", "int4", "int8", "fp16", "bf16")
SORTING = (
    "",
    "## Sorting before zstd",
    "",
    "Bits a value: as they are / sorted by the bytes of items, which is the filter / by their bits (bitshuffle).",
    "",
    "| layer | rate | level 1 | level 3 |",
    "|---|---|---|---|",
)
STORES = (50, 200, 1000)  # MB/s
BATCH, CHUNK = 250, 256
_REPEATS = 5


@dataclass
class Row:
    """One rate on one layer. bits: in memory, stored, stored with the filter. speeds: MB/s of float32."""

    layer: str
    rate: str
    bits: tuple[float, float]
    error: float
    accuracy: float | None
    encode: float
    decode: float
    undo: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="test images")
    parser.add_argument("--calibration", type=int, default=512, help="training images that steps are fitted on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=results("check_codecs.md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    began = time.perf_counter()
    with torch.no_grad():
        rows, steps, plain = measure(options.images, options.calibration)
    text = report(rows, steps, plain, options, time.perf_counter() - began)
    write_page(options.out, [text])


def measure(images: int, calibration: int) -> tuple[list[Row], list[str], float]:
    model = load_model(*RESNET20).eval()
    preprocess = parse_preprocess(PREPROCESS, model=model)
    test, labels = pictures(TEST, images)
    train, _ = pictures(TRAIN, calibration)
    x, seen = (torch.stack([preprocess.base(image) for image in part]) for part in (test, train))
    found = cuts(model, x[:1])
    specs = {layer: find_cut(found, layer).spec for layer in LAYERS}
    suffixes = {layer: split(model, layer, x[:1])[1] for layer in LAYERS}
    features, sample = (features_of(model, part) for part in (x, seen))
    specs[SIGNED] = FeatureSpec("map", tuple(features[SIGNED].shape[1:]))
    rows, lines, sorting = [], [], []
    for layer, spec in specs.items():
        values = StepSample(spec)
        values.add(sample[layer])
        suffix = suffixes.get(layer)
        right = None if suffix is None else lambda y, s=suffix: accuracy(s, y, labels)
        rows += [measure_rate(layer, rate, spec, values, features[layer], right) for rate in RATES]
        lines.append(compare_steps(layer, spec, values, features[layer]))
        sorting += [compare_sorting(layer, rate, spec, features[layer][:CHUNK]) for rate in SORTED]
    return rows, [*lines, *SORTING, *sorting], accuracy(suffixes["layer3"], features["layer3"], labels)


def features_of(model: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each layer's features of images [N, 3, H, W], and what goes into layer2's last ReLU."""
    prefix, parts = multi_prefix(model, list(LAYERS), x[:1]), []
    caught: list[torch.Tensor] = []
    last = model.layer2[-1]
    hook = last.bn2.register_forward_hook(lambda module, args, out: caught.append(out.clone()))
    for batch in x.split(BATCH):
        parts.append(prefix(batch))
    caught.clear()
    for batch in x.split(BATCH):
        model(batch)
    hook.remove()
    return {**{name: torch.cat([p[name] for p in parts]) for name in LAYERS}, SIGNED: torch.cat(caught)}


def accuracy(suffix: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor) -> float:
    right = sum(int((suffix(a).argmax(1) == b).sum()) for a, b in zip(x.split(BATCH), labels.split(BATCH), strict=True))
    return right / len(labels)


def measure_rate(
    layer: str,
    rate: str,
    spec: FeatureSpec,
    values: StepSample,
    x: torch.Tensor,
    right: Callable[[torch.Tensor], float] | None,
) -> Row:
    bits, of_channels = IntCodec.setting(rate) or (0, False)
    # The table has one kind of step in both columns: that of a set with the filter.
    codec, filtered = (
        codec_for(rate, spec, steps=fit_steps(values, bits, True) if of_channels else None, filter=name)
        for name in (None, "zstd")
    )
    rows, decoded, stored = codec.encode(x), torch.empty_like(x), stored_bits(filtered, x)
    part = x[:CHUNK]
    some = codec.encode(part)
    member, out = filtered.member(some), torch.empty_like(part)
    codec.decode(rows, out=decoded)
    megabytes = 4 * part.numel() / 1e6
    calls = (
        lambda: codec.encode(part),
        lambda: codec.decode(some, out=out),
        lambda: filtered.rows(member, CHUNK),
    )
    # CPU time, since others may use the cores.
    sides = [seconds(call, time.process_time) for call in calls]
    encode, decode, undo = map(median, in_turns(_REPEATS, *sides))
    return Row(
        layer=layer,
        rate=rate,
        bits=(8 * codec.row_bytes / spec.values, stored),
        error=db(decoded, x),
        accuracy=None if right is None else right(decoded),
        encode=megabytes / encode,
        decode=megabytes / decode,
        undo=megabytes / undo,
    )


def compare_steps(layer: str, spec: FeatureSpec, values: StepSample, x: torch.Tensor) -> str:
    """Own steps against one for all channels, whatever `fit_steps` would choose, at the bytes that own steps take."""
    lines = []
    for common in (False, True):
        points = []
        for bits in range(2, 9):
            scale, offset = fit_steps(values, bits)
            if common:
                scale = tuple(max(scale) if s > 0 else 0.0 for s in scale)
            codec = codec_for(f"int{bits}-channel", spec, steps=(scale, offset), filter="zstd")
            points.append((stored_bits(codec, x), db(codec.decode(codec.encode(x)), x)))
        lines.append(points)
    own, one = lines
    at, errors = zip(*one, strict=True)
    gained = [e - float(np.interp(b, at, errors)) for b, e in own if at[0] <= b <= at[-1]]
    shown = ", ".join(f"{b:.2f}" for b, _ in own if at[0] <= b <= at[-1])
    return f"| {layer} | {shown} | " + ", ".join(f"{g:+.1f}" for g in gained) + " |"


def compare_sorting(layer: str, rate: str, spec: FeatureSpec, x: torch.Tensor) -> str:
    """Bits a value of a chunk in a frame: bytes as they are, by bytes of items, by bits of items (bitshuffle)."""
    codec = codec_for(rate, spec)
    data, size = codec.member(codec.encode(x)), codec.item_bytes
    whole = len(data) // size * size
    items = np.frombuffer(data, np.uint8, whole).reshape(-1, size)
    planes = np.packbits(np.unpackbits(items, axis=1, bitorder="little").T, bitorder="little")
    forms = (data, items.T.tobytes() + data[whole:], planes.tobytes() + data[whole:])
    frames = [[len(zstandard.compress(form, level)) for form in forms] for level in (1, 3)]
    shown = " | ".join(" / ".join(f"{8 * size / x.numel():.2f}" for size in level) for level in frames)
    return f"| {layer} | {rate} | {shown} |"


def stored_bits(codec: Codec, x: torch.Tensor) -> float:
    """Bits a value of the members, in chunks as a set has them."""
    return 8 * sum(len(codec.member(codec.encode(part))) for part in x.split(CHUNK)) / x.numel()


def db(found: torch.Tensor, x: torch.Tensor) -> float:
    return float(10 * torch.log10((found - x).double().square().sum() / x.double().square().sum()))


def report(rows: list[Row], steps: list[str], plain: float, options: argparse.Namespace, seconds: float) -> str:
    out = [
        "# Rates and the filter on real features",
        "",
        f"`python tools/check_codecs.py --images {options.images} --calibration {options.calibration} "
        f"--threads {options.threads}`",
        "",
        f"{machine(options.threads)}; {seconds / 60:.1f} minutes. {options.images} test images, published ResNet-20; "
        f"accuracy without a codec {plain:.3f} (standard error at most {0.5 / options.images**0.5:.3f}; all rows see "
        "the same images). Bits: a value, in the store without and with the filter. Speeds: MB/s of float32 in memory.",
        "",
        f"Time: until {CHUNK} samples' rows are there from a store of {' / '.join(map(str, STORES))} MB/s, with the "
        "filter as a part of without; the filter pays where it is under 1. `pays below`: the speed of a store, MB/s, "
        "under which it does. One core; with several workers each undoes its own, and they share the store's speed.",
        "",
        *in_short(rows),
    ]
    for layer in dict.fromkeys(row.layer for row in rows):
        title = f"{layer} (before its ReLU)" if layer == SIGNED else layer
        out += ["", f"## {title}", ""]
        out += [
            "| rate | bits | filtered | ratio | error dB | accuracy | encode | decode | unfilter | time | pays below |"
        ]
        out += ["|---|---|---|---|---|---|---|---|---|---|---|"]
        for row in (row for row in rows if row.layer == layer):
            bits, stored = row.bits
            right = "" if row.accuracy is None else f"{row.accuracy:.3f}"
            out.append(
                f"| {row.rate} | {bits:.2f} | {stored:.2f} | {bits / stored:.2f} | {row.error:.1f} | {right} "
                f"| {row.encode:,.0f} | {row.decode:,.0f} | {row.undo:,.0f} "
                f"| {' / '.join(f'{paid(row, store):.2f}' for store in STORES)} | {even(row):,.0f} |"
            )
    out += [
        "",
        "## Steps of channels behind the filter",
        "",
        "One step for all channels against each channel's own (least squares), both filtered: by how many dB the error "
        "of one step is less at the bits a value that int2 to int8 with own steps take. `fit_steps` takes one step "
        "where a filter is on and no value is below 0, own steps elsewhere.",
        "",
        "| layer | bits | dB gained by one step |",
        "|---|---|---|",
        *steps,
    ]
    return "\n".join(out) + "\n"


def even(row: Row) -> float:
    """MB/s of a store at which the filter takes as long as it spares."""
    bits, stored = row.bits
    return max(0.0, (bits - stored) / 32 * row.undo)


def in_short(rows: list[Row]) -> list[str]:
    """For each store, the rates for which the filter pays, over the layers after a ReLU."""
    rates = list(dict.fromkeys(row.rate for row in rows))
    lines = []
    for store in STORES:
        pays = [rate for rate in rates if all(even(r) > store for r in rows if r.rate == rate and r.layer in LAYERS)]
        lines.append(f"- {store} MB/s: it pays on all three layers for {', '.join(pays) or 'none'}.")
    return ["On features after a ReLU, from a store of", "", *lines]


def paid(row: Row, store: float) -> float:
    """Seconds with the filter over seconds without, for a MB of float32."""
    bits, stored = row.bits
    return (stored / 32 / store + 1 / row.undo) / (bits / 32 / store)


if __name__ == "__main__":
    main()
