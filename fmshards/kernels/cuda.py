"""Whether Triton's kernels can run on a device here, and launching them there.

Importing this imports neither torch nor triton.
"""

from __future__ import annotations

import contextlib
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# 3.2 and 3.3 end in an error of their own (ConvertTritonToTritonGPU) on the kernel of zfp.
_LEAST_TRITON = (3, 4)


@lru_cache(maxsize=1)
def missing() -> str | None:
    """Why kernels for CUDA devices cannot be compiled here; None where they can."""
    import torch

    if torch.version.hip:
        return "the kernels are written for CUDA; this torch is for ROCm"
    try:
        import triton

        version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    except Exception as error:  # a triton that does not fit this torch raises what it likes
        return f"triton cannot be imported: {type(error).__name__}: {error}"
    if version < _LEAST_TRITON:
        return f"triton {triton.__version__} stops at these kernels; they need 3.4 or later, which torch 2.8 brings"
    return None


def untimely() -> bool:
    """Whether the host may not wait for a device now."""
    import torch

    return torch.compiler.is_compiling() or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def fall_back(device: torch.device, what: str, error: Exception) -> None:
    """Warn that something is done another way, since a trial of the kernels failed."""
    text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:300]
    warnings.warn(
        f"{what}: a trial of the kernels on {device} failed ({text}). Results are right, and slower; please report it",
        stacklevel=4,
    )


def current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
