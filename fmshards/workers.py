"""DataLoader worker processes that die, killed from outside or for memory, or that cannot be started."""

from __future__ import annotations

import pickle
from collections.abc import Callable

from fmshards.errors import FmshardsError


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
