"""A batch on its way from a worker to the training loop.

Tensors travel through shared memory: each takes a file descriptor, a connection to hand it over and a mapping, some
tenths of a millisecond whatever its size. Beside its features a batch has half a dozen small ones; they go in the
message itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

_SMALL = 1 << 16
"""Bytes below which a tensor is copied through a pipe faster than it is shared."""


def handed_over(batch: Any) -> dict[str, Any]:
    """A DataLoader's `collate_fn` where the data set makes whole batches: the batch as a worker sends it best. It
    arrives as a plain dict of the same values."""
    return batch if get_worker_info() is None else _Outgoing(batch)


class _Outgoing(dict[str, Any]):
    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, ([(name, _in_message(value)) for name, value in self.items()],)


def _in_message(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or value.nbytes >= _SMALL or not value.is_contiguous():
        return value
    return value if value.dtype is torch.bfloat16 else value.numpy()  # which has no bfloat16


def _arrived(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in items}
