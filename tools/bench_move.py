"""How fast are features moved on a CPU? The one pass of on_cpu.py, torch's own operations, and memcpy, in turns.

    python tools/bench_move.py            # about a minute on one core; writes tools/results/bench_move.md

GB/s of float32 output on one thread, medians; what was measured in turns is in one row.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from measure import in_turns, machine, median, results, seconds, write_page

from fmshards.augment import FLIP, LayerMove, compose, crop_box, move, replace, translate
from fmshards.augment.features import on_torch
from fmshards.codec import FeatureSpec
from fmshards.shards import Grid

SHAPES = [
    FeatureSpec("map", (16, 32, 32)),
    FeatureSpec("map", (32, 16, 16)),
    FeatureSpec("map", (64, 8, 8)),
    FeatureSpec("map", (64, 56, 56)),
    FeatureSpec("map", (128, 28, 28)),
    FeatureSpec("map", (256, 14, 14)),
    FeatureSpec("map", (512, 7, 7)),
    FeatureSpec("map_last", (14, 14, 256)),
    FeatureSpec("tokens", (197, 384), (14, 14), 1),
]
STRIDE = 4.0
BATCH_BYTES = 4 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reps", type=int, default=9)
    parser.add_argument("--out", type=Path, default=results("bench_move.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Moving features on a CPU",
        "",
        f"`python tools/bench_move.py --reps {options.reps}`",
        "",
        f"{machine(1)}. GB/s of float32 output, one thread by its CPU time, {options.reps} rounds in turns: the one "
        "pass / the torch path; medians, in brackets the best round, as the machine was shared. Batches of about "
        f"{BATCH_BYTES >> 20} MB, each sample with a move of its own; shifts of at most one cell. `memcpy`: the batch "
        "copied into memory that is there. `shift + 25% of channels`: with a view's channels put in; the torch path "
        "moves, then replaces.",
        "",
        "| feature | memcpy | flip | whole cells | shift | flip + shift | resized_crop | shift + 25% of channels |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for spec in SHAPES:
        lines.append(row(spec, options.reps))
        print(lines[-1], flush=True)
    write_page(options.out, lines)


def row(spec: FeatureSpec, reps: int) -> str:
    n = max(8, BATCH_BYTES // (4 * spec.values))
    x, to = torch.randn(n, *spec.shape), torch.empty(n, *spec.shape)
    fill = torch.randn(spec.shape)
    h, w = spec.spatial or (0, 0)
    size = (int(STRIDE) * h, int(STRIDE) * w)
    grid = Grid((STRIDE, STRIDE), ((STRIDE - 1) / 2,) * 2)
    sensitive = tuple(range(0, spec.channels, 4))
    view = torch.randn(n, *spec.select(len(sensitive)).shape)

    layer = LayerMove(spec, size, grid, fill, sensitive)

    def one_pass(theta: np.ndarray, stored: torch.Tensor | None) -> torch.Tensor:
        return move(x, theta, np.zeros(n, bool), layer, stored)

    def by_torch(theta: np.ndarray, stored: torch.Tensor | None) -> torch.Tensor:
        moved = on_torch.move(x, torch.from_numpy(theta).double(), layer, look=True)
        return moved if stored is None else replace(moved, stored, sensitive, spec)

    cells = []
    copied: list[list[float]] = []
    for name, theta in moves(size, n).items():
        stored = view if name == "channels" else None
        sides = (lambda t=theta, s=stored: one_pass(t, s), lambda t=theta, s=stored: by_torch(t, s))
        assert torch.allclose(sides[0](), sides[1](), atol=1e-5)
        new, old, copy = in_turns(reps, *(seconds(side, time.thread_time) for side in (*sides, lambda: to.copy_(x))))
        copied.append(copy)
        cells.append(" / ".join(speed(x.nbytes, took) for took in (new, old)))
    name = f"{spec.kind} {'x'.join(map(str, spec.shape))}"
    return " | ".join([f"| {name}", speed(x.nbytes, [s for some in copied for s in some]), *cells]) + " |"


def speed(size: int, took: list[float]) -> str:
    return f"{size / median(took) / 1e9:.1f} ({size / min(took) / 1e9:.1f})"


def moves(size: tuple[int, int], n: int) -> dict[str, np.ndarray]:
    """theta float32[n, 2, 3] of each kind of move; whole pixels, of which four make a cell."""
    rng = np.random.default_rng(0)
    cell = int(STRIDE)
    whole = [translate(cell * a, cell * b, size) for a, b in rng.integers(-1, 2, (n, 2))]
    shifts = [translate(a, b, size) for a, b in rng.integers(1 - cell, cell, (n, 2))]
    boxes = []
    for scale, y, x in rng.uniform((0.5, 0, 0), (1, 1, 1), (n, 3)):
        side = (scale**0.5 * size[0], scale**0.5 * size[1])
        boxes.append(crop_box(y * (size[0] - side[0]), x * (size[1] - side[1]), *side, size))
    made = {
        "flip": [FLIP] * n,
        "whole": whole,
        "shift": shifts,
        "flip and shift": [compose(FLIP, each) for each in shifts],
        "boxes": boxes,
        "channels": shifts,
    }
    return {name: np.stack(each).astype(np.float32) for name, each in made.items()}


if __name__ == "__main__":
    main()
