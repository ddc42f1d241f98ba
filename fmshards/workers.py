"""DataLoader worker processes that die, killed from outside or for memory, that outlive their parent, or that cannot be
started."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from functools import cache
from multiprocessing.util import Finalize

from fmshards.errors import FmshardsError


def leave_with_parent() -> None:
    """In a worker: when it ends after the process that started it, have it end at once.

    At a process's end multiprocessing waits until what it has put into queues is taken. Of a training process that was
    killed nobody takes it, and the worker would stay for ever.
    """
    if multiprocessing.parent_process() is not None:
        _leave_with(os.getpid(), os.getppid())


@cache
def _leave_with(own: int, parent: int) -> None:
    Finalize(None, _leave_if_orphaned, (parent,), exitpriority=10)  # before the queues' own


def _leave_if_orphaned(parent: int) -> None:
    known = multiprocessing.parent_process()  # of a forkserver's child not the one that has forked it
    if os.getppid() != parent or known is None or not known.is_alive():
        os._exit(1)


def is_unsendable(error: BaseException) -> bool:
    """Whether this is what pickling raises of what no new process can be given; its words differ between Pythons."""
    said = any(words in str(error) for words in ("pickle", "local object"))
    return isinstance(error, pickle.PicklingError) or (isinstance(error, (TypeError, AttributeError)) and said)


def is_worker_death(error: BaseException) -> bool:
    """Whether this is what a DataLoader raises, from a signal handler and so anywhere, when a worker has died."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def worker_died(error: BaseException, work: str, advice: str) -> FmshardsError:
    """The error to raise instead: a process that does `work` died; `advice` says what to do."""
    said = (str(error) or type(error).__name__).splitlines()[0]
    return FmshardsError(f"a process that {work} died (killed, or out of memory): {said}. {advice}")


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
