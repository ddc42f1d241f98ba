"""How little `dct` may keep: agreement of the rest of a network, beside `zfp` and `int`, and of `dct` made otherwise.

For each cut and rate: the share of held-out images whose first class is the one of the uncompressed feature, and the
mean KL divergence to its outputs, in nats, which has less noise. Nothing is trained. Tables of codecs are fitted to
other images. Of `dct` also: gains by other powers of channels' deviations (0: none), nothing put for levels that are 0,
and channels turned by a Karhunen-Loeve transform of groups of 16 like ones before they are coded.

    python tools/check_transforms.py                        # the bundled ResNet-20; --results PATH for another page
    python tools/check_transforms.py --model FILE.py:NAME --weights FILE --preprocess 'resize(256)+center_crop(227)' \\
        --photos photos.tar --cuts net.features.5 net.features.10
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from measure import PREPROCESS, RESNET20, TEST, TRAIN, machine, pictures, results, table, write_page

from fmshards.codec import FeatureSpec, fit, sample_for
from fmshards.codec.dct import fit as dct_fit
from fmshards.model import load_model, multi_prefix, parse_preprocess, split

DCT = ("dct0.25", "dct0.5", "dct1", "dct1.5", "dct2")
OTHERS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, "int2", "int3", "int4")
WAYS = ("as it is", "gains: power 0", "gains: power 0.5", "gains: power 1", "zeros stay 0", "KLT of 16 channels")
GROUP = 16

Decoded = Callable[[torch.Tensor], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--weights")
    parser.add_argument("--preprocess", default=PREPROCESS)
    parser.add_argument("--photos", nargs="*", type=Path, help="the first --fit of them are for the fits")
    parser.add_argument("--cuts", nargs="*", default=["layer1", "layer2", "layer3"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--fit", type=int, default=64)
    parser.add_argument("--results", type=Path, default=results("check_transforms.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(*((args.model, args.weights) if args.model else RESNET20)).eval()
    if args.model:
        images, _ = pictures(args.photos, args.images + args.fit)
        seen, held = images[: args.fit], images[args.fit :]
    else:
        (seen, _), (held, _) = pictures(TRAIN, args.fit), pictures(TEST, args.images)
    base = parse_preprocess(args.preprocess, model=model).base
    seen_x, held_x = (torch.stack([base(image) for image in part]) for part in (seen, held))
    rows, lines = [], [f"# tools/check_transforms.py: {args.model or 'ResNet-20'}", "", machine(), ""]
    lines += [f"{len(held)} images, {len(seen)} others for the fits. Agreement / KL, error in dB.", ""]
    for cut in args.cuts:
        prefix = multi_prefix(model, [cut])
        with torch.no_grad():
            sample, x = (torch.cat([prefix(part)[cut] for part in of.split(50)]) for of in (seen_x, held_x))
            suffix = split(model, cut, held_x[:1])[1].eval()
            for row in measure(cut, sample, x, suffix):
                rows.append(row)
                print(" | ".join(row), flush=True)
    write_page(args.results, [*lines, *table(("cut", "codec", "bits", "agreement", "KL", "dB"), rows)])


def measure(cut: str, sample: torch.Tensor, x: torch.Tensor, suffix: torch.nn.Module) -> Iterator[tuple[str, ...]]:
    """sample, x: [n, *shape], features to fit to and held-out ones."""

    def outputs(y: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.log_softmax(suffix(part).float(), 1) for part in y.split(50)])

    wanted = outputs(x)
    for rate in OTHERS:
        yield judged(cut, str(rate), *coded(rate, sample, x), x, wanted, outputs)
    for way in WAYS:
        for rate in DCT:
            turn = turned(sample) if way.startswith("KLT") else None
            if turn is None:
                with otherwise(way):
                    found = coded(rate, sample, x)
            else:
                bits, y = coded(rate, along(turn, sample), along(turn, x))
                found = bits, along(turn.T, y).clamp(min=float(sample.min().clamp(max=0)))
            yield judged(cut, rate if way == WAYS[0] else f"{rate}, {way}", *found, x, wanted, outputs)


def coded(rate: str | float, sample: torch.Tensor, x: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Bits a value, and features as they come back."""
    spec = FeatureSpec("map", tuple(x.shape[1:]))
    seen = sample_for(rate, spec, "none", len(sample))
    if seen is not None:
        seen.add(sample)
    codec = fit(rate, spec, seen)
    return codec.rate, codec.decode(codec.encode(x))


def judged(
    cut: str, name: str, bits: float, y: torch.Tensor, x: torch.Tensor, wanted: torch.Tensor, outputs: Decoded
) -> tuple[str, ...]:
    found = outputs(y)
    agreement = float((found.argmax(1) == wanted.argmax(1)).float().mean())
    divergence = float((wanted.exp() * (wanted - found)).sum(1).mean())
    error = 10 * float(torch.log10((x - y).double().square().sum() / x.double().square().sum()))
    return cut, name, f"{bits:.2f}", f"{agreement:.3f}", f"{divergence:.3f}", f"{error:.1f}"


def otherwise(way: str) -> mock._patch[object]:
    """`dct` made another way, as long as it is entered."""
    if way.startswith("gains"):
        return mock.patch.object(dct_fit, "_POWER", float(way.rpartition(" ")[2]))
    if way == "zeros stay 0":
        return mock.patch.object(dct_fit._Seen, "means", lambda seen: (0.0,) * len(seen._first))
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
