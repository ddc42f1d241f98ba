"""What does the stored channel order gain? Errors of zfp with and without it, on images that did not choose it.

A published ResNet-20 on CIFAR-10 (with the accuracy of the rest of the network on what is decoded), and a ResNet-50 of
RANDOM weights on the same images enlarged to 224: it says what shapes do, not what training makes of channels.

    python tools/check_order.py            # a few minutes on one core; writes tools/results/check_order.md
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from measure import PREPROCESS, RESNET20, TEST, TRAIN, machine, pictures, results, table, write_page
from PIL import Image
from torchvision.models import resnet50

from fmshards.codec import FeatureSpec, codec_for
from fmshards.codec.zfp.channel_order import ChannelSample
from fmshards.codec.zfp.layout import layout_of
from fmshards.model import Preprocess, cuts, find_cut, load_model, multi_prefix, parse_preprocess, split

RATES = (2, 4, 8)
BATCH = 50
COST = FeatureSpec("map", (512, 14, 14))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibration", type=int, default=512, help="training images that choose the order")
    parser.add_argument("--large", type=int, default=64, help="images for the ResNet-50: half choose, half test")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=results("check_order.md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train, _ = pictures(TRAIN, options.calibration)
    test, labels = pictures(TEST)
    lines = [
        "# What the stored channel order gains",
        "",
        f"`python tools/check_order.py --calibration {options.calibration} --large {options.large}`",
        "",
        f"{machine(options.threads)}. dB: relative squared error of `zfp` on images that did not choose the order, "
        "channels as they are / in the stored order, and the difference. The bytes are the same. `tile`: channels of a "
        "mosaic, down x across. `logits`: relative squared error, in dB, of what the rest of the network makes of "
        f"them; accuracies have a standard error of {0.5 / len(test) ** 0.5:.3f}.",
    ]
    with torch.no_grad():
        small = load_model(*RESNET20).eval()
        lines += ["", f"## ResNet-20, published weights, {len(train)} training images, {len(test)} test images", ""]
        lines += network(small, PREPROCESS, ("layer1", "layer2", "layer3"), train, test, labels)
        torch.manual_seed(0)
        large = resnet50(weights=None).eval()
        half = options.large // 2
        lines += ["", f"## ResNet-50, RANDOM weights, the same images at 224, {half} and {half} images", ""]
        layers = ("layer1", "layer2", "layer3", "layer4")
        lines += network(large, f"resize(224)+{PREPROCESS}", layers, train[:half], test[:half], None)
        lines += ["", cost(options.calibration)]
    write_page(options.out, lines)


def network(
    model: torch.nn.Module,
    preprocessing: str,
    layers: tuple[str, ...],
    train: list[Image.Image],
    test: list[Image.Image],
    labels: torch.Tensor | None,
) -> list[str]:
    preprocess = parse_preprocess(preprocessing, model=model)
    example = preprocess.base(train[0])[None]
    found = cuts(model, example)
    prefix = multi_prefix(model, list(layers), example)
    specs = {layer: find_cut(found, layer).spec for layer in layers}
    samples = {layer: ChannelSample(spec, len(train)) for layer, spec in specs.items()}
    for _, features in forward(prefix, preprocess, train):
        for layer in layers:
            samples[layer].add(features[layer])
    ways = {
        (layer, rate): [
            codec_for(rate, spec, order) for order in (None, samples[layer].order(partial(codec_for, rate)))
        ]
        for layer, spec in specs.items()
        for rate in RATES
    }
    error = {key: [0.0, 0.0] for key in ways}
    right, gone = {key: [0, 0] for key in ways}, {key: [0.0, 0.0] for key in ways}
    energy, exact = dict.fromkeys(layers, 0.0), dict.fromkeys(layers, 0)
    suffixes = {layer: split(model, layer, example)[1] for layer in layers} if labels is not None else {}
    for chosen, features in forward(prefix, preprocess, test):
        for layer in layers:
            x = features[layer]
            energy[layer] += float(x.double().square().sum())
            if labels is not None:
                wanted = suffixes[layer](x)
                exact[layer] += int((wanted.argmax(1) == labels[chosen]).sum())
            for rate in RATES:
                for i, codec in enumerate(ways[layer, rate]):
                    back = codec.decode(codec.encode(x))
                    error[layer, rate][i] += float((back - x).double().square().sum())
                    if labels is not None:
                        logits = suffixes[layer](back)
                        right[layer, rate][i] += int((logits.argmax(1) == labels[chosen]).sum())
                        gone[layer, rate][i] += float((logits - wanted).square().sum() / wanted.square().sum())
    head = ["layer", "shape", "tile", *(f"{rate} bits" for rate in RATES)]
    if labels is not None:
        head += [f"logits at {rate}" for rate in RATES]
        head += ["accuracy as it is", *(f"accuracy at {rate}" for rate in RATES)]
    rows = []
    for layer, spec in specs.items():
        cells = [layer, "x".join(map(str, spec.shape)), "{}x{}".format(*layout_of(spec).tile)]
        for rate in RATES:
            plain, ordered = (decibel(e / energy[layer]) for e in error[layer, rate])
            cells.append(f"{plain:.2f} / {ordered:.2f}: **{plain - ordered:.2f}**")
        if labels is not None:
            batches = -(-len(test) // BATCH)
            cells += [" / ".join(f"{decibel(e / batches):.2f}" for e in gone[layer, rate]) for rate in RATES]
            cells.append(f"{exact[layer] / len(labels):.4f}")
            cells += [" / ".join(f"{n / len(labels):.4f}" for n in right[layer, rate]) for rate in RATES]
        rows.append(cells)
    return table(head, rows)


def forward(
    prefix: torch.nn.Module, preprocess: Preprocess, images: list[Image.Image]
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    for first in range(0, len(images), BATCH):
        chosen = list(range(first, min(first + BATCH, len(images))))
        yield chosen, prefix(torch.stack([preprocess.base(images[i]) for i in chosen]))


def decibel(ratio: float) -> float:
    return 10 * float(torch.log10(torch.tensor(ratio)))


def cost(samples: int) -> str:
    """What choosing takes at a large layer: sums over the sample, then the order and the judgement."""
    sample = ChannelSample(COST, samples)
    x = torch.randn(BATCH, *COST.shape).relu_()
    start = time.perf_counter()
    for first in range(0, samples, BATCH):
        sample.add(x[: min(BATCH, samples - first)])
    summed = time.perf_counter()
    sample.order(partial(codec_for, 4))
    ended = time.perf_counter()
    shape = "x".join(map(str, COST.shape))
    return (
        f"Cost of choosing for one layer of {shape}, {samples} samples: {summed - start:.1f} s for the sums, "
        f"{ended - summed:.1f} s for the order and its judgement."
    )


if __name__ == "__main__":
    main()
