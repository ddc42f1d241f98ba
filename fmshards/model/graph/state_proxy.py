"""A parameter or buffer while a model is traced: its values are unknown, its shape is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx


class StateProxy(fx.Proxy):
    """fx's proxy, but a branch or an assertion on the shape can be taken: shapes of weights do not change."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, value: torch.Tensor) -> None:
        super().__init__(node, tracer)
        self._value = value

    @property
    def shape(self) -> torch.Size:
        return self._value.shape

    @property
    def ndim(self) -> int:
        return self._value.ndim

    def size(self, *args: Any, **kwargs: Any) -> Any:
        return self._value.size(*args, **kwargs)

    def dim(self) -> int:
        return self._value.dim()

    def numel(self) -> int:
        return self._value.numel()

    def nelement(self) -> int:
        return self._value.nelement()
