"""What the codec runs on here and how fast: for `fmshards doctor`."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from fmshards.codec.feature import FeatureSpec
from fmshards.codec.zfp.codec import ZfpCodec
from fmshards.codec.zfp.engine import engine
from fmshards.codec.zfp.on_zfpy import decode_rows as zfpy_decode
from fmshards.codec.zfp.on_zfpy import encode_rows as zfpy_encode
from fmshards.kernels import cuda, jit

_PACKAGES = ("fmshards", "torch", "numba", "llvmlite", "numpy", "zfpy", "triton", "blosc2")
_SPEC, _SAMPLES, _ROUNDS = FeatureSpec("map", (64, 16, 16)), 64, 5


def doctor() -> dict[str, Any]:
    """The engine, why it was chosen, where compiled kernels are, and speeds of one thread, as plain JSON.

    cuda: which engine decodes rows that are on a CUDA device, None where there is no device.
    speed: MB of float32 a second, "decode" and "encode" at 4 bits a value of maps [64, 16, 16], beside zfpy's in the
    same rounds, medians of 5. equal: whether both gave the same bytes. Takes a second or two, and some seconds more
    where kernels are compiled. Raises InputError as `engine` does.
    """
    chosen = engine()
    began = time.perf_counter()
    codec = ZfpCodec(_SPEC, 256)
    x = _smooth_maps()
    rows, warm = np.empty((_SAMPLES, codec.row_bytes), np.uint8), np.empty((_SAMPLES, *_SPEC.shape), np.float32)
    flat = x.reshape(_SAMPLES, -1)
    chosen.encode_rows(flat, codec.layout, codec.block_bits, rows)
    chosen.decode_rows(rows, codec.layout, codec.block_bits, warm, "torch.float32")
    first = time.perf_counter() - began
    other_rows, other = np.empty_like(rows), np.empty_like(warm)
    sides = {
        "decode": lambda: chosen.decode_rows(rows, codec.layout, codec.block_bits, warm, "torch.float32"),
        "encode": lambda: chosen.encode_rows(flat, codec.layout, codec.block_bits, rows),
        "zfpy_decode": lambda: zfpy_decode(rows, codec.layout, codec.block_bits, other, "torch.float32"),
        "zfpy_encode": lambda: zfpy_encode(flat, codec.layout, codec.block_bits, other_rows),
    }
    seconds = _in_turns(sides)
    folder = None if jit.missing() else jit.cache_folder()
    return {
        "cpu": platform.processor() or platform.machine(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "engine": chosen.name,
        "why": chosen.why,
        "kernels": None if folder is None else str(folder),
        "first_call_seconds": round(first, 3),
        "speed": {name: round(x.nbytes / took / 1e6) for name, took in seconds.items()},
        "cuda": _cuda(),
        "equal": bool(np.array_equal(rows, other_rows) and warm.tobytes() == other.tobytes()),
    }


def _cuda() -> str | None:
    import torch

    if not torch.cuda.is_available():
        return None
    lacking = cuda.missing()
    return "triton" if lacking is None else f"none, rows go over the CPU: {lacking}"


def _smooth_maps() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Something like features: smooth over places, half of it zeros, channels of different strength."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((_SAMPLES, *_SPEC.shape)).cumsum(-1).cumsum(-2) / 16
    strength = rng.uniform(0.2, 2, (1, _SPEC.channels, 1, 1))
    maps: np.ndarray[Any, np.dtype[np.float32]] = np.maximum((x - x.mean()) * strength, 0).astype(np.float32)
    return maps


def _in_turns(sides: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median seconds of each side, over rounds in which they take turns."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(_ROUNDS):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            took[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in took.items()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
