"""The envelope of the msgpack members: `[map, crc32]`, so that a meta or an index carries its own checksum.

The last five bytes are the checksum as a msgpack uint32 (0xce and four big-endian bytes): CRC-32 as in zlib of all
bytes before them. Unpacking is bounded: see limits.py.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

from fmshards.errors import CorruptError, FormatError
from fmshards.kernels import crc
from fmshards.shards.limits import MSGPACK_LENGTH, MSGPACK_VALUES

_TAIL = 5


def crc32(data: bytes | memoryview, start: int = 0) -> int:
    """CRC-32 (ISO-HDLC, as in zlib and PNG) of `data`, continued from `start`."""
    return crc.crc32(data, start)


def seal(content: dict[str, Any]) -> bytes:
    """The envelope of `content`. Raises what msgpack raises for values it cannot hold."""
    body: bytes = b"\x92" + msgpack.packb(content, use_bin_type=True)
    return body + b"\xce" + struct.pack(">I", crc32(body))


def unseal(data: bytes, where: str) -> dict[str, Any]:
    """The map inside an envelope. `where` names it in errors.

    Raises CorruptError where the checksum differs, FormatError where it is right and the content is not a map of
    text keys within the limits.
    """
    if len(data) < _TAIL + 2 or data[:1] != b"\x92" or data[-_TAIL : -_TAIL + 1] != b"\xce":
        raise CorruptError(f"{where}: {len(data)} bytes that are no fmshards envelope; the shard is damaged")
    stated = struct.unpack(">I", data[-4:])[0]
    found = crc32(memoryview(data)[:-_TAIL])
    if stated != found:
        raise CorruptError(f"{where}: checksum is {found:08x}, {stated:08x} was written; the bytes have changed")
    content = unpack(data[1:-_TAIL], where)
    if not isinstance(content, dict):
        raise FormatError(f"{where}: expected a map, found {type(content).__name__}")
    return content


def unpack(data: bytes, where: str) -> Any:
    """Unpack one msgpack value within the limits of the format. Raises FormatError."""
    seen = 0

    def count(n: int) -> None:
        nonlocal seen
        seen += n + 1
        if seen > MSGPACK_VALUES:
            raise FormatError(f"{where}: holds more than {MSGPACK_VALUES} values")

    def as_list(items: list[Any]) -> list[Any]:
        count(len(items))
        return items

    def as_dict(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        count(len(pairs))
        out = dict(pairs)
        if len(out) != len(pairs) or not all(isinstance(k, str) for k in out):
            raise FormatError(f"{where}: a map has repeated keys or keys that are not text")
        return out

    size, length = len(data), min(len(data), MSGPACK_LENGTH)
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            list_hook=as_list,
            object_pairs_hook=as_dict,
            ext_hook=_no_extensions,
            max_str_len=size,
            max_bin_len=size,
            max_array_len=length,
            max_map_len=length,
            max_ext_len=0,
        )
    except FormatError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError, msgpack.UnpackException) as error:
        raise FormatError(f"{where}: not valid msgpack within the format's limits ({error})") from None


def _no_extensions(code: int, data: bytes) -> Any:
    raise ValueError(f"msgpack extension type {code} is not used by the format")
