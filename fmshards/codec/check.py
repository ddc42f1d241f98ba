"""Values on their way in and tensors on their way out: what is accepted, and what is refused in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmshards.codec.feature import FeatureSpec
from fmshards.codec.zfp.layout import channel_of_value
from fmshards.errors import CodecError

if TYPE_CHECKING:
    import torch

_SLAB_VALUES = 1 << 19  # 2 MB of float32: large enough that a call costs nothing, small enough to stay in a cache


def slabs(n: int, values: int) -> list[tuple[int, int]]:
    """Ranges of whole samples, of about 2 MB of float32 each, that cover n samples."""
    step = max(1, _SLAB_VALUES // values)
    return [(a, min(a + step, n)) for a in range(0, n, step)]


def check_batch(x: Any, spec: FeatureSpec) -> None:
    """Raises CodecError unless x is a floating-point tensor or array [n, *spec.shape]."""
    shape = tuple(getattr(x, "shape", ()))
    kind = "." + str(getattr(x, "dtype", type(x).__name__)).rsplit(".", 1)[-1]
    if len(shape) != len(spec.shape) + 1 or shape[1:] != spec.shape:
        raise CodecError(f"expected values [n, {', '.join(map(str, spec.shape))}] ({spec.kind}), found {list(shape)}")
    if kind not in (".float16", ".bfloat16", ".float32", ".float64"):
        raise CodecError(f"expected floating-point values, found {kind[1:]}")


def float32_slab(x: Any, first: int, last: int, spec: FeatureSpec) -> npt.NDArray[np.float32]:
    """Samples first to last as contiguous float32 [n, values].

    Raises CodecError, naming the sample in the batch and the channel, where a value is not finite, or is not in
    float32, and where of a sample that is not all zeros nothing is left in float32.
    """
    part = x[first:last]
    if not isinstance(part, np.ndarray):
        part = part.detach().cpu()
        part = (part if str(part.dtype) == "torch.float64" else part.float()).contiguous().numpy()
    given = part
    with np.errstate(over="ignore", invalid="ignore"):
        flat = np.ascontiguousarray(given, np.float32).reshape(last - first, spec.values)
        line = flat.reshape(-1)
        # One pass at memory speed. A sum of squares of finite values may overflow too: then look closely.
        if not np.isfinite(np.dot(line, line)):
            _refuse_nonfinite(flat, given, first, spec)
    if given.dtype == np.float64:
        _refuse_vanished(flat, given.reshape(flat.shape), first, spec)
    return flat


def _refuse_nonfinite(flat: npt.NDArray[np.float32], given: npt.NDArray[Any], first: int, spec: FeatureSpec) -> None:
    bad = np.argwhere(~np.isfinite(flat))
    if not len(bad):
        return
    sample, value = (int(i) for i in bad[0])
    found = given.reshape(flat.shape)[sample, value]
    why = "is too large for float32" if np.isfinite(found) else "is not finite"
    raise CodecError(
        f"cannot encode: {float(found)} in sample {first + sample} of the batch, channel "
        f"{channel_of_value(spec, value)}, {why} ({len(bad)} such values)"
    )


def _refuse_vanished(flat: npt.NDArray[np.float32], given: npt.NDArray[Any], first: int, spec: FeatureSpec) -> None:
    lost = np.flatnonzero(given.any(1) & ~flat.any(1))
    if len(lost):
        raise vanished(given[lost[0]], first + int(lost[0]), spec, "float32")


def vanished(given: npt.NDArray[Any], sample: int, spec: FeatureSpec, dtype: str) -> CodecError:
    """The error for a sample, values [values], that is not all zeros but would be as `dtype`."""
    value = int(np.abs(given).argmax())
    return CodecError(
        f"cannot encode: all of sample {sample} of the batch would become zeros: its largest value, {given[value]} in "
        f"channel {channel_of_value(spec, value)}, is too small for {dtype}; store fp32, or scale the feature"
    )


def check_rows(rows: Any, row_bytes: int) -> npt.NDArray[np.uint8]:
    """rows as an array uint8 [B, row_bytes], any strides. Raises CodecError for anything else."""
    if not isinstance(rows, np.ndarray) and not hasattr(rows, "detach"):
        raise CodecError(f"expected rows uint8 [B, {row_bytes}], found {type(rows).__name__}")
    array = rows if isinstance(rows, np.ndarray) else rows.detach().cpu().numpy()
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != row_bytes:
        raise CodecError(f"expected rows uint8 [B, {row_bytes}], found {array.dtype} {list(array.shape)}")
    return array


def output(
    batch: int, spec: FeatureSpec, rows: Any, out: torch.Tensor | None, dtype: torch.dtype | None
) -> torch.Tensor:
    """`out`, or a new tensor [batch, *spec.shape] on the device of `rows`. Raises CodecError if `out` does not fit."""
    import torch

    shape = (batch, *spec.shape)
    if out is None:
        out = torch.empty(shape, dtype=dtype or torch.float32, device=getattr(rows, "device", "cpu"))
    if tuple(out.shape) != shape or not out.is_floating_point():
        raise CodecError(f"expected out to be floating-point {list(shape)}, found {out.dtype} {list(out.shape)}")
    return out.detach()


def as_array(out: torch.Tensor) -> npt.NDArray[Any] | None:
    """The memory of a tensor on the CPU, with its strides; bfloat16, which numpy lacks, as int16. None elsewhere."""
    import torch

    if out.device.type != "cpu":
        return None
    array: npt.NDArray[Any] = (out.view(torch.int16) if out.dtype == torch.bfloat16 else out).numpy()
    return array
