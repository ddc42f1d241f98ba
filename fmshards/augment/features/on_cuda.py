"""Moving features and putting stored channels in on a CUDA device: the way to `move_kernel`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from fmshards.augment.features.channels import check_view
from fmshards.augment.features.move import move
from fmshards.augment.features.on_cpu import axes_of
from fmshards.codec import FeatureSpec
from fmshards.errors import InputError
from fmshards.kernels import cuda
from fmshards.kernels.strides import steps_of
from fmshards.shards import Grid

_TILE = 1024
_WIDE = 256
_STEPS = 4


def moves_on(device: torch.device) -> bool:
    """Whether `move_and_replace` works there; elsewhere `move` does the same. Tried once."""
    return cuda.usable(device, "features are moved by torch, not by our kernel", _trial)


def _trial(device: torch.device) -> None:
    """Raises unless the kernel moves on this device as `move` does on the CPU."""
    random = torch.Generator().manual_seed(0)
    spec, sensitive, grid = FeatureSpec("map", (8, 7, 9)), (1, 6), Grid((4.0, 4.0), (1.5, 1.5))
    x, view, fill = (torch.randn(3, c, 7, 9, generator=random) for c in (8, 2, 8))
    theta = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[-1, 0, 0.25], [0, 1, 0]], [[0.8, 0, 0.1], [0, 0.7, -0.05]]])
    mirrored = torch.tensor([False, True, False])
    expected = move(x, theta, mirrored, spec, grid, fill[0], (28, 36), view, sensitive)
    there = [t.to(device) for t in (x, theta, mirrored, fill[0], view)]
    x, theta, mirrored, blank, view = there
    found = move_and_replace(x, theta, mirrored, spec, grid, blank, (28, 36), view, sensitive, torch.float32)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)


def move_and_replace(
    x: torch.Tensor,
    theta: torch.Tensor,
    mirrored: torch.Tensor,
    spec: FeatureSpec,
    grid: Grid | None,
    fill: torch.Tensor | None,
    base_size: tuple[int, int],
    view: torch.Tensor | None,
    sensitive: Sequence[int],
    dtype: torch.dtype,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """What `move` returns, on one device, as float32, float16 or bfloat16 [B, *shape] of a memory format.

    Whole moves and replaced channels are bit for bit those of `move`, bilinear sums within rounding. No value is
    looked at: where a feature has no places and a theta is no identity, `move` raises, this stops the device with an
    assertion. Raises InputError where the shapes do not fit.
    """
    if tuple(x.shape[1:]) != tuple(spec.shape) or len(theta) != len(x) or len(mirrored) != len(x):
        raise InputError(
            f"move: expected features [B, {', '.join(map(str, spec.shape))}] with a theta and a mirrored each, "
            f"found {list(x.shape)}, {len(theta)} and {len(mirrored)}"
        )
    if view is not None:
        check_view(x, view, len(sensitive), spec)
    if spec.spatial is None:
        _assert_identity(theta, mirrored)
    out = torch.empty(x.shape, dtype=dtype, device=x.device, memory_format=memory_format)
    measured = [] if grid is None else [*grid.stride, *grid.offset]
    channels = [] if view is None else list(sensitive)
    cells = [] if spec.grid is None else list(spec.grid)
    launch = torch.ops.fmshards.move_and_replace if torch.compiler.is_compiling() else _launch
    launch(
        x, theta, mirrored, fill, view, out, list(base_size), measured, channels, spec.kind, cells, spec.class_tokens
    )
    return out


def _launch(
    x: torch.Tensor,
    theta: torch.Tensor,
    mirrored: torch.Tensor,
    fill: torch.Tensor | None,
    view: torch.Tensor | None,
    out: torch.Tensor,
    base_size: Sequence[int],
    measured: Sequence[float],
    channels: Sequence[int],
    kind: str,
    cells: Sequence[int],
    class_tokens: int,
) -> None:
    import triton

    from fmshards.augment.features.cuda_kernel import move_put
    from fmshards.kernels.rounding import TYPES

    spec = FeatureSpec(kind, tuple(x.shape[1:]), (cells[0], cells[1]) if cells else None, class_tokens)
    h, w = spec.spatial or (0, 1)
    places = spec.values // spec.channels
    kept = places - h * w
    source, x_steps = _with_steps(x, spec)
    blank, fill_steps = _with_steps(None if fill is None else fill[None], spec)
    stored, view_steps = _with_steps(view, spec.select(len(channels)) if channels else spec)
    out_steps = steps_of(out, spec.kind)
    assert source is not None, "x is there"
    assert out_steps is not None, "out was made here"
    place_last = out_steps[0] != 1
    # A tile is wide where memory runs, and high enough that each position serves several channels.
    sides = [triton.next_power_of_2(n) for n in ((places, spec.channels) if place_last else (spec.channels, places))]
    wide = min(_WIDE, sides[0])
    high = min(_TILE // wide, sides[1])
    across, down = (wide, high) if place_last else (high, wide)
    steps = min(_STEPS, triton.cdiv(spec.channels, down))
    programs = len(x) * triton.cdiv(places, across) * triton.cdiv(spec.channels, down * steps)
    if not programs:
        return
    with cuda.current(x.device):
        move_put[(programs,)](
            source,
            theta.to(torch.float64).contiguous(),
            mirrored.to(torch.uint8),
            blank,
            stored,
            None if stored is None else _slots(tuple(channels), spec.channels, x.device),
            _axes(spec.spatial or (1, 1), tuple(measured), (base_size[0], base_size[1]), x.device),
            out,
            source.stride(0),
            *x_steps,
            *fill_steps,
            0 if stored is None else stored.stride(0),
            *view_steps,
            out.stride(0),
            *out_steps,
            spec.channels,
            places,
            h,
            w,
            kept,
            DTYPE=TYPES[out.dtype],
            PLACE_LAST=place_last,
            CHANNELS=down,
            PLACES=across,
            STEPS=steps,
            num_warps=4,
            enable_fp_fusion=False,
        )


_operator = torch.library.custom_op("fmshards::move_and_replace", _launch, mutates_args=("out",))
"""The same for `torch.compile`, which takes an operator as it is."""


@_operator.register_fake
def _(*_: object) -> None:
    """Nothing but the values of `out` changes."""


def _with_steps(x: torch.Tensor | None, spec: FeatureSpec) -> tuple[torch.Tensor | None, tuple[int, int]]:
    """x as float-point memory with one step a channel and one a place, and these."""
    if x is None:
        return None, (0, 0)
    steps = steps_of(x, spec.kind)
    if steps is None:
        x = x.contiguous()
        steps = steps_of(x, spec.kind)
    assert steps is not None
    return x, steps


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
def _axes(
    cells: tuple[int, int], measured: tuple[float, ...], base_size: tuple[int, int], device: torch.device
) -> torch.Tensor:
    grid = Grid((measured[0], measured[1]), (measured[2], measured[3])) if measured else None
    return torch.from_numpy(axes_of(cells, grid, base_size)).to(device)
