"""The epoch number, in shared memory.

A plain counter in the data set fails twice: with new workers every epoch is epoch 0, and with workers that persist
`set_epoch` never arrives. Here all workers of one iteration of a DataLoader must agree on one number, under fork,
spawn and forkserver, with workers that persist or not, and when an iteration is abandoned before some of its workers
have started, though the DataLoader itself may know nothing of this class.

What the workers of one iteration share, and no other iteration does, is (base seed of the DataLoader's iterator, how
many iterations this process began before). The first worker to show up with a new pair takes the next epoch number
and writes both down; the others find it. A user may well seed torch alike before each epoch, so a worker that has
joined an iteration never joins it again: the same pair from the same worker is a new iteration.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import get_spawning_popen
from typing import Any

from torch.utils.data import get_worker_info

from fmshards.errors import InputError

_RING = 8  # iterations remembered; more than are ever alive at once
_BITS = 62  # workers a mask word holds
_MASKS = 16
_ENTRY = 2 + _MASKS  # token, epoch, masks of the workers that joined
_HEAD = 2  # next epoch, newest entry


class EpochCounter:
    """A number that advances once for each iteration, whichever processes take part in it."""

    def __init__(self, epoch: int = 0) -> None:
        # A spawn context's lock works in forked children too; the reverse does not hold.
        self._shared: Any = get_context("spawn").Array("q", _HEAD + _RING * _ENTRY)
        self._begun: dict[tuple[int, int, int], int] = {}
        self.set(epoch)

    @property
    def next(self) -> int:
        """The epoch that the next iteration will be."""
        with self._lock() as words:
            return int(words[0])

    def set(self, epoch: int) -> None:
        """Make the next iteration, in whichever process, epoch `epoch`."""
        if isinstance(epoch, bool) or not isinstance(epoch, int) or not 0 <= epoch < 2**62:
            raise InputError(f"an epoch is a number from 0 on, found {epoch!r}")
        with self._lock() as words:
            words[0] = epoch

    def begin(self) -> int:
        """This iteration's epoch. Called once by each worker (or by the main process) for each iteration."""
        info = get_worker_info()
        if info is None:
            with self._lock() as words:
                return _take(words)
        base_seed = int(info.seed) - int(info.id)
        process = (os.getpid(), int(info.id), base_seed)
        turn = self._begun.get(process, 0)
        self._begun[process] = turn + 1
        digest = hashlib.blake2b(f"{base_seed}|{turn}".encode(), digest_size=8).digest()
        return self._join(int.from_bytes(digest, "little") >> 2 | 1, int(info.id))

    def _join(self, token: int, worker: int) -> int:
        word, bit = 2 + worker // _BITS % _MASKS, 1 << worker % _BITS
        with self._lock() as words:
            newest = int(words[1])
            for back in range(_RING):
                at = _HEAD + (newest - back) % _RING * _ENTRY
                if words[at] == token and not words[at + word] & bit:
                    words[at + word] |= bit
                    return int(words[at + 1])
            newest = (newest + 1) % _RING
            at = _HEAD + newest * _ENTRY
            epoch = _take(words)
            words[at : at + _ENTRY] = [token, epoch, *[0] * _MASKS]
            words[at + word] = bit
            words[1] = newest
            return epoch

    @contextmanager
    def _lock(self) -> Iterator[Any]:
        # A process killed inside leaves the lock taken for ever: so go on after far longer than this ever takes.
        lock = self._shared.get_lock()
        held = lock.acquire(True, 10.0)
        try:
            yield self._shared.get_obj()
        finally:
            if held:
                lock.release()

    def __getstate__(self) -> dict[str, Any]:
        """Shared with a process that is being started; a copy of its own everywhere else."""
        return {"shared": self._shared} if get_spawning_popen() is not None else {"epoch": self.next}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begun = {}
        if "shared" in state:
            self._shared = state["shared"]
        else:
            self._shared = get_context("spawn").Array("q", _HEAD + _RING * _ENTRY)
            self.set(state["epoch"])


def _take(words: Any) -> int:
    epoch = int(words[0])
    words[0] = epoch + 1
    return epoch
