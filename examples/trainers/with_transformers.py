"""transformers' Trainer, stopped at any step and gone on with on any number of processes.

    torchrun --standalone --nproc-per-node 2 examples/trainers/with_transformers.py OUT --checkpoint D --stop-after 7
    torchrun --standalone --nproc-per-node 1 examples/trainers/with_transformers.py OUT --checkpoint D --batch-size 100

Traps: a Trainer given `train_dataset=` would split it over the processes again, so `get_train_dataloader` returns the
loader as it is. `LoaderState` saves where it is with every checkpoint; with `ignore_data_skip=True` the Trainer does
not skip what the loader skips. Keep the samples over all ranks, as above: the Trainer takes every epoch for equally
many steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from common import Seen, arguments, loss_of, network
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import fmshards
from fmshards.stream import FeatureLoader
from fmshards.stream.trainers.transformers import LoaderState


class ShardTrainer(Trainer):
    def __init__(self, loader: FeatureLoader, seen: Seen, **options: Any) -> None:
        super().__init__(**options)
        self.loader, self.seen = loader, seen

    def get_train_dataloader(self) -> DataLoader[Any]:
        return self.loader

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
        self.seen.note(self.loader.state_dict()["epoch"], inputs)
        return loss_of(model, inputs)


class Stop(TrainerCallback):
    """Saves a checkpoint after so many steps of this run, and ends it."""

    def __init__(self, after: int | None) -> None:
        self.after, self.steps = after, 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.steps += 1
        if self.steps == self.after:
            control.should_save = control.should_training_stop = True


def main() -> None:
    args = arguments(__doc__)
    model, suffix = network()
    options = TrainingArguments(
        str(args.checkpoint),
        num_train_epochs=args.epochs,
        learning_rate=0.01,
        save_strategy="no",
        report_to=[],
        ddp_find_unused_parameters=False,
        ignore_data_skip=True,
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=not torch.cuda.is_available(),
    )
    loader = fmshards.loader(args.shards, args.batch_size, num_workers=args.workers, model=model)
    trainer = ShardTrainer(
        loader,
        Seen(args.seen, options.process_index),
        model=suffix,
        args=options,
        callbacks=[LoaderState(loader), Stop(args.stop_after)],
    )
    saved = sorted(Path(args.checkpoint).glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    trainer.train(resume_from_checkpoint=str(saved[-1]) if saved else None)
    trainer.accelerator.end_training()  # leaves the process group: one that exits within it may be aborted


if __name__ == "__main__":
    main()
