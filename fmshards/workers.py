"""DataLoader worker processes: how they begin, those that die, killed from outside or for memory, and those that cannot
be started."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable
from functools import cache
from multiprocessing import AuthenticationError
from multiprocessing.connection import wait
from typing import Any

from fmshards.errors import WorkerDiedError

_EVERY = 1.0  # seconds


def begin_worker(_: int = 0) -> None:
    """In a worker, a DataLoader's `worker_init_fn` too: end at once when the process that it works for is no more, and
    print nothing when that one, interrupted, breaks off while a tensor is handed over to it.

    torch's own workers look for their parent between batches alone, by its number: from a forkserver they never see
    that it has gone, and where a queue is full they wait for somebody to take what is in it.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        _watch(os.getpid(), os.getppid(), parent.sentinel)
        _be_silent_of_hand_overs()


@cache
def _be_silent_of_hand_overs() -> None:
    """Python's thread that hands descriptors over prints what ends a connection, and goes on with the next one."""
    say = sys.excepthook

    def hook(*raised: Any) -> None:
        sharer = threading.current_thread() is not threading.main_thread()
        if not (sharer and isinstance(raised[1], (EOFError, ConnectionError, AuthenticationError))):
            say(*raised)

    sys.excepthook = hook


@cache  # once in each process: a fork inherits what is cached, but not the thread
def _watch(own: int, parent: int, sentinel: int) -> None:
    threading.Thread(target=_leave_after, args=(parent, sentinel), name="fmshards-parent", daemon=True).start()


def _leave_after(parent: int, sentinel: int) -> None:
    # The sentinel is that of the process worked for, which need not be the parent; forked siblings hold it open.
    while not wait([sentinel], _EVERY) and os.getppid() == parent:
        pass
    os._exit(1)


def is_unsendable(error: BaseException) -> bool:
    """Whether this is what pickling raises of what no new process can be given; its words differ between Pythons."""
    said = any(words in str(error) for words in ("pickle", "local object"))
    return isinstance(error, pickle.PicklingError) or (isinstance(error, (TypeError, AttributeError)) and said)


def is_worker_death(error: BaseException) -> bool:
    """Whether this is what a DataLoader raises, from a signal handler and so anywhere, when a worker has died."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def worker_died(error: BaseException, work: str, advice: str) -> WorkerDiedError:
    """The error to raise instead: a process that does `work` died; `advice` says what to do."""
    said = (str(error) or type(error).__name__).splitlines()[0]
    return WorkerDiedError(f"a process that {work} died (killed, or out of memory): {said}. {advice}")


def in_spite_of_deaths(work: Callable[[], None]) -> None:
    """Run what ends a loader's processes, again where the signal handler raises for one of them in the middle.

    It does so once for each loader. `work` goes on where it was left when it is called again.
    """
    while True:
        try:
            return work()
        except RuntimeError as error:
            if not is_worker_death(error):
                raise
