"""What `dct` gains by its parts: agreement of the rest of a network, of `dct` as it is and made otherwise.

For each cut and rate: the share of held-out images whose first class is the one of the uncompressed feature, the mean
KL divergence to its outputs, in nats, which has less noise, and the error. Nothing is trained. Tables are fitted to
other images. Ways: blocks always transformed, and never (as it is, the fit chooses); gains by other powers of channels'
deviations (0: none); nothing put for levels that are 0; and channels turned by a Karhunen-Loeve transform of groups of
16 like ones before they are coded. What other codecs keep says check_rates.py; what else was tried before `dct` was
written stands in tools/results/check_transforms-before.md.

    python tools/check_transforms.py                     # the bundled ResNet-20
    python tools/check_transforms.py --photos FOLDER     # SqueezeNet and its photos too, as check_rates.py takes them
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from measure import machine, results, table, write_page
from rates_nets import cifar_nets, photo_net

from fmshards.codec import FeatureSpec, fit, sample_for
from fmshards.codec.dct import fit as dct_fit
from fmshards.model import multi_prefix, split

RATES = ("dct0.25", "dct0.5", "dct1", "dct1.5", "dct2")
WAYS = (
    *("as it is", "always transformed", "never transformed", "gains: power 0", "gains: power 0.5", "gains: power 1"),
    *("zeros stay 0", "KLT of 16 channels"),
)
GROUP = 16
FITTED = 64

Decoded = Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of SqueezeNet and its photos")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--held", type=int, default=100, help="photos that are measured")
    parser.add_argument("--results", type=Path, default=results("check_transforms.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    nets = [(cifar_nets(False)[0], args.images)]
    if args.photos:
        nets.append((photo_net(args.photos, False), args.held))
    lines, seen = [], []
    for net, most in nets:
        model, test = net.model, net.test[:most]
        fitted, held = (net.inputs(images) for images in (net.fitted[:FITTED], test))
        seen.append(f"{net.title}: {len(test)} images")
        for cut in net.layers:
            prefix = multi_prefix(model, [cut])
            with torch.no_grad():
                sample, x = (torch.cat([prefix(part)[cut] for part in of.split(25)]) for of in (fitted, held))
                rows = list(measure(sample, x, split(model, cut, held[:1])[1].eval()))
            title = f"{net.title}, {cut}: {float((x == 0).float().mean()):.0%} zeros"
            lines += ["", f"## {title}", "", *table(("way", *(f"{rate[3:]} bits" for rate in RATES)), rows)]
            print("\n".join(lines[-len(rows) - 4 :]), flush=True)
    minutes = (time.process_time() - began) / 60
    about = f"{machine()}; {minutes:.0f} minutes of CPU time. {'; '.join(seen)}; {FITTED} others for the fits."
    told = "Agreement / KL in nats / error in dB. Others than `dct`, and more images: [check_rates](check_rates.md)."
    write_page(args.results, ["# What `dct` gains by its parts", "", about, "", told, *lines])


def measure(sample: torch.Tensor, x: torch.Tensor, suffix: torch.nn.Module) -> Iterator[tuple[str, ...]]:
    """sample, x: [n, *shape], features to fit to and held-out ones. A row for each way."""

    def outputs(y: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.log_softmax(suffix(part).float(), 1) for part in y.split(25)])

    wanted, turn = outputs(x), turned(sample)
    for way in WAYS:
        row = [way]
        for rate in RATES:
            if way.startswith("KLT"):
                found = along(turn.T, coded(rate, along(turn, sample), along(turn, x)))
                found = found.clamp(min=float(sample.min().clamp(max=0)))
            else:
                with otherwise(way):
                    found = coded(rate, sample, x)
            row.append(judged(found, x, wanted, outputs))
        yield tuple(row)


def coded(rate: str, sample: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Features as they come back."""
    seen = sample_for(rate, FeatureSpec("map", tuple(x.shape[1:])), "none", len(sample))
    seen.add(sample)
    codec = fit(rate, FeatureSpec("map", tuple(x.shape[1:])), seen)
    return codec.decode(codec.encode(x))


def judged(y: torch.Tensor, x: torch.Tensor, wanted: torch.Tensor, outputs: Decoded) -> str:
    found = outputs(y)
    agreement = float((found.argmax(1) == wanted.argmax(1)).float().mean())
    divergence = float((wanted.exp() * (wanted - found)).sum(1).mean())
    error = 10 * float(torch.log10((x - y).double().square().sum() / x.double().square().sum()))
    return f"{agreement:.3f} / {divergence:.3f} / {error:.1f}"


def otherwise(way: str) -> mock._patch[object]:
    """`dct` made another way, as long as it is entered."""
    if way.endswith("transformed"):
        return mock.patch.object(dct_fit, "_FORGIVEN", 1e-30 if way.startswith("always") else 1e30)
    if way.startswith("gains"):
        return mock.patch.object(dct_fit, "_POWER", float(way.rpartition(" ")[2]))
    if way == "zeros stay 0":
        return mock.patch.object(dct_fit._Seen, "means", lambda seen: (0.0,) * len(seen._nones))
    return mock.patch.object(dct_fit, "_POWER", dct_fit._POWER)


def turned(sample: torch.Tensor) -> torch.Tensor:
    """float32 [C, C], orthogonal: groups of 16 channels that go together, each in its principal directions."""
    channels = sample.shape[1]
    flat = sample.movedim(1, 0).reshape(channels, -1).double()
    flat = flat[:, :: max(1, flat.shape[1] // 20_000)]
    alike = np.abs(np.nan_to_num(np.corrcoef(flat.numpy())))
    spread, left = flat.var(1).numpy(), set(range(channels))
    matrix = torch.zeros(channels, channels, dtype=torch.float64)
    for first in range(0, channels, GROUP):
        group = [max(left, key=lambda c: (spread[c], c))]
        left.discard(group[0])
        while len(group) < min(GROUP, channels - first):
            group.append(max(left, key=lambda c: (alike[c, group].sum(), c)))
            left.discard(group[-1])
        part = flat[group]
        _, vectors = torch.linalg.eigh(part @ part.T)
        matrix[first : first + len(group), group] = vectors.flip(1).T
    return matrix.float()


def along(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.einsum("kc,nchw->nkhw", matrix, x).contiguous()


if __name__ == "__main__":
    main()
