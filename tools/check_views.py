"""What must be stored so that moved features serve the rest of the network? The table that decided the augmentation.

A published ResNet-20, cut after layer1, layer2 and layer3; real CIFAR-10 test images. Each image is moved by a recipe,
and its feature is made in different ways from what a set would store. Truth is the feature of the moved image. The
published rest of the network, untouched, then classifies: accuracy shows how much of the feature it can still use.

In a recipe that flips EVERY sample is flipped here (in training it is half of them): the unflipped are the recipe
without its flip. Grid, fill, mirror maps and sensitive channels come from `fmshards.calibration.calibrate` on training
images.

    python tools/check_views.py            # about 5 minutes on one core; writes tools/results/check_views.md
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from measure import DATA, PREPROCESS, RESNET20, TRAIN, machine, pictures, results, write_page
from PIL import Image

from fmshards.augment import LayerMove, Mirror, MirrorMap, Recipe, fresh_theta, move, parse_recipe, render
from fmshards.augment import replace as put
from fmshards.calibration import Comparison, LayerCalibration, Sensitive, calibrate, cell_centres
from fmshards.codec import FeatureSpec
from fmshards.model import Preprocess, cuts, find_cut, load_model, multi_prefix, parse_preprocess, split
from fmshards.shards import Grid

LAYERS = ("layer1", "layer2", "layer3")
RECIPES = ("crop(pad=4, step=1)", "flip", "flip+crop(pad=4, step=1)", "resized_crop(scale=(0.5, 1.0))")
FRACTIONS = (0.25, 0.5)
BATCH = 250


@dataclass(frozen=True)
class Batch:
    """Features of one batch by name of layer: of the images, of their flips, of the moved images; and the moves."""

    base: dict[str, torch.Tensor]
    mirror: dict[str, torch.Tensor]
    true: dict[str, torch.Tensor]
    theta: np.ndarray
    flips: np.ndarray
    size: tuple[int, int]


Way = Callable[[Batch], torch.Tensor]


@dataclass
class Row:
    """One line of the table: how the feature is made, and what came of it."""

    layer: str
    recipe: str
    stored: str
    size: str
    grid: str
    fill: str
    way: Way
    comparison: Comparison
    right: int = 0
    seen: int = 0

    @property
    def accuracy(self) -> float:
        return self.right / self.seen

    @property
    def error(self) -> float:
        return self.comparison.relative_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of test tars (jpg, cls)")
    parser.add_argument("--pattern", default="cifar10-test-*.tar", help="which tars of the folder")
    parser.add_argument("--calibration", type=int, default=512, help="training images to calibrate on")
    parser.add_argument("--looks", type=int, default=1, help="moves of each image by each recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=results("check_views.md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.process_time()
    model = load_model(*RESNET20).eval()
    preprocess = parse_preprocess(PREPROCESS, model=model)
    train, _ = pictures(TRAIN, options.calibration)
    images, labels = pictures(sorted(options.data.glob(options.pattern)))
    with torch.no_grad():
        lines, rows = measure(model, preprocess, train, images, labels, options.looks, options.seed)
    text = report(rows, lines, len(images), options, time.process_time() - start)
    write_page(options.out, [text])


def measure(
    model: torch.nn.Module,
    preprocess: Preprocess,
    train: list[Image.Image],
    images: list[Image.Image],
    labels: torch.Tensor,
    looks: int,
    seed: int,
) -> tuple[list[str], list[Row]]:
    example = preprocess.base(images[0])[None]
    prefix = multi_prefix(model, list(LAYERS), example)
    suffixes = {layer: split(model, layer, example)[1] for layer in LAYERS}
    found = cuts(model, example)
    specs = {layer: find_cut(found, layer).spec for layer in LAYERS}
    lines: list[str] = []
    rows: list[Row] = []
    still = Row("", "none", "", "", "", "", lambda b: b.base[LAYERS[-1]], Comparison.empty(specs[LAYERS[-1]]))
    for text in RECIPES:
        recipe = parse_recipe(text)
        own, grids = rows_of(text, recipe, prefix, preprocess, train, specs, seed)
        rows += own
        for look in range(looks):
            for first in range(0, len(images), BATCH):
                ids = range(first, min(first + BATCH, len(images)))
                batch = make(prefix, preprocess, [images[i] for i in ids], ids, recipe, seed, look)
                for row in own:
                    score(row, row.way(batch), batch.true[row.layer], suffixes[row.layer], labels[ids.start : ids.stop])
                if text == RECIPES[0] and look == 0:
                    x = batch.base[LAYERS[-1]]
                    score(still, x, x, suffixes[LAYERS[-1]], labels[ids.start : ids.stop])
        if not lines:
            lines.append(f"Accuracy on the images as they are: {still.right / still.seen:.4f}.")
            lines += [f"Measured grid of {k}: stride {g.stride}, offset {g.offset} (y, x)." for k, g in grids.items()]
    return lines, rows


def make(
    prefix: torch.nn.Module,
    preprocess: Preprocess,
    images: list[Image.Image],
    ids: Sequence[int],
    recipe: Recipe,
    seed: int,
    look: int,
) -> Batch:
    x = torch.stack([preprocess.base(image) for image in images])
    size = (int(x.shape[2]), int(x.shape[3]))
    flips = np.full(len(images), recipe.flips)
    theta = fresh_theta(recipe, seed, look, np.array(ids), flips, size)
    moved = torch.stack([render(image, preprocess, t) for image, t in zip(images, theta, strict=True)])
    base = prefix(x)
    mirror = prefix(x.flip(-1)) if recipe.flips else base
    return Batch(base, mirror, prefix(moved), theta, flips, size)


def score(row: Row, made: torch.Tensor, true: torch.Tensor, suffix: torch.nn.Module, labels: torch.Tensor) -> None:
    row.comparison.add(made, true)
    row.right += int((suffix(made).argmax(1) == labels).sum())
    row.seen += len(labels)


def rows_of(
    text: str,
    recipe: Recipe,
    prefix: torch.nn.Module,
    preprocess: Preprocess,
    train: list[Image.Image],
    specs: dict[str, FeatureSpec],
    seed: int,
) -> tuple[list[Row], dict[str, Grid]]:
    """All ways to make this recipe's features, with what calibration finds for each."""

    def found(mirror: Mirror, fraction: float) -> dict[str, LayerCalibration]:
        return calibrate(prefix, train, preprocess, recipe, mirror, 1, Sensitive(fraction=fraction), specs, seed=seed)

    none = {f: found(Mirror("none"), f) for f in FRACTIONS}
    plain = none[FRACTIONS[0]]
    stored = {f: found(Mirror("stored"), f) for f in FRACTIONS} if recipe.flips and recipe.moves else {}
    mapped = {k: found(Mirror("mapped", k), FRACTIONS[0]) for k in (1, 3)} if recipe.flips else {}
    shape = preprocess.base(train[0]).shape
    size = (int(shape[1]), int(shape[2]))
    rows: list[Row] = []
    for layer, spec in specs.items():

        def add(
            stored: str,
            bytes_: str,
            way: Way,
            grid: str = "measured",
            fill: str = "blank",
            layer: str = layer,
            spec: FeatureSpec = spec,
        ) -> None:
            rows.append(Row(layer, text, stored, bytes_, grid, fill, way, Comparison.empty(spec)))

        own = plain[layer]
        centres = cell_centres(size, spec.spatial)
        grids = {"measured": own.grid, "centres": centres, "corners": replace(own.grid, offset=(0.0, 0.0))}
        middle = own.fill[:, spec.shape[1] // 2, spec.shape[2] // 2]
        fills = {"blank": own.fill, "its centre": middle[:, None, None].expand(spec.shape), "zeros": None}
        naive = {
            (g, f): follow(layer, spec, grids[g], fills[f])
            for g, f in (
                ("measured", "blank"),
                ("measured", "its centre"),
                ("measured", "zeros"),
                ("centres", "blank"),
                ("centres", "zeros"),
                ("corners", "blank"),
            )
        }
        for (g, f), way in naive.items():
            add("nothing", "1x", way, g, f)
        way = naive["measured", "blank"]
        for f in FRACTIONS:
            most = none[f][layer].sensitive
            add(f"{f:.0%} of channels, by error", f"1x + {f}x a view", views(way, most, layer, spec))
            least = np.argsort(own.similarity.cosine, kind="stable")[: len(most)]
            channels = tuple(sorted(int(c) for c in least))
            add(f"{f:.0%} of channels, by cosine", f"1x + {f}x a view", views(way, channels, layer, spec))
        if recipe.flips:
            mirror = follow(layer, spec, own.grid, own.fill, mirror=True)
            add("mirror", "2x", mirror)
            if recipe.moves:
                add("mirror", "2x", follow(layer, spec, own.grid, None, mirror=True), fill="zeros")
                for f in FRACTIONS:
                    some = stored[f][layer].sensitive
                    add(f"mirror, {f:.0%} of channels", f"2x + {f}x a view", views(mirror, some, layer, spec))
            for k, results in mapped.items():
                fitted = results[layer].mirror_map
                add(f"mirror mapped {k}x{k}", "1x", map_mirror(layer, spec, own.grid, own.fill, fitted))
        add("everything", "1x a view", lambda b, layer=layer: b.true[layer], "", "")
    return rows, {layer: plain[layer].grid for layer in specs}


def follow(layer: str, spec: FeatureSpec, grid: Grid, fill: torch.Tensor | None, mirror: bool = False) -> Way:
    """The base's feature moved and flipped; or the mirror's, moved."""

    def way(b: Batch) -> torch.Tensor:
        x, mirrored = (b.mirror, b.flips) if mirror else (b.base, np.zeros_like(b.flips))
        return move(x[layer], b.theta, mirrored, LayerMove(spec, b.size, grid, fill))

    return way


def map_mirror(layer: str, spec: FeatureSpec, grid: Grid, fill: torch.Tensor | None, fitted: MirrorMap) -> Way:
    return lambda b: move(fitted.apply(b.base[layer]), b.theta, b.flips, LayerMove(spec, b.size, grid, fill))


def views(way: Way, channels: tuple[int, ...], layer: str, spec: FeatureSpec) -> Way:
    """What `way` makes, with these channels exact."""
    return lambda b: put(way(b), b.true[layer][:, list(channels)], channels, spec)


def report(rows: list[Row], lines: list[str], images: int, options: argparse.Namespace, seconds: float) -> str:
    worst = 0.5 / images**0.5
    out = [
        "# What must be stored so that moved features serve",
        "",
        "`python tools/check_views.py"
        + "".join(
            f" --{k} {v}"
            for k, v in (("calibration", options.calibration), ("looks", options.looks), ("seed", options.seed))
        )
        + f" --threads {options.threads}"
        + ("" if options.pattern == "cifar10-test-*.tar" else f" --pattern '{options.pattern}'")
        + ("`" if options.data == DATA else " --data FOLDER`"),
        "",
        f"{machine(options.threads)}; {seconds / 60:.1f} minutes of CPU time. {images} test images, published "
        f"ResNet-20, {options.calibration} calibration images. " + " ".join(lines),
        "",
        f"Accuracy: of the published rest of the network on the made features (standard error at most {worst:.3f}; "
        "rows of a recipe see the same moves, so that their differences are steadier). Error and cosine: against the "
        "feature of the moved image, over all channels; error is squared and relative. Where a recipe flips, every "
        "sample is flipped. Bytes: of whole features at one rate. Grid: `measured`; `centres`: cells at their centres "
        "(the plain flip); `corners`: cell i at pixel stride * i. Fill: what comes in from outside is the feature of "
        "a `blank` image at that cell, `its centre`, or `zeros`. layer3 goes through an average over all places, so "
        "its accuracy does not see where things are: its errors do. The network was not trained on enlarged boxes: for "
        "resized_crop the truth itself scores lower, and the errors are what counts.",
    ]
    out += ["", *summary(rows)]
    for layer in dict.fromkeys(r.layer for r in rows):
        for recipe in dict.fromkeys(r.recipe for r in rows):
            out += ["", f"## {layer}, `{recipe}`", ""]
            out += ["| stored | bytes | grid | fill | accuracy | error | cosine |", "|---|---|---|---|---|---|---|"]
            for r in rows:
                if (r.layer, r.recipe) == (layer, recipe):
                    c = r.comparison
                    out.append(
                        f"| {r.stored} | {r.size} | {r.grid} | {r.fill} | {r.accuracy:.4f} "
                        f"| {r.error:.4f} | {c.cosine:.4f} |"
                    )
    return "\n".join(out) + "\n"


M3, M1 = ("mirror mapped 3x3",), ("mirror mapped 1x1",)
F3 = (("nothing", "measured", "its centre"), ("nothing", "measured", "zeros"))
G3 = (("nothing", "centres", "blank"), ("nothing", "corners", "blank"))
BY = ("by error", "by cosine")


def summary(rows: list[Row]) -> list[str]:
    """The main questions, one a line; a column a layer."""
    by = {(r.layer, r.recipe, r.stored, r.grid, r.fill): r for r in rows}
    crop, flip, both = RECIPES[:3]

    def at(layer: str, recipe: str, stored: str, grid: str = "measured", fill: str = "blank") -> Row:
        return by[(layer, recipe, stored, "", "") if stored == "everything" else (layer, recipe, stored, grid, fill)]

    def line(question: str, what: str, recipe: str, *cases: tuple[str, ...]) -> str:
        cells = [" / ".join(f"{getattr(at(k, recipe, *case), what):.3f}" for case in cases) for k in LAYERS]
        return f"| {question} | {what} | " + " | ".join(cells) + " |"

    true, none = ("everything",), ("nothing",)
    quarter, half = f"{FRACTIONS[0]:.0%} of channels", f"{FRACTIONS[1]:.0%} of channels"
    return [
        "## In short",
        "",
        "| question | measure | " + " | ".join(LAYERS) + " |",
        "|---|---|" + "---|" * len(LAYERS),
        line("do features follow shifts? feature moved / feature of the moved image", "accuracy", crop, none, true),
        line("do they follow flips? the same", "accuracy", flip, none, true),
        line("flips: mirror stored / mapped 3x3 / mapped 1x1", "accuracy", flip, ("mirror",), M3, M1),
        line("flips: mirror mapped 3x3 / mapped 1x1 / nothing", "error", flip, M3, M1, none),
        line("both: nothing / mirror mapped 3x3 / stored / truth", "accuracy", both, none, M3, ("mirror",), true),
        line("fill for shifts: blank / its centre / zeros", "error", crop, none, *F3),
        line("fill for shifts: blank / its centre / zeros", "accuracy", crop, none, *F3),
        line("grid for bare flips: measured / centres / corners", "error", flip, none, *G3),
        line("grid for bare flips: measured / centres / corners", "accuracy", flip, none, *G3),
        line(f"flips, {quarter}: by error / by cosine", "accuracy", flip, *((f"{quarter}, {b}",) for b in BY)),
        line(f"flips, {half}: by error / by cosine", "accuracy", flip, *((f"{half}, {b}",) for b in BY)),
        line(f"shifts, {quarter} / {half} / all", "error", crop, *((f"{q}, {BY[0]}",) for q in (quarter, half)), true),
    ]


if __name__ == "__main__":
    main()
