"""Resuming when processes die, and among ranks that talk to each other."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from fmshards.errors import FmshardsError, InputError, MismatchError
from fmshards.stream import loader
from fmshards.stream.course import agree
from tests.sets import BuiltSet
from tests.stream.helpers import error_of

pytestmark = pytest.mark.filterwarnings("ignore:.*parts of a cell", "ignore:This DataLoader will create")

RANKS = 4


def digest(batch: dict[str, Any]) -> list[Any]:
    """A batch's keys, and what its features and thetas are."""
    return [batch["__key__"], *(float(batch[name].double().sum()) for name in ("layer2", "theta"))]


def expected(url: str, **options: Any) -> list[list[Any]]:
    return [digest(batch) for batch in loader(url, 8, num_workers=0, seed=3, **options)]


@pytest.mark.parametrize("persistent", [True, False])
def test_a_worker_is_killed_and_the_loader_goes_on(flipped: BuiltSet, persistent: bool) -> None:
    whole = expected(flipped.url, groups=2)
    load = loader(flipped.url, 8, num_workers=2, seed=3, persistent_workers=persistent, prefetch_factor=1)
    batches = iter(load)
    seen = [digest(next(batches)) for _ in range(3)]
    os.kill(batches._batches._workers[1].pid, signal.SIGKILL)  # type: ignore[attr-defined]  # torch has no public way
    message = error_of(FmshardsError, map(seen.append, map(digest, batches)))
    assert "died" in message
    del batches
    state = load.state_dict()
    assert state["deals"][0][-1] == len(seen) < 9
    load.load_state_dict(state)
    assert seen + [digest(batch) for batch in load] == whole
    assert load.epoch == 1


def train(url: str, state: Path, log: Path, workers: int, way: str | None = None) -> None:
    """A training loop that saves its state after every batch, and says what it has had."""
    load = loader(url, 8, num_workers=workers, seed=3, groups=2, multiprocessing_context=way)
    if state.exists():
        load.load_state_dict(json.loads(state.read_text()))
    for batch in load:
        with log.open("a") as out:
            out.write(json.dumps(digest(batch)) + "\n")
        whole = state.with_suffix(".new")
        whole.write_text(json.dumps(load.state_dict()))
        whole.replace(state)
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_main_process_is_killed_again_and_again(flipped: BuiltSet, tmp_path: Path, workers: int) -> None:
    """What is had after the state that was saved last comes again; nothing else does, and nothing is missing."""
    whole = expected(flipped.url, groups=2)
    state, log = tmp_path / "state.json", tmp_path / "log"
    context, had = get_context("fork"), []
    for _ in range(20):
        log.write_text("")
        process = context.Process(target=train, args=(flipped.url, state, log, workers))
        process.start()
        while process.is_alive() and len(log.read_text().splitlines()) < 3:
            time.sleep(0.01)
        process.kill()
        process.join()
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        done = json.loads(state.read_text())["deals"][0][-1]
        had += lines[: done - len(had)]
        if process.exitcode == 0:
            break
    assert had == whole


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    "way", ["fork", *(pytest.param(way, marks=pytest.mark.slow) for way in ("spawn", "forkserver"))]
)
def test_workers_end_with_the_process_that_they_work_for(flipped: BuiltSet, tmp_path: Path, way: str) -> None:
    """Also those that wait for somebody to take their batches, and those of a forkserver, whose parent lives on."""
    state, log = tmp_path / "state.json", tmp_path / "log"
    log.write_text("")
    # Not forked, but for workers that are: this process may have a forkserver, of which its child would believe to be
    # the parent.
    context = get_context("fork" if way == "fork" else "spawn")
    process = context.Process(target=train, args=(flipped.url, state, log, 2, way))
    process.start()
    while process.is_alive() and len(log.read_text().splitlines()) < 3:
        time.sleep(0.01)
    left = descendants(process.pid)
    assert len(left) >= 2
    process.kill()
    process.join()
    until = time.monotonic() + 20
    while (left := [pid for pid in left if Path("/proc", pid).exists()]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left


def descendants(pid: int | None) -> list[str]:
    """The numbers of all processes below one."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += [child, *descendants(int(child))]
    return found


def four(work: Callable[..., None], tmp_path: Path, url: str, *args: Any) -> None:
    """Run `work(rank, url, *args)` in four ranks of torch.distributed."""
    next(iter(loader(url, 2, num_workers=0)))  # kernels are loaded once, and not by all four at a time
    path = str(tmp_path / "rendezvous")
    multiprocessing.start_processes(_rank, (work, path, (url, *args)), nprocs=RANKS, start_method="fork")


def _rank(rank: int, work: Callable[..., None], path: str, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=RANKS)
    work(rank, *args)
    dist.barrier()
    dist.destroy_process_group()


def _one_behind(rank: int, url: str) -> None:
    load = loader(url, 2, num_workers=0, seed=3, lanes=4)
    whole = [digest(batch) for batch in load]
    load.set_epoch(0)
    states = []
    for _ in zip(range(5), load, strict=False):
        states.append(load.state_dict())
    again = loader(url, 2, num_workers=0, seed=3)
    again.load_state_dict(states[3 if rank == 1 else 4])
    rest = [digest(batch) for batch in again]
    assert rest == whole[4 if rank == 1 else 5 :]
    count = torch.tensor([len(rest)])
    dist.all_reduce(count)
    assert int(count) == 4 * 4 + 1


def test_a_rank_that_is_one_batch_behind_has_its_own_batches(flipped: BuiltSet, tmp_path: Path) -> None:
    """Each is what it would have been; that rank has one batch more, as it asked for."""
    four(_one_behind, tmp_path, flipped.url)


def _anew(rank: int, url: str, state: dict[str, Any], other: dict[str, Any]) -> None:
    load = loader(url, 3, num_workers=0, seed=3)
    load.load_state_dict(state)
    keys = [key for batch in load for key in batch["__key__"]]
    gathered: list[Any] = [None] * RANKS
    dist.all_gather_object(gathered, keys)
    assert {len(each) for each in gathered} == {15}
    assert len({key for each in gathered for key in each}) == 60
    with pytest.raises(MismatchError, match="given another state, or other settings: give all ranks the state of one"):
        load.load_state_dict(other if rank == 2 else state)
    unlike = loader(url, 3, num_workers=0, seed=3, window=1 if rank == 1 else 2)
    with pytest.raises(MismatchError, match="other settings"):
        unlike.load_state_dict(state)
    agree.PATIENCE = 1.0
    if rank:
        with pytest.raises(InputError, match="within 1 s rank 0 loaded none"):
            load.load_state_dict(state)


def test_ranks_that_deal_anew_must_agree(flipped: BuiltSet, tmp_path: Path) -> None:
    """Sixty samples of one rank's epoch go to four; another state on a rank, or none, is an error."""
    load = loader(flipped.url, 6, num_workers=0, seed=3)
    batches = iter(load)
    next(batches)
    other = load.state_dict()
    next(batches)
    four(_anew, tmp_path, flipped.url, load.state_dict(), other)
