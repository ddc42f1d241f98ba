"""Trainers that would split batches over processes again are refused, or leave the loader alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import webdataset as wds
from accelerate import Accelerator
from accelerate.data_loader import IterableDatasetShard as OfAccelerate
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.trainer_pt_utils import IterableDatasetShard as OfTransformers

from fmshards.errors import InputError
from fmshards.stream import FeatureDataset, loader
from fmshards.stream.trainers.transformers import NAME, LoaderState
from tests.sets import BuiltSet

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("wrapper", [OfAccelerate, OfTransformers])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_that_is_dealt_already_is_not_dealt_again(plain: BuiltSet, wrapper: type, workers: int) -> None:
    one_of_two = wrapper(FeatureDataset(plain.url, batch_size=4, rank=0, ranks=2), 4, num_processes=2)
    with pytest.raises(InputError, match=r"splits the batches over the processes again.*IterableDatasetShard"):
        list(DataLoader(one_of_two, batch_size=None, num_workers=workers))
    # Of one rank that reads all it is for the trainer to share out.
    assert list(wrapper(FeatureDataset(plain.url, batch_size=4, rank=0, ranks=1), 4, num_processes=2))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pipeline_that_splits_again_is_refused(
    plain: BuiltSet, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    batches = loader(plain.url, 4, num_workers=workers)
    assert len(list(wds.DataPipeline(batches, wds.split_by_worker))) == 9
    with pytest.raises(InputError, match=r"split_by_node comes after the batches of one of 2 ranks"):
        list(wds.DataPipeline(batches, wds.split_by_node))
    in_workers = wds.DataPipeline(FeatureDataset(plain.url, batch_size=4), wds.split_by_worker)
    with pytest.raises(InputError, match=r"split_by_worker comes after the batches of one of 2 workers"):
        list(DataLoader(in_workers, batch_size=None, num_workers=2))


def test_prepare_leaves_the_loader_as_it_is(plain: BuiltSet) -> None:
    batches = loader(plain.url, 4, num_workers=0)
    assert Accelerator(cpu=True).prepare(batches) is batches


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_two_processes_of_accelerate(plain: BuiltSet, workers: int, tmp_path: Path) -> None:
    """`prepare` hands a plain DataLoader's batches out from one process: refused, before a sample is left out."""
    script = tmp_path / "prepared.py"
    script.write_text(
        "import sys, torch, fmshards\n"
        "from accelerate import Accelerator\n"
        "from fmshards.errors import InputError\n"
        "data = fmshards.FeatureDataset(sys.argv[1], batch_size=4, fields=['cls'])\n"
        "made = torch.utils.data.DataLoader(data, batch_size=None, num_workers=int(sys.argv[2]))\n"
        "for batch in Accelerator(cpu=True).prepare(made): pass\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(script), plain.url, str(workers)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode
    assert "accelerate splits the batches over the processes again (DataLoaderDispatcher)" in done.stderr


def callback(plain: BuiltSet, folder: Path, *, skips: bool) -> tuple[LoaderState, TrainingArguments]:
    options = TrainingArguments(str(folder), ignore_data_skip=not skips, report_to=[], use_cpu=True)
    return LoaderState(loader(plain.url, 4, num_workers=0)), options


def test_a_trainer_that_would_skip_twice_is_refused(plain: BuiltSet, tmp_path: Path) -> None:
    kept, options = callback(plain, tmp_path, skips=True)
    with pytest.raises(InputError, match="expected ignore_data_skip=True"):
        kept.on_train_begin(options, TrainerState(), TrainerControl())


def test_a_checkpoint_without_a_state_is_refused(plain: BuiltSet, tmp_path: Path) -> None:
    kept, options = callback(plain, tmp_path, skips=False)
    kept.on_train_begin(options, TrainerState(), TrainerControl())
    with pytest.raises(InputError, match=rf"checkpoint-3.*{NAME} is not there.*without LoaderState"):
        kept.on_train_begin(options, TrainerState(global_step=3), TrainerControl())
    (tmp_path / "checkpoint-3").mkdir()
    kept.on_save(options, TrainerState(global_step=3), TrainerControl())
    kept.on_train_begin(options, TrainerState(global_step=3), TrainerControl())


def test_a_length_that_was_told_too_early_is_warned_of(plain: BuiltSet) -> None:
    small, large = (loader(plain.url, size, num_workers=0, rank=0, ranks=1) for size in (4, 8))
    batches = iter(small)
    for _ in range(5):
        next(batches)
    state = small.state_dict()
    assert len(large) == 9
    with pytest.warns(UserWarning, match=r"has 11 batches, .* said 9"):
        large.load_state_dict(state)
    assert len(large) == 5 + (73 - 20) // 8
    assert len(list(large)) == 6
    assert len(large) == 9
