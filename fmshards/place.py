"""Which rank of how many this process is.

Spawned DataLoader workers do not inherit torch.distributed's rank, and some launchers set WORLD_SIZE but not RANK
before it is initialised: so rank and world size are captured in the main process, and looked up as late as possible.
"""

from __future__ import annotations

import os

import torch.distributed

from fmshards.errors import InputError


def current_rank() -> tuple[int, int] | None:
    """(rank, ranks) from torch.distributed where it is initialised, else from RANK and WORLD_SIZE; (0, 1) where
    nothing says that there are others; None where WORLD_SIZE says so and nothing tells the rank."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    ranks = _number("WORLD_SIZE", 1)
    if ranks == 1:
        return 0, 1
    if "RANK" not in os.environ:
        return None
    return check_rank(_number("RANK", 0), ranks)


def check_rank(rank: int, ranks: int) -> tuple[int, int]:
    """Both, or InputError where they do not go together."""
    if not 0 <= rank < ranks:
        raise InputError(f"rank {rank} of {ranks}: a rank is a number from 0 to {ranks - 1}")
    return rank, ranks


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise InputError(f"the environment variable {name} is a number, found {text!r}") from None
