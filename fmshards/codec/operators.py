"""Decoding as an operator of torch, which `torch.compile` takes as it is: its graph does not break there.

Imports torch: no other module of this room does, and only those who compile need this one.
"""

from __future__ import annotations

import json
from functools import lru_cache

import torch

from fmshards.codec.base import Codec
from fmshards.codec.rates import codec_from_config


class Decode:
    """`codec.decode(rows, out, dtype)`; while `torch.compile` looks, the operator `fmshards::decode`."""

    def __init__(self, codec: Codec) -> None:
        self.codec, self.spec = codec, codec.spec
        # Text, as an operator's arguments are tensors and plain data.
        self.config = json.dumps(codec.config())

    def __call__(self, rows: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            torch.ops.fmshards.decode(rows, self.config, out)
            return out
        return self.codec.decode(rows, out)


@torch.library.custom_op("fmshards::decode", mutates_args=("out",))
def _decode(rows: torch.Tensor, config: str, out: torch.Tensor) -> None:
    _codec(config).decode(rows, out)


@_decode.register_fake
def _(rows: torch.Tensor, config: str, out: torch.Tensor) -> None:
    """Nothing but the values of `out` changes."""


@lru_cache(maxsize=256)
def _codec(config: str) -> Codec:
    return codec_from_config(json.loads(config))
