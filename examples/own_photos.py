"""Fine-tune a torchvision or timm classifier on your own photos, one class a folder.

    python examples/own_photos.py PHOTOS OUT --model torchvision:resnet18 --weights DEFAULT --layer layer3:4

Runs the layers up to the cut once over PHOTOS, then trains the rest, with a new head, from the shards at OUT.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import nn

import fmshards
from fmshards.model import load_model


def replace_head(model: nn.Module, classes: int) -> None:
    """Put a fresh linear layer in the place of the model's last one."""
    name, head = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Linear(head.in_features, classes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photos", help="a folder with one folder of images a class")
    parser.add_argument("out", help="where the shard set goes")
    parser.add_argument("--model", default="torchvision:resnet18")
    parser.add_argument("--weights", help="DEFAULT (torchvision), pretrained (timm), or a file")
    parser.add_argument("--layer", default="layer3:4")
    parser.add_argument("--preprocess", help="by default the model's own")
    parser.add_argument("--recipe", default="flip+crop(pad=16)")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()

    model = load_model(args.model, args.weights)
    layer, _, rate = args.layer.rpartition(":")
    manifest = fmshards.extract(
        args.photos,
        args.out,
        model=args.model,
        weights=args.weights,
        layers={layer: rate},
        preprocess=args.preprocess,
        recipe=args.recipe,
        workers=args.workers,
    )
    classes = manifest.plan.classes
    replace_head(model, len(classes))
    _, suffix = fmshards.split(model, layer, torch.zeros(1, 3, *manifest.plan.base_size))
    batches = fmshards.loader(args.out, batch_size=args.batch_size, num_workers=args.workers, model=model)
    optimizer = torch.optim.AdamW(suffix.parameters(), lr=1e-3)
    for epoch in range(args.epochs):
        suffix.train()
        correct, seen = 0, 0
        for batch in batches:
            logits = suffix(batch[layer])
            loss = F.cross_entropy(logits, batch["cls"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            correct += int((logits.argmax(1) == batch["cls"]).sum())
            seen += len(logits)
        print(f"epoch {epoch}: {seen} photos of {len(classes)} classes, accuracy {correct / seen:.3f}")
    # The suffix shares its parameters with the model, so the model is trained already.
    model.eval()


if __name__ == "__main__":
    main()
