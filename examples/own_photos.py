"""Fine-tune a torchvision or timm classifier on your own photos, one class a folder.

    python examples/own_photos.py PHOTOS OUT --model torchvision:resnet18 --weights DEFAULT --layer layer3:4

Runs the layers up to the cut once over PHOTOS, then trains the rest, with a new head, from the shards at OUT. With
--test MORE_PHOTOS it is evaluated on those after every epoch, from shards at OUT-test.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from plain_loop import evaluate
from torch import nn

import fmshards
from fmshards.model import load_model

HEADS = (nn.Linear, nn.Conv2d)


def replace_head(model: nn.Module, classes: int, example: torch.Tensor) -> None:
    """Give the model a fresh last layer for so many classes: timm's models know theirs; elsewhere it is the last
    linear layer, or convolution, that makes as many values as the model does."""
    if hasattr(model, "reset_classifier"):
        model.reset_classifier(classes)
    else:
        with torch.no_grad():
            known = model(example).shape[1]
        heads = [(name, m) for name, m in model.named_modules() if isinstance(m, HEADS) and m.weight.shape[0] == known]
        if not heads:
            raise SystemExit(f"no layer of this model makes its {known} outputs: replace its head by hand")
        name, head = heads[-1]
        bias = head.bias is not None
        if isinstance(head, nn.Linear):
            fresh: nn.Module = nn.Linear(head.in_features, classes, bias=bias)
        else:
            fresh = nn.Conv2d(head.in_channels, classes, head.kernel_size, head.stride, head.padding, bias=bias)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, fresh)
    with torch.no_grad():
        found = model(example).shape
    assert found == (1, classes), f"with its new head the model makes {tuple(found)}, not (1, {classes})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photos", help="a folder with one folder of images a class")
    parser.add_argument("out", help="where the shard set goes")
    parser.add_argument("--test", metavar="PHOTOS", help="a folder of the same kind, to evaluate on")
    parser.add_argument("--model", default="torchvision:resnet18")
    parser.add_argument("--weights", help="DEFAULT (torchvision), pretrained (timm), or a file; random without")
    parser.add_argument("--layer", default="layer3:4")
    parser.add_argument("--preprocess", help="by default the model's own")
    parser.add_argument("--recipe", default="flip+crop(pad=32)")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()

    torch.manual_seed(0)  # random layers are the same ones when this is run again, and the shards are still theirs
    model = load_model(args.model, args.weights)
    layer, _, rate = args.layer.rpartition(":")
    # The model itself is given, so that what extracts is what is trained.
    common = {"model": model, "layers": {layer: rate}, "preprocess": args.preprocess, "workers": args.workers}
    plan = fmshards.extract(args.photos, args.out, recipe=args.recipe, **common).plan
    classes = list(plan.classes)
    example = torch.zeros(1, 3, *plan.base_size)
    replace_head(model, len(classes), example)
    _, suffix = fmshards.split(model, layer, example)
    batches = fmshards.loader(args.out, batch_size=args.batch_size, num_workers=args.workers, model=model)
    test = None
    if args.test:
        # A class that the test photos lack, or have beside, must not renumber the others.
        fmshards.extract(args.test, f"{args.out}-test", classes=classes, **common)
        test = fmshards.loader(f"{args.out}-test", batch_size=args.batch_size, num_workers=0, model=model, train=False)
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
        if test is not None:
            print(f"  test photos: accuracy {evaluate(suffix, test, layer):.3f}")
    # The suffix shares its parameters with the model, so the model is trained already.
    model.eval()


if __name__ == "__main__":
    main()
