"""`zstd`: a lossless filter over a codec's members. It makes them smaller in the store and is undone at fetch.

A filtered member is one Zstandard frame (RFC 8878) of the codec's member, whose bytes are first sorted: the member is
items of `item_bytes` bytes, and the first bytes of all items come first, then the second ones, and so on. Items are
what repeats: a value of raw, the codes that fill whole bytes of int, a block of zfp. On real features that
leaves fewer bytes than sorting bits (bitshuffle), and level 1 as few as level 3 (tools/results/check_codecs.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fmshards.codec.feature import FeatureSpec
from fmshards.codec.zfp.layout import Order
from fmshards.errors import CorruptError
from fmshards.kernels import jit

if TYPE_CHECKING:
    import torch

    from fmshards.codec.rates import Codec

FILTERS = ("zstd",)
_LEVEL = 1
_LEAST_FRAME = 9  # magic number, the least of headers, one block's header


@dataclass(frozen=True)
class FilteredCodec:
    """Another codec, whose members go through the filter. Rows are the codec's."""

    codec: Codec

    @property
    def name(self) -> str:
        return self.codec.name

    @property
    def extension(self) -> str:
        return self.codec.extension

    @property
    def spec(self) -> FeatureSpec:
        return self.codec.spec

    @property
    def order(self) -> Order:
        return self.codec.order

    @property
    def row_bytes(self) -> int:
        return self.codec.row_bytes

    @property
    def rate(self) -> float:
        """Bits for each value in a row; what the store holds depends on the values."""
        return self.codec.rate

    @property
    def item_bytes(self) -> int:
        return self.codec.item_bytes

    def encode(self, x: torch.Tensor | npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """As the codec."""
        return self.codec.encode(x)

    def decode(
        self,
        rows: torch.Tensor | npt.NDArray[np.uint8],
        out: torch.Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """As the codec."""
        return self.codec.decode(rows, out, dtype)

    def member(self, rows: npt.NDArray[np.uint8]) -> bytes:
        """The stored member of a chunk: a frame. Equal rows give equal bytes with one version of the library."""
        import zstandard

        sorted_ = _split(self.codec.member(rows), self.item_bytes)
        return bytes(zstandard.ZstdCompressor(level=_LEVEL, threads=0).compress(sorted_))

    def member_bytes(self, n: int) -> tuple[int, int]:
        """The fewest and the most bytes that a member of n rows can have."""
        most = self.codec.member_bytes(n)[1]
        return _LEAST_FRAME, most + most // 256 + 64

    def rows(self, member: bytes, n: int) -> npt.NDArray[np.uint8]:
        """uint8 [n, row_bytes], read-only. Raises CorruptError where the member is not a frame of just these rows.

        The frame must state the rows' length in its header, so that memory for them alone is taken.
        """
        import zstandard

        _, expected = self.codec.member_bytes(max(n, 0))
        try:
            stated = zstandard.frame_content_size(member)
            if stated != expected:
                found = f"of {stated} bytes" if stated >= 0 else "that does not state its length"
                raise CorruptError(f"expected a zstd frame of {expected} bytes for {n} samples, found one {found}")
            data = zstandard.ZstdDecompressor().decompress(member, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CorruptError(f"expected a zstd frame of {expected} bytes for {n} samples: {error}") from None
        return self.codec.rows(_join(data, self.item_bytes), n)

    def config(self) -> dict[str, Any]:
        """The codec's, and the filter."""
        return {**self.codec.config(), "filter": "zstd"}


def _split(data: bytes, size: int) -> bytes:
    """The first bytes of all items of `size` bytes, then the second ones ...; what is no whole item stays behind."""
    if size == 1:
        return data
    whole = len(data) // size * size
    items = np.frombuffer(data, np.uint8, whole).reshape(-1, size)
    return b"".join([items.T.tobytes(), data[whole:]])


def _join(data: bytes, size: int) -> bytes:
    """`_split` undone; bytes, or a read-only view of memory of its own."""
    count = len(data) // size
    if size == 1 or not count:
        return data
    planes = np.frombuffer(data, np.uint8)
    out = np.empty(len(data), np.uint8)
    if jit.missing():
        out[: count * size].reshape(count, size)[...] = planes[: count * size].reshape(size, count).T
    else:
        from fmshards.codec.filter_kernel import join

        join(planes.ctypes.data, size, count, out)
    out[count * size :] = planes[count * size :]
    out.setflags(write=False)
    return memoryview(out)  # type: ignore[return-value, arg-type]  # what reads rows takes any buffer
