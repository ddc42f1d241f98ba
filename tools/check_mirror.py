"""How much of a mirror must be stored? Each share of its channels, with what may stand in for the others.

Test images are flipped, and the flipped image's feature is made from the image's own as a set with such a mirror would
make it: the stored channels are the true ones, the others mapped by a K x K map or flipped. The untouched rest of the
network classifies both: agreement is the share of images whose first choice is that of the true feature. Nothing is
compressed. Maps, grid, fill and channels are found on other images as `fmshards extract` finds them.

    python tools/check_mirror.py      # ResNet-20, bundled images; writes tools/results/check_mirror-resnet20.md
    python tools/check_mirror.py --other MODEL WEIGHTS TARS CUTS --out PAGE    # another network, photos of yours
"""

from __future__ import annotations

import argparse
import glob
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import PREPROCESS, RESNET20, TEST, TRAIN, machine, pictures, results, table, write_page
from PIL import Image

from fmshards.augment import FLIP, LayerMove, MirrorParts
from fmshards.calibration import Comparison, FoundMirror, measure_grid
from fmshards.calibration.mirror_fit import MirrorSample
from fmshards.calibration.sensitive import largest
from fmshards.model import Cut, Preprocess, cuts, find_cut, load_model, multi_prefix, parse_preprocess, split

FRACTIONS = (0.0, 0.1, 0.3, 0.5, 1.0)
RESTS = ("flip", "map, kernel=1", "map, kernel=3")
KERNELS = {"map, kernel=1": 1, "map, kernel=3": 3}
BATCH = 25
GRID_IMAGES = 8


@dataclass(frozen=True)
class Network:
    """A network with the images that its mirrors are found on and judged by. cuts: names."""

    name: str
    model: torch.nn.Module
    preprocess: Preprocess
    cuts: tuple[str, ...]
    fit: list[Image.Image]
    test: list[Image.Image]

    def batches(self, images: Sequence[Image.Image]) -> list[torch.Tensor]:
        """Base images, `BATCH` at a time."""
        every = [self.preprocess.base(image) for image in images]
        return list(torch.stack(every).split(BATCH))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", nargs=4, metavar=("MODEL", "WEIGHTS", "TARS", "CUTS"), help="CUTS: with commas")
    parser.add_argument("--fit", type=int, default=200, help="images that maps and channels are found on")
    parser.add_argument("--test", type=int, default=500, help="images that are judged by, other ones")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=results("check_mirror-resnet20.md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    began = time.process_time()
    given = (options.fit, options.test)
    network = resnet20(*given) if options.other is None else other(*options.other, *given)
    with torch.no_grad():
        lines = measured(network)
    page = [
        f"# How much of a mirror must be stored: {network.name}",
        "",
        f"`python tools/check_mirror.py --fit {options.fit} --test {options.test}"
        + (" --other MODEL WEIGHTS TARS CUTS`" if options.other else "`"),
        "",
        f"{machine(options.threads)}; {(time.process_time() - began) / 60:.1f} minutes of CPU time. Agreement with the "
        "true flipped feature, of the share of channels that is stored, the others `rest`; nothing is compressed. "
        "Channels stored are those that what stands in gets most wrong, by squared error. Multiplications are those of "
        "the map that gives the others, as a share of the whole network's, at 0 and 0.3 stored. dB: what is left of "
        "error on the images that maps are found on, the last fifth, which no map is fitted on / as many that it is "
        "fitted on.",
    ]
    write_page(options.out, [*page, "", *lines])


def resnet20(fit: int, test: int) -> Network:
    model = load_model(*RESNET20).eval()
    layers = ("layer1", "layer2", "layer3")
    return Network(
        "ResNet-20",
        model,
        parse_preprocess(PREPROCESS, model=model),
        layers,
        pictures(TRAIN, fit)[0],
        pictures(TEST, test)[0],
    )


def other(model: str, weights: str, tars: str, names: str, fit: int, test: int) -> Network:
    """Its first images to find mirrors on, those after them to judge by."""
    loaded = load_model(model, weights).eval()
    images = pictures(sorted(glob.glob(tars)))[0]
    read = parse_preprocess(None, model=loaded, name=model)
    name = type(loaded).__name__
    return Network(name, loaded, read, tuple(names.split(",")), images[:fit], images[fit : fit + test])


def measured(network: Network) -> list[str]:
    batches = network.batches(network.fit)
    example = batches[0][:1]
    every = cuts(network.model, example)
    found = {name: find_cut(every, name) for name in network.cuts}
    prefix = multi_prefix(network.model, list(network.cuts), example)
    parts = find(prefix, batches, found, network.preprocess)
    print(f"{network.name}: found", flush=True)
    right, same = judged(network, prefix, parts, found)
    count = len(network.test)
    header = ("cut", "rest", *(f"{fraction:g}" for fraction in FRACTIONS), "multiplications", "dB at 0", "dB at 0.3")
    rows = []
    for name, cut in found.items():
        whole = cut.flops_before + cut.flops_after
        for rest in RESTS:
            own = [parts[name, rest, fraction][1] for fraction in (0.0, 0.3)]
            costs = [f"{200 * each.map.multiplications / whole:.0f}%" for each in own if each.map is not None]
            decibels = [
                f"{each.error:.1f}" + ("" if each.own_error is None else f" / {each.own_error:.1f}")
                for each in own
                if each.error is not None
            ]
            agreed = [f"{right[name, rest, fraction] / count:.3f}" for fraction in FRACTIONS]
            rows.append((f"{name}, {'x'.join(map(str, cut.shape))}", rest, *agreed, " / ".join(costs), *decibels))
    worst = 0.5 / count**0.5
    return [
        f"{len(network.fit)} images to find mirrors on, {count} to judge by (standard error at most {worst:.3f}; ways "
        f"see the same images). An image and its flip agree {same / count:.3f}.",
        "",
        *table(header, rows),
    ]


Parts = dict[tuple[str, str, float], tuple[MirrorParts, FoundMirror]]


def find(
    prefix: torch.nn.Module, batches: list[torch.Tensor], found: Mapping[str, Cut], preprocess: Preprocess
) -> Parts:
    """What calibration finds: by cut, rest and share stored."""
    total, size = sum(map(len, batches)), (int(batches[0].shape[2]), int(batches[0].shape[3]))
    specs = {name: cut.spec for name, cut in found.items()}
    grids = measure_grid(prefix, batches[0][:GRID_IMAGES], specs, 0)
    blank = prefix(preprocess.base(Image.new("RGB", (size[1], size[0])))[None])
    hows = {name: LayerMove(spec, size, grids.get(name), blank[name][0]) for name, spec in specs.items()}
    samples = {(n, r): MirrorSample(specs[n], k, total) for n in specs for r, k in KERNELS.items()}
    gaps = {name: Comparison.empty(spec) for name, spec in specs.items()}
    done = 0
    for x in batches:
        base, mirror = prefix(x), prefix(x.flip(-1))
        for (name, _), sample in samples.items():
            sample.add(base[name], mirror[name])
        for name in specs:
            gaps[name].add(flipped(MirrorParts.of(hows[name]), base[name], None), mirror[name])
        done += len(x)
        print(f"  {done} of {total} images", flush=True)
    parts: Parts = {}
    for name, spec in specs.items():
        for fraction in FRACTIONS:
            for rest in KERNELS:
                own = samples[name, rest].fit(name, fraction)
                parts[name, rest, fraction] = MirrorParts.of(hows[name], own.channels, own.map), own
            gap = gaps[name]
            channels = largest(gap.gap, fraction) if fraction else ()
            left = gap.gap.sum() - gap.gap[list(channels)].sum()
            error = float(10 * torch.log10(torch.tensor(max(left / gap.true.sum(), 1e-20))))
            parts[name, "flip", fraction] = MirrorParts.of(hows[name], channels), FoundMirror(channels, error=error)
        assert len(parts[name, "flip", 1.0][1].channels) == spec.channels
    return parts


def flipped(parts: MirrorParts, x: torch.Tensor, true: torch.Tensor | None) -> torch.Tensor:
    """The flipped images' features [B, *shape] from the images' x and what is stored of the true ones."""
    stored = None
    if true is not None and len(parts.at):
        stored = true.index_select(parts.layer.spec.channel_axis + 1, parts.at)
    theta = torch.tensor(FLIP, dtype=torch.float32).expand(len(x), 2, 3)
    mirrored = torch.full((len(x),), bool(len(parts.at)) or parts.rest is not None)
    return parts.move(x.clone(), stored, theta, mirrored)


def judged(
    network: Network, prefix: torch.nn.Module, parts: Parts, found: Mapping[str, Cut]
) -> tuple[dict[tuple[str, str, float], int], int]:
    """How many test images agree, each way; and how many agree with their flip."""
    suffixes = {}
    right, same = dict.fromkeys(parts, 0), 0
    for x in network.batches(network.test):
        base, mirror = prefix(x), prefix(x.flip(-1))
        for name in found:
            if name not in suffixes:
                suffixes[name] = split(network.model, name, x[:1])[1].eval()
            suffix = suffixes[name]
            wanted = suffix(mirror[name]).argmax(1)
            if name == network.cuts[0]:
                same += int((suffix(base[name]).argmax(1) == wanted).sum())
            for (cut, rest, fraction), (own, _) in parts.items():
                if cut == name:
                    made = suffix(flipped(own, base[name], mirror[name])).argmax(1)
                    right[cut, rest, fraction] += int((made == wanted).sum())
        print(f"  judged {len(x)} more", flush=True)
    return right, same


if __name__ == "__main__":
    main()
