"""Train the rest of a network from a shard set, in a plain PyTorch loop, and evaluate it on another.

    fmshards extract 'examples/data/cifar10-train-{000000..000004}.tar' OUT --model examples/resnet20.py:resnet20 \\
        --weights examples/data/resnet20.safetensors --preprocess 'normalize(imagenet)' \\
        --layer layer2:4 --recipe 'flip+crop(pad=4)'
    fmshards extract 'examples/data/cifar10-test-{000000..000004}.tar' TEST --model examples/resnet20.py:resnet20 \\
        --weights examples/data/resnet20.safetensors --preprocess 'normalize(imagenet)' --layer layer2:4
    python examples/plain_loop.py OUT --test TEST --checkpoint RUN.pt     # stop it anywhere, and run the same again
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import fmshards
from fmshards.model import load_model

HERE = Path(__file__).parent
LAYER = "layer2"


@torch.no_grad()
def evaluate(suffix: nn.Module, batches: Iterable[dict[str, Any]], layer: str) -> float:
    """The accuracy over a loader that was made with train=False, every sample counted once.

    On several ranks some batches are filled up with samples that are counted elsewhere: `valid` is False there. Add up
    `correct` and `seen` over the ranks then.
    """
    suffix.eval()
    correct, seen = 0, 0
    for batch in batches:
        right = suffix(batch[layer]).argmax(1) == batch["cls"]
        correct += int(right[batch["valid"]].sum())
        seen += int(batch["valid"].sum())
    return correct / seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shards", help="a shard set that holds layer2 of the bundled ResNet-20")
    parser.add_argument("--test", metavar="SET", help="another one, to evaluate on after every epoch")
    parser.add_argument("--recipe", help="augment by it, not by the recipe that the set was extracted with")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="save the run there, and go on from it")
    parser.add_argument("--every", type=int, default=10, metavar="BATCHES", help="save after so many, and at the end")
    parser.add_argument("--stop", type=int, metavar="BATCHES", help="stop after so many batches")
    args = parser.parse_args()

    model = load_model(f"{HERE}/resnet20.py:resnet20", f"{HERE}/data/resnet20.safetensors")
    _, suffix = fmshards.split(model, LAYER, torch.zeros(1, 3, 32, 32))
    # `model=` makes the loader refuse shards that another network, or other weights, wrote. One loader serves all
    # epochs: each is in another order, with other crops and flips.
    given = {"batch_size": args.batch_size, "num_workers": args.workers, "recipe": args.recipe, "model": model}
    batches = fmshards.loader(args.shards, **given)
    test = args.test and fmshards.loader(args.test, batch_size=args.batch_size, num_workers=0, model=model, train=False)
    optimizer = torch.optim.SGD(suffix.parameters(), lr=0.01, momentum=0.9)

    # What a run is: the weights, the optimizer, and where the loader is, which is small and plain.
    if args.checkpoint is not None and args.checkpoint.exists():
        run = torch.load(args.checkpoint, weights_only=True)
        suffix.load_state_dict(run["suffix"])
        optimizer.load_state_dict(run["optimizer"])
        batches.load_state_dict(run["batches"])

    def save() -> None:
        if args.checkpoint is not None:
            run = {"suffix": suffix.state_dict(), "optimizer": optimizer.state_dict(), "batches": batches.state_dict()}
            whole = args.checkpoint.with_suffix(".new")
            torch.save(run, whole)
            whole.replace(args.checkpoint)

    step = 0
    for epoch in range(batches.epoch, args.epochs):
        suffix.train()
        total, correct, seen = 0.0, 0, 0
        for batch in batches:  # the rest of an epoch, where a run goes on in its middle
            logits = suffix(batch[LAYER])
            loss = F.cross_entropy(logits, batch["cls"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(logits)
            correct += int((logits.argmax(1) == batch["cls"]).sum())
            seen += len(logits)
            step += 1
            if step == args.stop:
                save()
                return
            if step % args.every == 0:
                save()
        save()
        if seen:
            print(f"epoch {epoch}: {seen} samples, loss {total / seen:.3f}, accuracy {correct / seen:.3f}")
        if test is not None:
            print(f"  test set: accuracy {evaluate(suffix, test, LAYER):.3f}")


if __name__ == "__main__":
    main()
