"""The engine under `int` on this CPU: runs of values to packed codes and back, by compiled kernels or numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fmshards.codec.base import Bytes, Floats
from fmshards.codec.integer import on_numpy
from fmshards.codec.integer.runs import LEAST_RANGE, ROUNDS, Runs, shares
from fmshards.kernels import jit

if TYPE_CHECKING:
    import torch


def encode_rows(x: Floats, runs: Runs, out: Bytes) -> None:
    """Encode x, float32 [n, values] (contiguous, finite), into out, uint8 [n, row_bytes] (contiguous)."""
    each = runs.spec.kind == "vector" and runs.steps is not None
    if jit.missing() or each:
        on_numpy.encode(x, runs, out)
        return
    from fmshards.codec.integer.cpu import kernels

    scale, offset = runs.steps or (np.empty(0, np.float32),) * 2
    kernels.encode(
        *(x.ctypes.data, len(x), runs.count, runs.length, runs.turned, runs.bits),
        *(shares(runs.bits), ROUNDS, LEAST_RANGE, scale, offset, out),
    )


def decode_rows(rows: Bytes, runs: Runs, out: torch.Tensor) -> None:
    """Decode rows, uint8 [n, row_bytes] (any strides), into out, a float32 tensor [n, *shape] on the CPU.

    Its strides may be any that `straight` allows. Any bytes decode to something; no byte beside a row is read.
    """
    view = _as_runs(out, runs)
    assert view is not None  # the caller asked `straight`
    if rows.strides[1] != 1:
        rows = np.ascontiguousarray(rows)
    if jit.missing():
        view.numpy()[...] = on_numpy.decode(rows, runs)
        return
    from fmshards.codec.integer.cpu import kernels

    data, stride, n = rows.ctypes.data, rows.strides[0], len(rows)
    by_sample, by_run, by_value = view.stride()
    if runs.spec.kind == "vector" and runs.steps is not None:
        kernels.decode_each(data, stride, n, runs.length, runs.bits, *runs.steps, view.data_ptr(), by_sample, by_value)
        return
    scale, offset = runs.steps or (np.empty(0, np.float32),) * 2
    kernels.decode(
        *(data, stride, n, runs.count, runs.length, runs.bits, scale, offset),
        *(view.data_ptr(), by_sample, by_run, by_value),
    )


def straight(out: torch.Tensor, runs: Runs) -> bool:
    """Whether `decode_rows` can write into `out` itself."""
    return str(out.dtype) == "torch.float32" and out.device.type == "cpu" and _as_runs(out, runs) is not None


def _as_runs(out: torch.Tensor, runs: Runs) -> torch.Tensor | None:
    """`out`, [n, *shape], as [n, R, L], the same memory; None where its strides do not allow it."""
    if runs.spec.kind == "vector":
        return out.unsqueeze(1)
    places = out.movedim(runs.spec.channel_axis + 1, 1)
    try:
        return places.view(len(out), runs.count, runs.length)
    except RuntimeError:
        return None
