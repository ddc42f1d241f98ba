"""Which rank of how many this process is.

Spawned DataLoader workers do not inherit torch.distributed's rank, and some launchers (Lightning's) set WORLD_SIZE but
not RANK before it is initialised: so rank and world size are captured in the main process, and looked up as late as
possible. How many ranks there are is known before which one this is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch.distributed

from fmshards.errors import InputError


@dataclass(frozen=True)
class Place:
    """rank: this process's among `ranks`; None where nothing tells it yet."""

    rank: int | None
    ranks: int


def current_place() -> Place:
    """From torch.distributed where it is initialised, else from WORLD_SIZE with RANK, or with LOCAL_RANK, NODE_RANK and
    LOCAL_WORLD_SIZE; rank 0 of 1 where nothing says that there are others. Raises InputError for numbers that are none.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Place(torch.distributed.get_rank(), torch.distributed.get_world_size())
    ranks = _number("WORLD_SIZE") or 1
    if ranks == 1:
        return Place(0, 1)
    rank = _number("RANK")
    if rank is None:
        rank = _rank_on_node()
    return Place(rank, ranks) if rank is None else check_place(rank, ranks)


def check_place(rank: int, ranks: int) -> Place:
    """Both, or InputError where they do not go together."""
    if not 0 <= rank < ranks:
        raise InputError(f"rank {rank} of {ranks}: a rank is a number from 0 to {ranks - 1}")
    return Place(rank, ranks)


def _rank_on_node() -> int | None:
    """The rank by this node's number and the rank on it; how many a node has matters only after the first."""
    local, node = _number("LOCAL_RANK"), _number("NODE_RANK")
    if local is None or node is None:
        return None
    if node == 0:
        return local
    each = _number("LOCAL_WORLD_SIZE")
    return None if each is None else node * each + local


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"the environment variable {name} is a number, found {text!r}") from None


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
