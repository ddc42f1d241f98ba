"""Whether Triton's kernels can run on a device here, which of them do right there, and launching them.

Importing this imports neither torch nor triton.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fmshards.errors import warn

if TYPE_CHECKING:
    import torch

# 3.2 and 3.3 end in an error of their own (ConvertTritonToTritonGPU) on the kernel of zfp.
_LEAST_TRITON = (3, 4)
LARGEST = 2**31 - 1
"""What a kernel's numbers of values and strides may reach."""


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


def usable(device: torch.device, what: str, trial: Callable[[torch.device], None]) -> bool:
    """Whether kernels are to be used on a device: `trial` runs them there once, and raises where they do wrong.

    what: what is done instead where it raises, for the warning that says so. The first question about a device takes
    the time of the trial, unless a graph is being captured or compiled: then the answer is yes. Where there is no
    Triton it is no.
    """
    if device.type != "cuda" or missing() is not None:
        return False
    return untimely() or tried(device, what, trial)


@lru_cache(maxsize=64)
def tried(device: torch.device, what: str, trial: Callable[[torch.device], None]) -> bool:
    """Whether a trial on a device ends without an error; warns once where it does not."""
    try:
        trial(device)
    except Exception as error:  # a compiler or driver that does not fit raises what it likes
        fall_back(device, what, error)
        return False
    return True


def writes(out: torch.Tensor, kind: str) -> bool:
    """Whether kernels write into a batch of features of a kind: its dtype, strides and reach."""
    from fmshards.kernels.rounding import TYPES
    from fmshards.kernels.strides import strides_of

    span = sum((side - 1) * stride for side, stride in zip(out.shape[1:], out.stride()[1:], strict=True))
    return out.dtype in TYPES and strides_of(out, kind) is not None and span <= LARGEST


def fall_back(device: torch.device, what: str, error: Exception) -> None:
    """Warn that something is done another way, since a trial of the kernels failed."""
    text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:300]
    warn(f"{what}: a trial of the kernels on {device} failed ({text}). Results are right, and slower; please report it")


def current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
