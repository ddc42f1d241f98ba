"""Is a feature that was moved better than one that was not? Shifts by parts of a cell, and enlarged boxes.

An image is moved, and what the network says of it is the truth. Beside it: what the rest of the network says of the
feature of the image as it is, moved by S_theta; and of the same feature left where it is. Where moving is the worse of
the two, a recipe had better not move so. Nothing is trained. Grid and fill are measured as extraction does.

    python tools/check_moves.py            # the bundled network, a minute; writes tools/results/check_moves-resnet20.md
    python tools/check_moves.py --model FILE.py:squeezenet --weights FILE --data photos.tar --count 120 \\
        --layer net.features.5 --layer net.features.10 --out tools/results/check_moves-squeezenet.md
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import PREPROCESS, RESNET20, TEST, machine, pictures, results, table, write_page
from PIL import Image

from fmshards.augment import LayerMove, crop_box, move, render, translate
from fmshards.calibration import measure_grid
from fmshards.model import Preprocess, cuts, find_cut, load_model, multi_prefix, parse_preprocess, split

PARTS = (0.125, 0.25, 0.5, 1.0, 1.5, 2.0)
"""Shifts, in cells, along both axes."""
SCALES = (0.98, 0.95, 0.9, 0.8, 0.65, 0.5)
"""Areas of a box, as of resized_crop; its place is drawn."""
LEFT, BATCH, ON_GRID = "left as it is", 20, 8


@dataclass
class Row:
    """One layer under one move: how far what the rest of the network says is from the truth, and how often its first
    choice is the truth's; of the feature moved, and of the feature left as it is."""

    layer: str
    what: str
    apart: dict[str, list[float]] = field(default_factory=lambda: {"moved": [], LEFT: []})
    agree: dict[str, list[bool]] = field(default_factory=lambda: {"moved": [], LEFT: []})

    def add(self, way: str, said: torch.Tensor, truth: torch.Tensor) -> None:
        logs, true = F.log_softmax(said, 1), F.log_softmax(truth, 1)
        self.apart[way] += F.kl_div(logs, true, reduction="none", log_target=True).sum(1).tolist()
        self.agree[way] += (said.argmax(1) == truth.argmax(1)).tolist()

    def cells(self) -> list[str]:
        gap = np.array(self.apart["moved"]) - np.array(self.apart[LEFT])
        error = gap.std() / len(gap) ** 0.5
        verdict = "" if abs(gap.mean()) < 2 * error else "moving is worse" if gap.mean() > 0 else "moving is better"
        return [
            self.layer,
            self.what,
            *(f"{np.mean(self.apart[way]):.3f}" for way in ("moved", LEFT)),
            f"{gap.mean():+.3f} ({error:.3f})",
            *(f"{np.mean(self.agree[way]):.3f}" for way in ("moved", LEFT)),
            verdict,
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=RESNET20[0])
    parser.add_argument("--weights", default=RESNET20[1])
    parser.add_argument("--preprocess", help="by default the model's own")
    parser.add_argument("--data", nargs="+", default=TEST, help="tars of images (jpg, cls)")
    parser.add_argument("--count", type=int, default=400, help="images, evenly spread")
    parser.add_argument("--layer", action="append", help="a cut; several may be given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=results("check_moves-resnet20.md"))
    options = parser.parse_args()
    bundled = options.model == RESNET20[0]
    torch.set_num_threads(options.threads)
    start = time.process_time()
    model = load_model(options.model, options.weights).eval()
    text = options.preprocess or (PREPROCESS if bundled else None)
    preprocess = parse_preprocess(text, model=model, name=options.model)
    images, _ = pictures(options.data, options.count)
    layers = options.layer or ["layer2", "layer3"]
    with torch.no_grad():
        rows, lines = measure(model, preprocess, images, layers, options.seed)
    name = "the published ResNet-20" if bundled else options.model.rpartition(":")[2]
    note = [
        f"{name}, {len(images)} images; {machine(options.threads)}; "
        f"{(time.process_time() - start) / 60:.1f} minutes of CPU time. {' '.join(lines)}",
        "",
        "Apart: the Kullback-Leibler divergence of what the rest of the network says from what the network says of the "
        "moved image, in nats, mean over images, of the feature moved and of the feature left as it is; their "
        "difference with its standard error, and what it says where it is more than twice that. Agree: share of images "
        "whose first choice is that of the moved image. Shifts are along both axes, each way; the boxes are square, "
        "their place is drawn.",
    ]
    header = ["layer", "move", "apart: moved", f"apart: {LEFT}", "difference", "agree: moved", f"agree: {LEFT}", ""]
    title = "Is a feature that was moved better than one that was not?"
    write_page(options.out, [f"# {title}", "", *note, "", *table(header, [row.cells() for row in rows])])


def measure(
    model: torch.nn.Module, preprocess: Preprocess, images: list[Image.Image], layers: list[str], seed: int
) -> tuple[list[Row], list[str]]:
    base = [preprocess.base(image) for image in images]
    example = base[0][None]
    size = (int(example.shape[2]), int(example.shape[3]))
    prefix = multi_prefix(model, layers, example)
    suffixes = {layer: split(model, layer, example)[1] for layer in layers}
    found = cuts(model, example)
    specs = {layer: find_cut(found, layer).spec for layer in layers}
    grids = measure_grid(prefix, torch.stack(base[:: max(1, len(base) // ON_GRID)][:ON_GRID]), specs, seed)
    blank = prefix(preprocess.base(Image.new("RGB", images[0].size))[None])
    how = {layer: LayerMove(specs[layer], size, grids[layer], blank[layer][0]) for layer in layers}
    every = {layer: moves(len(images), grids[layer].stride, size, seed) for layer in layers}
    rows = {(layer, what): Row(layer, what) for layer in layers for what in every[layer]}
    for first in range(0, len(images), BATCH):
        part = slice(first, first + BATCH)
        still = prefix(torch.stack(base[part]))
        truths: dict[bytes, torch.Tensor] = {}  # layers share moves
        for (layer, what), row in rows.items():
            theta, x = every[layer][what][part], still[layer]
            if theta.tobytes() not in truths:
                shown = zip(images[part], theta, strict=True)
                truths[theta.tobytes()] = model(torch.stack([render(image, preprocess, t) for image, t in shown]))
            moved = move(x.clone(), theta, np.zeros(len(x), bool), how[layer])
            row.add("moved", suffixes[layer](moved), truths[theta.tobytes()])
            row.add(LEFT, suffixes[layer](x), truths[theta.tobytes()])
        print(f"{first + len(images[part])} of {len(images)} images", flush=True)
    return list(rows.values()), [f"{k}: stride {g.stride}, offset {g.offset} (y, x)." for k, g in grids.items()]


def moves(count: int, stride: tuple[float, float], size: tuple[int, int], seed: int) -> dict[str, np.ndarray]:
    """By name, thetas float32 [count, 2, 3]."""
    draw = np.random.default_rng(seed)
    way = draw.choice([-1, 1], (2, count))
    at = draw.random((2, count))
    out = {}
    for part in PARTS:
        if any((part * side) % 1 for side in stride):
            continue  # recipes move by whole pixels, and an image moved by a part of one is another, blurred image
        dy, dx = (part * stride[axis] * way[axis] for axis in (0, 1))
        out[f"by {part:g} cells ({part * stride[1]:g} pixels)"] = translate(dx, dy, size).astype(np.float32)
    for scale in SCALES:
        h, w = (side * scale**0.5 for side in size)
        left, top = at[0] * (size[1] - w), at[1] * (size[0] - h)
        out[f"a box of {scale:g} of the area"] = crop_box(left, top, w, h, size).astype(np.float32)
    return out


if __name__ == "__main__":
    main()
