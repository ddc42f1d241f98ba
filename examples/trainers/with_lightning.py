"""Lightning, stopped at any step and gone on with on any number of devices.

    python examples/trainers/with_lightning.py OUT --devices 2 --checkpoint run.ckpt --stop-after 7
    python examples/trainers/with_lightning.py OUT --devices 1 --checkpoint run.ckpt --batch-size 100

A DataModule makes the loader once the processes know their ranks (a loader made before `trainer.fit(module, loader)`
asks for its rank late, and serves as well) and keeps its state in the checkpoints. Lightning calls `set_epoch`, moves
batches to the device, and leaves lists of keys and fields as they are.

Trap: without a DataModule Lightning saves and loads the loader's state too, but takes the epoch's length before it
loads it, and ends the epoch early where more samples make a batch than before: a warning says so.
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning
import torch
from common import Seen, arguments, loss_of, network
from lightning.pytorch.callbacks import Callback
from torch import nn

import fmshards
from fmshards.stream import FeatureLoader


class Shards(lightning.LightningDataModule):
    def __init__(self, args: argparse.Namespace, model: nn.Module) -> None:
        super().__init__()
        self.args, self.model = args, model
        self.state: dict[str, Any] = {}

    def train_dataloader(self) -> FeatureLoader:
        args = self.args
        self.loader = fmshards.loader(args.shards, args.batch_size, num_workers=args.workers, model=self.model)
        if self.state:
            self.loader.load_state_dict(self.state)
        return self.loader

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


class Suffix(lightning.LightningModule):
    def __init__(self, suffix: nn.Module, args: argparse.Namespace) -> None:
        super().__init__()
        self.suffix, self.args = suffix, args

    def on_train_start(self) -> None:
        self.suffix.train()
        self.seen = Seen(self.args.seen, self.global_rank)

    def training_step(self, batch: dict[str, Any], step: int) -> torch.Tensor:
        self.seen.note(self.current_epoch, batch)
        return loss_of(self.suffix, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.suffix.parameters(), lr=0.01, momentum=0.9)


class Stop(Callback):
    """Saves the checkpoint after so many steps of this run, and ends it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.steps = args, 0

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.steps += 1
        if self.steps == self.args.stop_after:
            trainer.save_checkpoint(self.args.checkpoint)
            trainer.should_stop = True


def main() -> None:
    args = arguments(__doc__, lambda parser: parser.add_argument("--devices", type=int, default=1))
    model, suffix = network()
    trainer = lightning.Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
        callbacks=[Stop(args)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    going_on = args.checkpoint if args.checkpoint.exists() else None
    trainer.fit(Suffix(suffix, args), datamodule=Shards(args, model), ckpt_path=going_on)


if __name__ == "__main__":
    main()
