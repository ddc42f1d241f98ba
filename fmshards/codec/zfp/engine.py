"""Which engine turns values to ZFP rows and back on this CPU. Only the codec asks; nothing outside the room knows.

An engine is two functions on arrays. The codec checks every length before it calls them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy.typing as npt

from fmshards.errors import InputError
from fmshards.kernels import jit
from fmshards.kernels.machine import CHOICE, WAYS, way


@dataclass(frozen=True)
class Engine:
    """name: "bmi2", "avx2", "portable" (compiled kernels) or "zfpy". why: in words.

    encode_rows(x, layout, block_bits, out): x float32 [n, values], contiguous and finite; out uint8 [n, row_bytes],
        contiguous.
    decode_rows(rows, layout, block_bits, out, dtype): rows uint8 [n, row_bytes] of any strides; out [n, *shape] of a
        dtype and strides for which `writes(out, dtype)`, dtype being torch's in text.
    """

    name: str
    why: str
    encode_rows: Callable[..., None]
    decode_rows: Callable[..., None]
    writes: Callable[[npt.NDArray[Any], str], bool]


@lru_cache(maxsize=1)
def engine() -> Engine:
    """The engine of this process. Raises InputError where FMSHARDS_ENGINE names one that cannot run here."""
    choice = os.environ.get(CHOICE) or None
    if choice not in (None, "zfpy", *WAYS):
        raise InputError(f"{CHOICE}={choice}: expected {', '.join(WAYS)} or zfpy")
    lacking = jit.missing()
    if choice in WAYS and lacking:
        raise InputError(f"{CHOICE}={choice}: {lacking}; install numba, or leave {CHOICE} out")
    if choice == "zfpy" or lacking:
        from fmshards.codec.zfp import on_zfpy

        why = lacking or f"{CHOICE}=zfpy"
        return Engine("zfpy", why, on_zfpy.encode_rows, on_zfpy.decode_rows, on_zfpy.writes)
    from fmshards.codec.zfp import on_cpu

    return Engine(*way(), on_cpu.encode_rows, on_cpu.decode_rows, on_cpu.writes)
