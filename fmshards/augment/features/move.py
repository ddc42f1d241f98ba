"""S_theta: a feature moved as the image would be, in place of running the prefix on the moved image.

Cell i of a feature lies at base pixel `stride * i + offset` on each axis (the measured grid). An output cell goes to
its pixel, through theta to the reference's pixel, and back to a fractional source cell. Positions within a
thousandth of a whole cell are taken as whole, so flips and whole-cell shifts are copies; others are bilinear. What
comes from outside the feature is `fill` at the output cell, in the proportion in which it is outside.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from fmshards.augment.features import on_cpu, on_cuda, on_torch
from fmshards.augment.features.channels import check_view, replace
from fmshards.augment.features.layer_move import LayerMove
from fmshards.augment.theta import phi_of
from fmshards.errors import InputError

_EYE = np.eye(2, 3)
_SAME = 1e-6  # how near a theta is to one that moves nothing


def move(
    x: torch.Tensor,
    theta: torch.Tensor | npt.NDArray[np.float32],
    mirrored: torch.Tensor | npt.NDArray[np.bool_],
    layer: LayerMove,
    view: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """Reference features x [B, *shape] moved by theta float[B, 2, 3] (in base coordinates), the view's channels put in.

    mirrored bool[B]: where true, x is the mirror's feature and theta = F . phi, so phi = F . theta is left to apply.
    view: [B, *shape of the layer's sensitive channels]; these are taken from it as `replace` does, class tokens too.
    Class tokens do not move. Bilinear sums are in float32. The result is [B, *shape] in `dtype` (None: x's) and
    `memory_format`; on a CPU it may be x itself where nothing moves.

    Whole moves and replaced channels have the same bits on every device, bilinear sums differ within rounding. On a
    CUDA device with Triton nothing waits for the device and no value is looked at.

    Raises InputError where shapes do not fit, and where a feature without places (a vector, tokens without a grid)
    would have to move; on a CUDA device with Triton an assertion stops the device instead.
    """
    if tuple(x.shape[1:]) != tuple(layer.spec.shape) or len(theta) != len(x) or len(mirrored) != len(x):
        raise InputError(
            f"move: expected features [B, {', '.join(map(str, layer.spec.shape))}] with a theta and a mirrored each, "
            f"found {list(x.shape)}, {len(theta)} and {len(mirrored)}"
        )
    if view is not None:
        check_view(x, view, len(layer.sensitive), layer.spec)
    dtype = x.dtype if dtype is None else dtype
    if on_cuda.usable(x.device):
        theta, mirrored = (torch.as_tensor(each).to(x.device) for each in (theta, mirrored))
        out = on_cuda.move(x, theta, mirrored, layer, view, dtype, memory_format)
    elif x.device.type == "cpu":
        out = _on_host(x, _phi(theta, mirrored), layer, view)
    else:
        theta, mirrored = (torch.as_tensor(each).to(x.device) for each in (theta, mirrored))
        out = _on_device(x, theta, mirrored, layer, view)
    return out.to(dtype).contiguous(memory_format=memory_format)


def _on_host(
    x: torch.Tensor, phi: npt.NDArray[np.float64], layer: LayerMove, view: torch.Tensor | None
) -> torch.Tensor:
    """Where values may be looked at: samples along the axes in one pass, rotated and sheared ones by torch."""
    if (np.abs(phi - _EYE) <= _SAME).all():
        return x if view is None else replace(x, view, layer.sensitive, layer.spec)
    _must_have_places(layer)
    if not on_cpu.fits(x):
        return _by_torch(x, torch.from_numpy(phi), layer, view, True)
    out = on_cpu.move_straight(x, phi, layer, view)
    turned = np.flatnonzero((phi[:, 0, 1] != 0) | (phi[:, 1, 0] != 0))
    if len(turned):
        own = None if view is None else view[turned]
        out[turned] = _by_torch(x[turned], torch.from_numpy(phi[turned]), layer, own, True)
    return out


def _on_device(
    x: torch.Tensor, theta: torch.Tensor, mirrored: torch.Tensor, layer: LayerMove, view: torch.Tensor | None
) -> torch.Tensor:
    """An accelerator without our kernel. Nothing waits for it, but where a feature has no places."""
    sign = torch.ones(len(theta), 2, 1, dtype=torch.float64, device=x.device)
    sign[:, 0, 0] -= 2.0 * mirrored
    phi = theta.double() * sign
    if layer.spec.spatial is None:
        if not bool(((phi - torch.from_numpy(_EYE).to(phi)).abs() <= _SAME).all()):
            _must_have_places(layer)
        return x if view is None else replace(x, view, layer.sensitive, layer.spec)
    return _by_torch(x, phi, layer, view, False)


def _by_torch(
    x: torch.Tensor, phi: torch.Tensor, layer: LayerMove, view: torch.Tensor | None, look: bool
) -> torch.Tensor:
    moved = on_torch.move(x, phi, layer, look)
    return moved if view is None else replace(moved, view, layer.sensitive, layer.spec)


def _phi(
    theta: torch.Tensor | npt.NDArray[np.float32], mirrored: torch.Tensor | npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """What is left to do to each reference, float64[B, 2, 3]."""
    arrays = (each.numpy(force=True) if isinstance(each, torch.Tensor) else each for each in (theta, mirrored))
    return phi_of(*arrays)


def _must_have_places(layer: LayerMove) -> None:
    spec = layer.spec
    if spec.spatial is None:
        raise InputError(
            f"a {spec.kind} feature {list(spec.shape)} has no places and cannot be moved: store whole views of it "
            "(views=V, sensitive=1.0), or use a recipe that only flips, with the mirror stored or mapped"
        )
