"""Workers that are killed: one error that says so, and a loader that can be iterated again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from torch.utils.data import get_worker_info

from fmshards.errors import FmshardsError, InputError
from fmshards.reader import Fetcher
from fmshards.stream import loader
from tests.sets import BuiltSet
from tests.stream.helpers import error_of


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("way", [signal.SIGKILL, None])
def test_a_worker_that_is_killed(
    plain: BuiltSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, persistent: bool, way: int | None
) -> None:
    """By a signal, as for memory, or by an exit from within; the worker dies before its first batch."""
    fetch, alive = Fetcher.fetch, tmp_path / "alive"

    def dies(self: Fetcher, *args: object) -> object:
        if get_worker_info() is not None and not alive.exists():
            os.kill(os.getpid(), way) if way is not None else os._exit(1)
        return fetch(self, *args)  # type: ignore[arg-type]  # a method, replaced

    monkeypatch.setattr(Fetcher, "fetch", dies)
    load = loader(plain.url, 8, num_workers=2, persistent_workers=persistent)
    message = error_of(FmshardsError, load)
    assert "a process that reads the set died (killed, or out of memory)" in message
    assert "num_workers" in message
    alive.touch()
    assert len(list(load)) == 9


def test_torchs_ways_stay(plain: BuiltSet) -> None:
    """Workers persist, an early break ends an iteration, and the next one is whole."""
    load = loader(plain.url, 8, num_workers=2)
    assert len(load) == len(iter(load)) == 9
    first = iter(load)
    next(first)
    pids = {worker.pid for worker in load._iterator._workers}
    for _ in load:
        break
    assert len(list(load)) == 9
    assert {worker.pid for worker in load._iterator._workers} == pids
    assert iter(first) is first


def test_what_cannot_be_sent_to_a_worker_is_named(plain: BuiltSet) -> None:
    load = loader(plain.url, 8, num_workers=1, multiprocessing_context="spawn", worker_init_fn=lambda worker: None)
    assert "must have a name in a module" in error_of(InputError, load)
