"""What the trainers' examples share: their options, the network, a note of what each rank was given.

They train the rest of the bundled ResNet-20 from a set that holds its layer2:

    fmshards extract 'examples/data/cifar10-train-{000000..000004}.tar' OUT --model examples/resnet20.py:resnet20 \\
        --weights examples/data/resnet20.safetensors --preprocess 'normalize(imagenet)' \\
        --layer layer2:4 --recipe 'flip+crop(pad=4)'
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import fmshards
from fmshards.model import load_model

EXAMPLES = Path(__file__).resolve().parent.parent
LAYER = "layer2"


def arguments(
    description: str | None, add: Callable[[argparse.ArgumentParser], Any] = lambda parser: None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shards", help="a shard set that holds layer2 of the bundled ResNet-20")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=50, help="samples of one rank's batch")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, required=True, help="gone on with where it is there")
    parser.add_argument("--stop-after", type=int, help="save the checkpoint after so many steps of this run, and end")
    parser.add_argument("--seen", type=Path, help="a folder for the keys of each batch that each rank was given")
    add(parser)
    return parser.parse_args()


def network() -> tuple[nn.Module, nn.Module]:
    """(model, suffix): the whole network, and the part after the cut, which shares its weights."""
    model = load_model(f"{EXAMPLES}/resnet20.py:resnet20", f"{EXAMPLES}/data/resnet20.safetensors")
    return model, fmshards.split(model, LAYER, torch.zeros(1, 3, 32, 32))[1]


def loss_of(suffix: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    return F.cross_entropy(suffix(batch[LAYER]), batch["cls"])


class Seen:
    """Writes down the keys of each batch that this rank trained on."""

    def __init__(self, folder: Path | None, rank: int) -> None:
        self._path = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._path = folder / f"rank{rank}.jsonl"

    def note(self, epoch: int, batch: dict[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a") as file:
                print(json.dumps([epoch, batch["__key__"]]), file=file)
