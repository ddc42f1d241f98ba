"""Attention in a frozen prefix by the same kernel as in the model itself.

torch picks the kernel of an attention by whether gradients are recorded: its layers have a fused way for inference,
and `scaled_dot_product_attention` takes another way where its mask needs a gradient. A prefix records none, so where
the model around it would, it must ask for the model's kernel, or the last bits differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


@contextmanager
def unfused() -> Iterator[None]:
    """torch's attention layers without their fused way for inference."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def as_in_training() -> Iterator[None]:
    """Attention by the kernels of a model that records gradients, though none are recorded."""
    with unfused(), _Recorded():
        yield


class _Recorded(TorchFunctionMode):
    """Calls each scaled_dot_product_attention as if its inputs needed gradients, and drops what it records."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        with torch.enable_grad():
            result = func(*map(_needing, args), **{k: _needing(v) for k, v in (kwargs or {}).items()})
        return result.detach()


def _needing(value: Any) -> Any:
    """A float tensor as one that needs a gradient. A mask of bools never does."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().requires_grad_()
    return value
