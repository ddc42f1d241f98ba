"""Whether all ranks were given the same state.

Where what is left of an epoch is dealt anew, ranks that were given different states would show some samples twice and
others never, without a word. They cannot see each other's, but where torch.distributed is initialised they have a
store in common: each rank writes its state's digest there, and the ranks that need the others' wait for them. No
collective takes part, which would hang where one rank does not come.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from itertools import count
from typing import Any

import torch.distributed

from fmshards.errors import InputError, MismatchError

PATIENCE = 60.0
"""Seconds that the other ranks have to load their state."""

_loads = count()


def compare_states(state: Mapping[str, Any], rank: int, ranks: int, needed: bool) -> None:
    """Tell the other ranks what this one makes of its state and, where it is `needed`, wait for theirs.

    state: that with which the next iteration begins, its deal included: ranks of unlike memory may deal otherwise.
    torch.distributed is initialised, and every rank calls it for the same loaders in the same order. Raises
    MismatchError where another rank was given another state, InputError where one was given none in time.
    """
    load, store = next(_loads), torch.distributed.distributed_c10d._get_default_store()
    names = [f"fmshards/state/{load}/{each}" for each in range(ranks)]
    own = hashlib.blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=16).hexdigest()
    store.set(names[rank], own)
    if not needed:
        return
    try:
        store.wait(names, timedelta(seconds=PATIENCE))
    except RuntimeError:
        late = [each for each, name in enumerate(names) if not store.check([name])]
        raise InputError(
            f"rank {rank} of {ranks}: the rest of the epoch is dealt anew, for which all ranks load the same state; "
            f"within {PATIENCE:.0f} s rank {', '.join(map(str, late))} loaded none"
        ) from None
    other = [each for each, name in enumerate(names) if store.get(name).decode() != own]
    if other:
        raise MismatchError(
            f"rank {rank} of {ranks}: the rest of the epoch is dealt anew, with other ranks, workers, batches or "
            f"memory, and rank {', '.join(map(str, other))} was given another state, or other settings: give all ranks "
            "the state of one of them"
        )
