"""Values on their way in and tensors on their way out: what is accepted, and what is refused in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmshards.codec.feature import FeatureSpec
from fmshards.errors import CodecError

if TYPE_CHECKING:
    import torch


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
        values = given.reshape(flat.shape)
        lost = np.flatnonzero(values.any(1) & ~flat.any(1))
        if len(lost):
            raise vanished(spec, first + int(lost[0]), values[lost[0]], "float32; scale the feature")
    return flat


def refused(spec: FeatureSpec, sample: int, value: int, why: str, found: Any = None) -> CodecError:
    """The error for a value that cannot be encoded: its sample in the batch, and its number in the sample.

    found: the value, where it says something.
    """
    what = "" if found is None else f"{found} "
    return CodecError(f"cannot encode: {what}in sample {sample} of the batch, channel {spec.channel_of(value)}, {why}")


def vanished(spec: FeatureSpec, sample: int, values: npt.NDArray[Any], dtype: str) -> CodecError:
    """The error for a sample, values [values], that is not all zeros but would be. dtype: as what; and what to do."""
    value = int(np.abs(values).argmax())
    return CodecError(
        f"cannot encode: all of sample {sample} of the batch would become zeros: its largest value, {values[value]} in "
        f"channel {spec.channel_of(value)}, is too small for {dtype}"
    )


def _refuse_nonfinite(flat: npt.NDArray[np.float32], given: npt.NDArray[Any], first: int, spec: FeatureSpec) -> None:
    bad = np.argwhere(~np.isfinite(flat))
    if not len(bad):
        return
    sample, value = (int(i) for i in bad[0])
    found = given.reshape(flat.shape)[sample, value]
    why = "is too large for float32" if np.isfinite(found) else "is not finite"
    raise refused(spec, first + sample, value, f"{why} ({len(bad)} such values)", float(found))


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
