"""Moving features and putting stored channels in on a CUDA device: the way to cuda_kernel.py."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from fmshards.augment.features import on_torch
from fmshards.augment.features.channels import replace
from fmshards.augment.features.layer_move import LayerMove
from fmshards.augment.theta import phi_of
from fmshards.codec import FeatureSpec
from fmshards.kernels import cuda
from fmshards.shards import Grid

_TILE = 1024
_WIDE = 256
_STEPS = 4
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def usable(device: torch.device) -> bool:
    """Whether `move` works there. Tried once a device."""
    return cuda.usable(device, "features are moved by torch, not by our kernel", _trial)


def _trial(device: torch.device) -> None:
    """Raises unless the kernel moves on this device as torch does on the CPU."""
    random = torch.Generator().manual_seed(0)
    x, view, fill = (torch.randn(3, c, 7, 9, generator=random) for c in (8, 2, 8))
    theta = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[-1, 0, 0.25], [0, 1, 0]], [[0.8, 0, 0.1], [0, 0.7, -0.05]]])
    mirrored = torch.tensor([False, True, False])
    layer = LayerMove(FeatureSpec("map", (8, 7, 9)), (28, 36), Grid((4.0, 4.0), (1.5, 1.5)), fill[0], (1, 6))
    phi = torch.from_numpy(phi_of(theta.numpy(), mirrored.numpy()))
    expected = replace(on_torch.move(x, phi, layer, True), view, layer.sensitive, layer.spec)
    x, theta, mirrored, view = (t.to(device) for t in (x, theta, mirrored, view))
    found = move(x, theta, mirrored, layer.on(device), view, torch.float32, torch.contiguous_format)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)


def move(
    x: torch.Tensor,
    theta: torch.Tensor,
    mirrored: torch.Tensor,
    layer: LayerMove,
    view: torch.Tensor | None,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> torch.Tensor:
    """What `move.move` returns, all on one device; in float32 where the kernel has not this dtype.

    No value is looked at: where a feature has no places and a theta is no identity, this stops the device with an
    assertion.
    """
    if layer.spec.spatial is None:
        _assert_identity(theta, mirrored)
    dtype = dtype if dtype in _DTYPES else torch.float32
    out = torch.empty(x.shape, dtype=dtype, device=x.device, memory_format=memory_format)
    fill = None if layer.fill is None else layer.fill.to(x.device)
    axes = [value for axis in layer.axes for value in axis]
    launch = torch.ops.fmshards.move if torch.compiler.is_compiling() else _launch
    launch(x, theta, mirrored, fill, view, out, axes, list(layer.sensitive), layer.spec.channel_axis)
    return out


def _launch(
    x: torch.Tensor,
    theta: torch.Tensor,
    mirrored: torch.Tensor,
    fill: torch.Tensor | None,
    view: torch.Tensor | None,
    out: torch.Tensor,
    axes: Sequence[float],
    sensitive: Sequence[int],
    channel_axis: int,
) -> None:
    """axes: the eight numbers of a `LayerMove`; sensitive: the view's channels; channel_axis: that of one feature."""
    import triton

    from fmshards.augment.features.cuda_kernel import move_put
    from fmshards.kernels.rounding import TYPES

    source, target = _planes(x, channel_axis), _planes(out, channel_axis)
    blank = None if fill is None else _planes(fill[None], channel_axis)
    stored = None if view is None else _planes(view, channel_axis)
    samples, channels, places = source.shape
    h, w = int(axes[0]), max(1, int(axes[4]))
    place_last = target.stride(1) != 1
    # A tile is wide where memory runs, and high enough that each position serves several channels.
    sides = [triton.next_power_of_2(n) for n in ((places, channels) if place_last else (channels, places))]
    wide = min(_WIDE, sides[0])
    high = min(_TILE // wide, sides[1])
    across, down = (wide, high) if place_last else (high, wide)
    steps = min(_STEPS, triton.cdiv(channels, down))
    programs = samples * triton.cdiv(places, across) * triton.cdiv(channels, down * steps)
    if not programs:
        return
    with cuda.current(x.device):
        move_put[(programs,)](
            source,
            theta.to(torch.float64).contiguous(),
            mirrored.to(torch.uint8),
            blank,
            stored,
            None if stored is None else _slots(tuple(sensitive), channels, x.device),
            _axes(tuple(axes), x.device),
            target,
            *source.stride(),
            *((0, 0) if blank is None else blank.stride()[1:]),
            *((0, 0, 0) if stored is None else stored.stride()),
            *target.stride(),
            channels,
            places,
            h,
            w,
            places - h * w,
            DTYPE=TYPES[out.dtype],
            PLACE_LAST=place_last,
            CHANNELS=down,
            PLACES=across,
            STEPS=steps,
            num_warps=4,
            enable_fp_fusion=False,
        )


_operator = torch.library.custom_op("fmshards::move", _launch, mutates_args=("out",))
"""The same for `torch.compile`, which takes an operator as it is."""


@_operator.register_fake
def _(*_: object) -> None:
    """Nothing but the values of `out` changes."""


def _planes(x: torch.Tensor, channel_axis: int) -> torch.Tensor:
    """x [B, *shape] as [B, channels, places] with one step a place: a view of contiguous and channels-last memory."""
    first = x.movedim(channel_axis + 1, 1)
    return first.flatten(2) if first.dim() > 2 else first.unsqueeze(2)


def _assert_identity(theta: torch.Tensor, mirrored: torch.Tensor) -> None:
    still = (theta - torch.eye(2, 3, device=theta.device)).abs().amax() <= 1e-6
    torch._assert_async(still & ~mirrored.any(), "a feature without places cannot be moved: see fmshards.augment.move")


@lru_cache(maxsize=64)
def _slots(channels: tuple[int, ...], count: int, device: torch.device) -> torch.Tensor:
    # Kept, as bringing them to a device for every batch would make the host wait.
    slots = torch.full((count,), -1, dtype=torch.int32)
    slots[list(channels)] = torch.arange(len(channels), dtype=torch.int32)
    return slots.to(device)


@lru_cache(maxsize=64)
def _axes(axes: tuple[float, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(axes, dtype=torch.float64).view(2, 4).to(device)
