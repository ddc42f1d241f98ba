"""The engine on a CUDA device: rows that are there are decoded there, by the kernels of gpu/, into any output.

Importing this imports neither torch nor triton. No value is looked at on the host and shapes alone decide, so that
nothing waits for the device and CUDA graphs can be captured once a first call has compiled the kernel and made its
tables. Where triton is missing the codecs bring rows to the CPU and take features back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fmshards.codec.check import output
from fmshards.codec.feature import FeatureSpec
from fmshards.codec.zfp.layout import Layout
from fmshards.errors import CodecError
from fmshards.kernels.cuda import current, fall_back, missing, untimely

if TYPE_CHECKING:
    import torch

_LARGEST = 2**31 - 1


def available(device: torch.device) -> bool:
    """Whether rows on this device are decoded by the kernels.

    The first question about a device tries them there on a few rows, unless a graph is being captured or compiled.
    """
    if device.type != "cuda" or missing() is not None:
        return False
    return untimely() or _sound(device)


@lru_cache(maxsize=16)
def _sound(device: torch.device) -> bool:
    """Whether the kernels give on this device what the CPU does, to the last bit; warns where they do not."""
    import torch

    from fmshards.codec.rates import codec_for

    random = torch.Generator().manual_seed(0)
    try:
        for rate, shape in (("4", (16, 14, 14)), ("2", (8, 8, 8)), ("int4", (8, 14, 14))):
            codec = codec_for(rate, FeatureSpec("map", shape))
            rows = torch.from_numpy(codec.encode(torch.randn(3, *shape, generator=random)))
            expected, found = codec.decode(rows), torch.full((3, *shape), torch.nan, device=device)
            if codec.name == "zfp":
                decode_zfp(rows.to(device), codec.layout, codec.block_bits, found)  # type: ignore[attr-defined]
            else:
                decode_int(rows.to(device), codec.spec, 4, None, None, found)
            if not torch.equal(found.cpu(), expected):
                raise CodecError(f"rows at {rate} decode to other values than on the CPU")
    except Exception as error:  # a compiler or driver that does not fit raises what it likes
        fall_back(device, "rows are decoded on the CPU", error)
        return False
    return True


def try_zfp(
    rows: Any, layout: Layout, block_bits: int, out: torch.Tensor | None, dtype: torch.dtype | None
) -> torch.Tensor | None:
    """What `ZfpCodec.decode` returns where rows are a tensor on such a device; None elsewhere."""

    def decode(rows: torch.Tensor, to: torch.Tensor) -> None:
        decode_zfp(rows, layout, block_bits, to)

    return _try(rows, layout.blocks * block_bits // 8, layout.spec, out, dtype, decode)


def try_int(
    rows: Any,
    spec: FeatureSpec,
    bits: int,
    steps: tuple[tuple[float, ...], tuple[float, ...]] | None,
    row_bytes: int,
    out: torch.Tensor | None,
    dtype: torch.dtype | None,
) -> torch.Tensor | None:
    """What `IntCodec.decode` returns where rows are a tensor on such a device; None elsewhere.

    steps: (scale, offset) of each channel; None where each row has its own.
    """

    def decode(rows: torch.Tensor, to: torch.Tensor) -> None:
        scale, offset = (None, None) if steps is None else (_placed(s, rows.device) for s in steps)
        decode_int(rows, spec, bits, scale, offset, to)

    return _try(rows, row_bytes, spec, out, dtype, decode)


def decode_zfp(rows: torch.Tensor, layout: Layout, block_bits: int, out: torch.Tensor) -> None:
    """Decode rows, uint8 [B, row_bytes], into out [B, *shape] on the same device. See `gpu.zfp_kernel.decode`."""
    from fmshards.codec.zfp.gpu import kernel as zfp_kernel

    step = _LARGEST // layout.blocks
    with current(rows.device):
        for first in range(0, len(rows), step):
            zfp_kernel.decode(rows[first : first + step], layout, block_bits, out[first : first + step])


def decode_int(
    rows: torch.Tensor,
    spec: FeatureSpec,
    bits: int,
    scale: torch.Tensor | None,
    offset: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """Decode rows, uint8 [B, row_bytes], into out [B, *shape] on the same device. See `gpu.int_kernel.decode`."""
    from fmshards.codec.integer.gpu import kernel as int_kernel

    with current(rows.device):
        int_kernel.decode(rows, spec, bits, scale, offset, out)


def _try(
    rows: Any,
    row_bytes: int,
    spec: FeatureSpec,
    out: torch.Tensor | None,
    dtype: torch.dtype | None,
    decode: Callable[[torch.Tensor, torch.Tensor], None],
) -> torch.Tensor | None:
    if not hasattr(rows, "detach") or not available(rows.device):
        return None
    import torch

    if rows.dtype != torch.uint8 or rows.dim() != 2 or rows.shape[1] != row_bytes:
        raise CodecError(f"expected rows uint8 [B, {row_bytes}], found {rows.dtype} {list(rows.shape)}")
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    to = output(len(rows), spec, rows, out, dtype)
    if to.device == rows.device and _writes(to, spec):
        decode(rows, to)
    else:
        half = to.dtype in (torch.float16, torch.bfloat16)
        plain = torch.empty(to.shape, dtype=to.dtype if half else torch.float32, device=rows.device)
        decode(rows, plain)
        to.copy_(plain)
    return to if out is None else out


def _writes(to: torch.Tensor, spec: FeatureSpec) -> bool:
    """Whether the kernels write into such a tensor."""
    from fmshards.kernels.rounding import TYPES
    from fmshards.kernels.strides import steps_of

    span = sum((side - 1) * stride for side, stride in zip(to.shape[1:], to.stride()[1:], strict=True))
    return to.dtype in TYPES and steps_of(to, spec.kind) is not None and span <= _LARGEST


@lru_cache(maxsize=64)
def _placed(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    # Kept, as bringing them to a device for every batch would make the host wait.
    import torch

    return torch.tensor(values, dtype=torch.float32, device=device)
