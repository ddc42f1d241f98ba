"""What made a set, for people who look for the cause of a difference: recorded in the plan, never a reason to refuse.

No times, names of machines or worker counts: two extractions on like machines give equal bytes.
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import fmshards

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "pillow", "zfpy", "zstandard")


def provenance(device: torch.device, memory_format: str = "contiguous") -> dict[str, Any]:
    """Versions, device, threads, precision flags and memory format of this process, as plain JSON."""
    return {
        "versions": {
            "fmshards": fmshards.__version__,
            "python": platform.python_version(),
            **{name: found for name in _PACKAGES if (found := _version(name)) is not None},
        },
        "machine": platform.machine(),
        "device": _device(device),
        "threads": torch.get_num_threads(),
        "memory_format": memory_format,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32 if device.type == "cuda" else None,
        "cudnn_benchmark": torch.backends.cudnn.benchmark if device.type == "cuda" else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu: {torch.backends.cpu.get_cpu_capability()}"
    return device.type
