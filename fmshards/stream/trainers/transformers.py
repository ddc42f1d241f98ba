"""transformers' Trainer: the loader's state in its checkpoints."""

from __future__ import annotations

import json
import os
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fmshards import store
from fmshards.errors import InputError
from fmshards.stream.loading import FeatureLoader

NAME = "fmshards_loader.json"
"""The file in a checkpoint's folder."""


class LoaderState(TrainerCallback):
    """Saves the state of `loader` with each checkpoint of a Trainer, and loads it when training resumes from one.

    loader: the one that `get_train_dataloader` returns. checkpoint: the folder that `trainer.train` is told to resume
    from, where it is not `checkpoint-<step>` in the output folder.

    Set `ignore_data_skip=True`: the Trainer would skip the batches that the loader has skipped already. Keep the number
    of samples over all ranks: the Trainer takes epochs for equally many steps.

    Raises InputError when training begins, where batches would be skipped twice, or the checkpoint has no such state.
    """

    def __init__(self, loader: FeatureLoader, checkpoint: str | os.PathLike[str] | None = None) -> None:
        self._loader = loader
        self._checkpoint = None if checkpoint is None else os.fspath(checkpoint)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not args.ignore_data_skip:
            raise InputError(
                "TrainingArguments: expected ignore_data_skip=True, found False: when training resumes, the loader "
                "goes on where it was, and the Trainer would skip as many batches again"
            )
        if state.global_step:
            url = store.join(self._checkpoint or _folder(args, state), NAME)
            if not store.exists(url):
                raise InputError(
                    f"{url} is not there: the checkpoint was saved without LoaderState; resume from one that has it, "
                    "or give LoaderState its folder (checkpoint=)"
                )
            self._loader.load_state_dict(json.loads(store.read_small(url, 1 << 20)))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            text = json.dumps(self._loader.state_dict())
            store.put(store.join(_folder(args, state), NAME), text.encode())


def _folder(args: TrainingArguments, state: TrainerState) -> str:
    return os.path.join(args.output_dir or ".", f"checkpoint-{state.global_step}")
