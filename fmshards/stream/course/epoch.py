"""The epoch number, and where in an epoch the next iteration begins, in shared memory.

A plain counter in the data set fails twice: with new workers every epoch is epoch 0, and with workers that persist
`set_epoch` never arrives. Here all workers of one iteration of a DataLoader must agree on one number, under fork,
spawn and forkserver, with workers that persist or not, and when an iteration is abandoned before some of its workers
have started, though the DataLoader itself may know nothing of this class.

What the workers of one iteration share, and no other iteration does, is (base seed of the DataLoader's iterator, how
many iterations this process began before). The first worker to show up with a new pair takes the next epoch number,
with the position to which a state was loaded, and writes both down; the others find it, and so does the main process
that wants to know where an iteration began. A user may well seed torch alike before each epoch, so a worker that has
joined an iteration never joins it again: the same pair from the same worker is a new iteration.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import get_spawning_popen
from typing import Any

from torch.utils.data import get_worker_info

from fmshards.errors import InputError

MOST_DEALS = 64
"""Deals of an epoch that are remembered."""

_RING = 8  # iterations remembered; more than are ever alive at once
_BITS = 62  # processes a mask word holds: the main process, and workers
_MASKS = 16
_DEAL = 5  # B, G, K, M, t
_POSITION = 3 + _DEAL * MOST_DEALS  # epoch, rows, deals and each of them
_ENTRY = 2 + _MASKS + _POSITION  # token, workers, masks of the processes that joined, the position
_HEAD = 3 + _POSITION  # newest entry, whether it is what the next position follows, iterations of no workers; the next

Numbers = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Position:
    """Where an iteration begins."""

    epoch: int
    deals: tuple[Numbers, ...] = ()
    """(B, G, K, M, t) of each deal of the epoch so far; none: the epoch begins."""
    rows: int = 0
    """Samples that an evaluation has shown."""

    @property
    def begun(self) -> bool:
        """Whether it is not an epoch's beginning."""
        return bool(self.deals or self.rows)


@dataclass(frozen=True)
class Beginning:
    """Where an iteration began, and with how many workers."""

    position: Position
    workers: int


class EpochCounter:
    """A position that goes on to the next epoch with each iteration, whichever processes take part in it."""

    def __init__(self, epoch: int = 0, *, counts: bool = True) -> None:
        """counts: whether an iteration is an epoch; otherwise the number stays."""
        self._counts = counts
        self._open()
        self.set(Position(epoch))

    @property
    def next(self) -> Position:
        """Where the next iteration will begin."""
        with self._lock() as words:
            return _read(words, _HEAD - _POSITION)

    @property
    def last(self) -> Beginning | None:
        """The iteration that began last, in whichever process; None where none did since `set`."""
        with self._lock() as words:
            at = _HEAD + int(words[0]) * _ENTRY
            return Beginning(_read(words, at + _ENTRY - _POSITION), int(words[at + 1])) if words[1] else None

    def set(self, position: Position) -> None:
        """Make the next iteration, in whichever process, begin there."""
        if isinstance(position.epoch, bool) or not isinstance(position.epoch, int) or not 0 <= position.epoch < 2**62:
            raise InputError(f"an epoch is a number from 0 on, found {position.epoch!r}")
        with self._lock() as words:
            _write(words, _HEAD - _POSITION, position)
            words[1] = 0

    def go_back(self, position: Position) -> None:
        """Have the iteration that began last begin there; each of its processes may say so, and the same."""
        with self._lock() as words:
            _write(words, _HEAD + int(words[0]) * _ENTRY + _ENTRY - _POSITION, position)
            _write(words, _HEAD - _POSITION, Position(position.epoch + self._counts))

    def begin(self) -> Position:
        """Where this iteration begins. Called once by each worker (or by the main process) for each iteration."""
        info = get_worker_info()
        if info is None:
            with self._lock() as words:
                words[2] += 1  # even, which the tokens of workers are not
                return _read(words, self._enter(words, 2 * int(words[2]), 0) + _ENTRY - _POSITION)
        base_seed = int(info.seed) - int(info.id)
        process = (os.getpid(), int(info.id), base_seed)
        turn = self._begun.get(process, 0)
        self._begun[process] = turn + 1
        return self._join(base_seed, turn, int(info.id) + 1, int(info.num_workers))

    def follow(self, base_seed: int, turn: int, workers: int) -> Position:
        """Where the iteration of other processes begins that has this base seed and is so many turns from the first of
        its DataLoader's iterator. Called once for each iteration, by the main process."""
        return self._join(base_seed, turn, 0, workers)

    def _join(self, base_seed: int, turn: int, process: int, workers: int) -> Position:
        digest = hashlib.blake2b(f"{base_seed}|{turn}".encode(), digest_size=8).digest()
        token = int.from_bytes(digest, "little") >> 2 | 1
        word, bit = 2 + process // _BITS % _MASKS, 1 << process % _BITS
        with self._lock() as words:
            newest = int(words[0])
            for back in range(_RING):
                at = _HEAD + (newest - back) % _RING * _ENTRY
                if words[at] == token and not words[at + word] & bit:
                    break
            else:
                at = self._enter(words, token, workers)
            words[at + word] |= bit
            return _read(words, at + _ENTRY - _POSITION)

    def _enter(self, words: Any, token: int, workers: int) -> int:
        """Where the entry of a new iteration is; it takes the next position."""
        newest = (int(words[0]) + 1) % _RING
        at = _HEAD + newest * _ENTRY
        position = _read(words, _HEAD - _POSITION)
        words[at : at + 2 + _MASKS] = [token, workers, *[0] * _MASKS]
        _write(words, at + _ENTRY - _POSITION, position)
        _write(words, _HEAD - _POSITION, Position(position.epoch + self._counts))
        words[0], words[1] = newest, 1
        return at

    def _open(self) -> None:
        self._begun: dict[tuple[int, int, int], int] = {}
        # A spawn context's lock works in forked children too; the reverse does not hold.
        self._shared: Any = get_context("spawn").Array("q", _HEAD + _RING * _ENTRY)

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
        shared = get_spawning_popen() is not None
        return {"counts": self._counts, **({"shared": self._shared} if shared else {"next": self.next})}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._counts = state["counts"]
        if "shared" in state:
            self._begun, self._shared = {}, state["shared"]
        else:
            self._open()
            self.set(state["next"])


def _read(words: Sequence[int], at: int) -> Position:
    epoch, rows, count = words[at : at + 3]
    flat = words[at + 3 : at + 3 + count * _DEAL]
    deals = tuple((flat[i], flat[i + 1], flat[i + 2], flat[i + 3], flat[i + 4]) for i in range(0, len(flat), _DEAL))
    return Position(epoch, deals, rows)


def _write(words: Any, at: int, position: Position) -> None:
    flat = [number for deal in position.deals for number in deal]
    words[at : at + 3 + len(flat)] = [position.epoch, position.rows, len(position.deals), *flat]
