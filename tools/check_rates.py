"""Which rate keeps what a network makes of its features, and at how many bytes beside the JPEG's?

ResNet-20 and a small transformer on CIFAR-10, both bundled, and with --photos SqueezeNet 1.0 on photos: each cut with
each codec and rate. Kept as it is, the rest of the network says how often it decides as before (agreement) and how
often it is right. And a suffix that is trained anew from such features, with flips and crops drawn afresh, is tested on
images as they are.

    python tools/check_rates.py --photos FOLDER    # about 30 minutes on one core; writes tools/results/check_rates.md
    python tools/check_rates.py --quick            # half a minute: fewer images, rates and epochs

FOLDER holds squeezenet.py, squeezenet1_0.safetensors and photos-*.tar. What was measured is kept in check_rates.json
beside the page, and only what is missing is measured: `--minutes 5` spreads it over several runs, `--again dct`
measures those rates once more.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measure import machine, picture, results, write_page
from rates_nets import Net, Raw, Task, cifar_nets, labels_of, photo_net
from rates_report import drawn, page

from fmshards.augment import LayerMove, Mirror, fresh_theta, move, parse_recipe
from fmshards.calibration import calibrate
from fmshards.codec import Codec, FeatureSpec, codec_name, samples_wanted
from fmshards.errors import InputError
from fmshards.model import cuts, find_cut, multi_prefix, split
from fmshards.planning import Answers, Passage, compare, fitted, through

ZFP = ("0.25", "0.5", "1", "1.5", "2", "3", "4", "6", "8")
INT = ("int2", "int3", "int4")
DCT = ("dct0.25", "dct0.5", "dct0.75", "dct1", "dct1.5", "dct2", "dct3", "dct4")
TRAINED = ("fp32", "0.5", "1", "2", "int4", "dct0.25", "dct0.5", "dct1")
QUICK = ("fp32", "1", "2", "int4", "dct1")
KEPT = ("agreement", "accuracy", "loss")
SEEDS = 3
BATCH = 50

Found = dict[str, Any]


class Kept:
    """What was measured, in a file beside the page, under the conditions that it was measured in.

    again: how rates begin that are measured although they are known. until: the moment, of `time.monotonic`, from which
    nothing more is measured.
    """

    def __init__(self, path: Path, again: str | None, until: float) -> None:
        self.path, self.again, self.until = path, again, until
        self.found: dict[str, dict[str, Found]] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, conditions: str, rates: list[str], name: str, measure: Callable[[str], Found]) -> dict[str, Found]:
        """What is known of each rate; what is missing is measured first, while there is time, and kept at once."""
        known = self.found.setdefault(conditions, {})
        for rate in rates:
            key = f"{name} {rate}"
            if key in known and not (self.again and rate.startswith(self.again)):
                continue
            if time.monotonic() > self.until:
                break
            began = time.process_time()
            known[key] = measure(rate)
            known[key]["seconds"] = round(time.process_time() - began, 1)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self.path.with_suffix(".unfinished")
            unfinished.write_text(json.dumps(self.found, indent=0) + "\n", encoding="utf-8")
            unfinished.replace(self.path)
            print(f"{conditions.partition(';')[0]}, {key}: {known[key]}", flush=True)
        return {rate: known[f"{name} {rate}"] for rate in rates if f"{name} {rate}" in known}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of SqueezeNet and its photos")
    parser.add_argument("--quick", action="store_true", help="fewer images, rates and epochs: to try the tool")
    parser.add_argument("--again", metavar="RATE", help="measure rates that begin so once more, as int or dct1")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin nothing after so many; run again to go on"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the page; beside it .svg and .json (tools/results/check_rates.md)")
    options = parser.parse_args()
    if options.out is None:
        folder = Path(tempfile.mkdtemp()) if options.quick else results("")
        options.out = folder / "check_rates.md"
    torch.set_num_threads(options.threads)
    nets = cifar_nets(options.quick)
    if options.photos is not None:
        nets.insert(1, photo_net(options.photos, options.quick))
    kept = Kept(options.out.with_suffix(".json"), options.again, time.monotonic() + 60 * options.minutes)
    fixed = [measure_fixed(net, kept, options.quick) for net in nets]
    measured = [(net, found, measure_trained(net, kept, options.quick)) for net, found in zip(nets, fixed, strict=True)]
    arguments = "".join((" --photos FOLDER" if options.photos else "", " --quick" if options.quick else ""))
    picture_of = options.out.with_suffix(".svg")
    picture_of.write_text(drawn(measured), encoding="utf-8")
    write_page(options.out, page(measured, arguments, machine(options.threads), picture_of.name))


def known(rates: tuple[str, ...], quick: bool) -> list[str]:
    """Those of these rates that this version has a codec for."""
    there = []
    for rate in rates:
        try:
            codec_name(rate)
        except InputError:
            continue
        if not quick or rate in QUICK:
            there.append(rate)
    return there


def measure_fixed(net: Net, kept: Kept, quick: bool) -> dict[str, dict[str, Found]]:
    """{layer: {rate: what the published suffix makes of it}}, of the layers of which something is known."""
    rates = known((*ZFP, *INT, *DCT), quick)
    found = {layer: kept.get(net.conditions, rates, layer, Fixed(net, layer).measure) for layer in net.layers}
    return {layer: rates for layer, rates in found.items() if rates}


def measure_trained(net: Net, kept: Kept, quick: bool) -> dict[str, Found]:
    """{rate: accuracies of suffixes trained anew}; nothing where the net has none to train."""
    if net.task is None:
        return {}
    task = Trained(net, net.task, 1 if quick else SEEDS)
    name = f"{net.task.layer}, {net.task.what}, {net.task.recipe}, {net.task.epochs} epochs:"
    return kept.get(net.conditions, known(TRAINED, quick), name, task.measure)


class Layer:
    """One cut of a network: its features, and codecs fitted to those of other images."""

    def __init__(self, net: Net, layer: str) -> None:
        self.net, self.layer = net, layer
        model, example = net.model.to(memory_format=torch.channels_last), net.inputs(net.test[:1])
        self.spec: FeatureSpec = find_cut(cuts(model, example), layer).spec
        self.prefix = multi_prefix(model, [layer], example)
        self.suffix = split(model, layer, example)[1].eval()

    @torch.no_grad()
    def features(self, images: Raw, flipped: bool = False) -> torch.Tensor:
        """float32 [N, *shape], of the images or their mirrors."""
        parts = (self.net.inputs(images[i : i + BATCH]) for i in range(0, len(images), BATCH))
        return torch.cat([self.prefix(fast(x.flip(-1) if flipped else x))[self.layer].contiguous() for x in parts])

    @cached_property
    def seen(self) -> torch.Tensor:
        """The features that codecs are fitted to."""
        return self.features(self.net.fitted)

    def codec(self, rate: str, filter: str | None = None) -> Codec:
        """Fitted as extraction fits it."""
        return fitted(rate, self.spec, self.seen[: samples_wanted(rate, "auto")], filter=filter)

    def answers(self, parts: Iterable[torch.Tensor]) -> Answers:
        """The published suffix's, to batches of features."""
        return Answers.joined([Answers.of(self.suffix(fast(part))) for part in parts])


class Fixed:
    """What the published suffix makes of a cut's decoded features."""

    def __init__(self, net: Net, layer: str) -> None:
        self.net, self.name = net, layer
        self.labels = labels_of(net.test)

    @cached_property
    @torch.no_grad()
    def cut(self) -> tuple[Layer, torch.Tensor, Answers]:
        """(the cut, the test images' features, the answers to them)."""
        layer = Layer(self.net, self.name)
        x = layer.features(self.net.test)
        return layer, x, layer.answers(x.split(BATCH))

    @torch.no_grad()
    def measure(self, rate: str) -> Found:
        layer, x, before = self.cut
        codec, passage = layer.codec(rate, "zstd"), Passage()
        chunk = min(256, max(8, 4_000_000 // codec.row_bytes))
        outcome = compare(before, layer.answers(through(codec, x, chunk, passage)), self.labels)
        return {
            "values": layer.spec.values,
            "bytes": codec.row_bytes,
            "filtered": round(passage.bytes / len(x), 1),
            "db": round(passage.db or 0.0, 2),
            "uncompressed": share(before.top == self.labels),
            **{name: [round(e.value, 5), round(e.error, 5)] for name, e in vars(outcome).items() if name in KEPT},
        }


class Trained:
    """Suffixes trained anew from decoded features of the base and the mirror, moved afresh each epoch."""

    def __init__(self, net: Net, task: Task, seeds: int) -> None:
        self.net, self.task, self.seeds = net, task, seeds
        self.labels = labels_of(task.images)
        self.recipe = parse_recipe(task.recipe)

    @cached_property
    def cut(self) -> tuple[Layer, torch.Tensor, LayerMove]:
        """(the cut, features of all bases and then all mirrors, how they move)."""
        layer, task = Layer(self.net, self.task.layer), self.task
        pictures = [picture(data) for data, _ in self.net.fitted[:16]]
        specs, mirror = {task.layer: layer.spec}, Mirror("stored")
        found = calibrate(layer.prefix, pictures, self.net.preprocess, self.recipe, mirror, 0, None, specs)[task.layer]
        height, width = self.net.inputs(task.images[:1]).shape[2:]
        x = torch.cat([layer.features(task.images, flipped) for flipped in (False, True)])
        return layer, x, LayerMove(layer.spec, (height, width), found.grid, found.fill)

    @cached_property
    def test(self) -> torch.Tensor:
        """Features of the images that all seeds are tested on."""
        assert self.task.test is not None
        return self.cut[0].features(self.task.test)

    def measure(self, rate: str) -> Found:
        layer, x, how = self.cut
        codec = layer.codec(rate)
        rows = codec.encode(x)
        task, count = self.task, len(self.labels)
        on_images, on_features = [], []
        for seed in range(self.seeds):
            ids = torch.arange(count)
            if task.test is not None:
                test, labels, encoded = self.test, labels_of(task.test), codec.encode(self.test)
            else:
                held = ids[seed :: task.folds]
                test, labels, encoded = x[held], self.labels[held], rows[held.numpy()]
                ids = ids[ids % task.folds != seed]
            torch.manual_seed(seed)
            suffix = task.fresh().to(memory_format=torch.channels_last)
            self._train(suffix, lambda chosen: codec.decode(rows[chosen]), ids, how, seed)
            parts = (codec.decode(encoded[i : i + BATCH]) for i in range(0, len(encoded), BATCH))
            suffix.eval()
            for scores, inputs in ((on_images, test.split(BATCH)), (on_features, parts)):
                scores.append(right(suffix, inputs, labels))
        return {"bytes": codec.row_bytes, "images": on_images, "features": on_features}

    def _train(
        self,
        suffix: torch.nn.Module,
        features: Callable[[np.ndarray[Any, Any]], torch.Tensor],
        ids: torch.Tensor,
        how: LayerMove,
        seed: int,
    ) -> None:
        task, total = self.task, len(self.labels)
        optimizer = torch.optim.SGD(suffix.parameters(), task.rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
        steps = task.epochs * (len(ids) // task.batch)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, task.rate, total_steps=steps)
        suffix.train()
        for epoch in range(task.epochs):
            for chosen in ids[torch.randperm(len(ids))].split(task.batch):
                if len(chosen) < task.batch:
                    continue
                mirrored = torch.randint(2, (len(chosen),)).numpy() == 1
                x = features(chosen.numpy() + total * mirrored)
                theta = fresh_theta(self.recipe, seed, epoch, chosen.numpy(), mirrored, how.base_size)
                moved = fast(move(x, theta, mirrored, how))
                loss = F.cross_entropy(suffix(moved), self.labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                cycle.step()


@torch.no_grad()
def right(suffix: torch.nn.Module, parts: Iterable[torch.Tensor], labels: torch.Tensor) -> float:
    """The share of these features that a suffix classifies rightly."""
    return share(torch.cat([suffix(fast(part)).argmax(1) for part in parts]) == labels)


def fast(x: torch.Tensor) -> torch.Tensor:
    """Maps with channels last, in which a CPU's convolutions are faster; other features as they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def share(true: torch.Tensor) -> float:
    return round(float(true.double().mean()), 5)


if __name__ == "__main__":
    sys.exit(main())
