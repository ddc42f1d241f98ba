"""Train `examples/vit_tiny.py` on CIFAR-10: the small transformer that `check_rates.py` measures.

    python tools/train_vit.py FOLDER        # 10 minutes of one core; writes examples/data/vit_tiny.safetensors

FOLDER holds all 60,000 images as WebDataset tars, `train-*.tar` and `test-*.tar` (.jpg and .cls). Images are flipped
and moved by up to 4 pixels. The stages are ResNet-20's, frozen. Until the last tenth of the steps the blocks work on a
quarter of the tokens, other ones in each batch. AdamW, one cycle of the rate. The seed decides the weights, the order,
the augmentation and the tokens.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import DATA, RESNET20, ROOT, jpegs, picture
from safetensors.torch import save_file

from fmshards.model import load_model

BATCH, PAD = 100, 4
KEPT, WHOLE = 16, 0.1
"""How many of the 64 tokens are kept, but in the last part of the steps, where all are."""
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where train-*.tar and test-*.tar are")
    parser.add_argument("--steps", type=int, default=1500, help=f"of {BATCH} images")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="of the cycle's middle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, help="of each split, to try the script")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=DATA / "vit_tiny.safetensors")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    sys.path.insert(0, f"{ROOT}/examples")
    model: torch.nn.Module = importlib.import_module("vit_tiny").vit_tiny()
    net = load_model(*RESNET20)
    for name, part in (("0", "conv1"), ("1", "bn1"), ("3", "layer1"), ("4", "layer2")):
        model.stages.get_submodule(name).load_state_dict(net.get_submodule(part).state_dict())
    model.to(memory_format=torch.channels_last)
    train(model, *images(args.folder, "train", args.images), args.steps, args.rate)
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(weights)
    right = accuracy(model, *images(args.folder, "test", args.images))
    save_file(weights, args.out)
    print(f"test accuracy {right:.4f}, with weights in fp16; {args.out.stat().st_size / 1e6:.2f} MB")


def images(folder: Path, split: str, most: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """(uint8[N, 3, 32, 32], int64[N]) of a split."""
    tars = sorted(folder.glob(f"{split}-*.tar"))
    if not tars:
        sys.exit(f"{folder}: expected {split}-*.tar, found none")
    found = jpegs(tars, most)
    pixels = np.stack([np.asarray(picture(data)) for data, _ in found])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor([label for _, label in found])


def normalised(x: torch.Tensor) -> torch.Tensor:
    """uint8[N, 3, H, W] to what the network takes: its PREPROCESS."""
    return ((x / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def augmented(x: torch.Tensor) -> torch.Tensor:
    """Each image flipped or not and moved by -PAD to PAD pixels each way; black comes in."""
    size, padded = x.shape[-1], F.pad(x, (PAD, PAD, PAD, PAD))
    flips = torch.randint(2, (len(x), 1))
    y, moved = (torch.randint(2 * PAD + 1, (len(x), 1)) + torch.arange(size) for _ in range(2))
    columns = torch.where(flips == 1, moved.flip(1), moved)
    return padded[torch.arange(len(x)).view(-1, 1, 1), :, y[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def train(model: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, steps: int, rate: float) -> None:
    model.train()
    model.stages.requires_grad_(False).eval()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    began, losses = time.perf_counter(), []
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if len(order) < BATCH:
            order = torch.randperm(len(x))
        chosen, order = order[:BATCH], order[BATCH:]
        with torch.no_grad():
            maps = model.stages(normalised(augmented(x[chosen])))
        tokens = model.tokens(maps)
        if step < (1 - WHOLE) * steps:
            places = 1 + torch.randperm(tokens.shape[1] - 1)[:KEPT]
            tokens = tokens[:, torch.cat([torch.zeros(1, dtype=torch.int64), places])]
        loss = F.cross_entropy(model.classify(tokens), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        cycle.step()
        losses.append(loss.item())
        if (step + 1) % 25 == 0:
            passed = time.perf_counter() - began
            print(f"{step + 1} of {steps}: loss {sum(losses[-25:]) / 25:.3f}, {passed:.0f} s", flush=True)


@torch.no_grad()
def accuracy(model: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    pairs = zip(x.split(250), labels.split(250), strict=True)
    return sum(int((model(normalised(a)).argmax(1) == b).sum()) for a, b in pairs) / len(x)


if __name__ == "__main__":
    main()
