"""Rows as they are stored: a member is a chunk's rows end to end, and may go through a lossless filter.

`zstd`: a filtered member is one Zstandard frame (RFC 8878) of the plain one, whose bytes are first sorted: the member
is items of `item_bytes` bytes, and the first bytes of all items come first, then the second ones, and so on. Items are
what repeats: a value of raw, the codes that fill whole bytes of int, a block of zfp. On real features that leaves fewer
bytes than sorting bits (bitshuffle), and level 1 as few as level 3 (tools/results/check_codecs.md).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from fmshards.codec.check import check_rows
from fmshards.errors import CorruptError
from fmshards.kernels import jit

Bytes = npt.NDArray[np.uint8]

FILTERS = ("zstd",)
_LEVEL = 1
_LEAST_FRAME = 9  # magic number, the least of headers, one block's header
_BLOCK = 1 << 17  # what a block of a frame holds at most (RFC 8878, 3.1.1.2.3), ...
_LEAST_BLOCK = 4  # ... in so many bytes at least: its header, and one byte that repeats


class Stored(Protocol):
    """What is asked of a codec here; see RowCodec."""

    @property
    def name(self) -> str: ...
    @property
    def row_bytes(self) -> int: ...
    @property
    def item_bytes(self) -> int: ...
    @property
    def multiple(self) -> int: ...
    @property
    def filter(self) -> str | None: ...


def member(codec: Stored, rows: Bytes) -> bytes:
    """The stored member of rows, uint8 [n, row_bytes]."""
    data = check_rows(rows, codec.row_bytes)
    plain = data.tobytes() + bytes(-data.size % codec.multiple)
    if codec.filter is None:
        return plain
    import zstandard

    return bytes(zstandard.ZstdCompressor(level=_LEVEL, threads=0).compress(_split(plain, codec.item_bytes)))


def member_bytes(codec: Stored, n: int) -> tuple[int, int]:
    """The fewest and the most bytes that a member of n rows can have."""
    plain = _plain_bytes(codec, n)
    return (plain, plain) if codec.filter is None else (_LEAST_FRAME, plain + plain // 256 + 64)


def member_memory(codec: Stored, n: int) -> int:
    """Bytes of memory that `rows` takes beside the member: none for a plain one, of which rows are a view.

    A small filtered member may state much: whoever reads one from a source that is not trusted asks this first.
    """
    return 0 if codec.filter is None else (1 + (codec.item_bytes > 1)) * _plain_bytes(codec, n)


def rows(codec: Stored, member: bytes, n: int) -> Bytes:
    """uint8 [n, row_bytes], read-only. Raises CorruptError where a member is not one of just these rows.

    A frame must state the member's length in its header, and be long enough for it, before memory is taken for that.
    """
    expected = _plain_bytes(codec, max(n, 0))
    if codec.filter is not None:
        member = _join(_content(member, expected, n), codec.item_bytes)
    if n < 0 or len(member) != expected:
        raise CorruptError(f"expected one {codec.name} member of {expected} bytes for {n} samples, found {len(member)}")
    return np.frombuffer(member, np.uint8, n * codec.row_bytes).reshape(n, codec.row_bytes)


def _plain_bytes(codec: Stored, n: int) -> int:
    used = n * codec.row_bytes
    return used + -used % codec.multiple


def _content(frame: bytes, expected: int, n: int) -> bytes:
    """What a frame holds, which must be `expected` bytes."""
    import zstandard

    wanted = f"expected a zstd frame of {expected} bytes for {n} samples"
    try:
        stated = zstandard.frame_content_size(frame)
        if stated != expected:
            found = f"of {stated} bytes" if stated >= 0 else "that does not state its length"
            raise CorruptError(f"{wanted}, found one {found}")
        if stated > (len(frame) // _LEAST_BLOCK + 1) * _BLOCK:
            raise CorruptError(f"{wanted}, found one of {len(frame)} bytes, which cannot hold so many")
        return bytes(zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise CorruptError(f"{wanted}: {error}") from None
    except MemoryError:
        raise CorruptError(f"{wanted}: there is no memory for so many") from None


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
        from fmshards.codec.members_kernel import join

        join(planes.ctypes.data, size, count, out)
    out[count * size :] = planes[count * size :]
    out.setflags(write=False)
    return memoryview(out)  # type: ignore[return-value, arg-type]  # what reads rows takes any buffer
