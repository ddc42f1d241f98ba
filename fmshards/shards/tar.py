"""The tar around a shard: USTAR headers in which every byte follows from a member's name and size.

Nothing here depends on a clock, a user or a platform, so equal members give equal shards, and a verifier can say
what each header must be.
"""

from __future__ import annotations

from fmshards.errors import FormatError
from fmshards.shards.limits import MEMBER_BYTES

BLOCK = 512
END = bytes(2 * BLOCK)
"""A tar ends with two blocks of zeros; a shard has exactly these two after its last member."""

INDEX_NAME = "__fmshards__/index.msgpack"
META = "meta"
"""How the index and `ChunkIndex.members` call the member `<key>.meta.msgpack`."""


def member_name(key: str, member: str) -> str:
    """Name in the tar of member `member` ("meta", "base.zfp", ...) of chunk `key`."""
    return f"{key}.meta.msgpack" if member == META else f"{key}.{member}"


def chunk_key(j: int) -> str:
    """WebDataset's key of chunk j: its number within the shard, six digits or more."""
    return f"{j:06d}"


def padding(size: int) -> int:
    """Zero bytes that follow a member of `size` bytes, up to the next block."""
    return -size % BLOCK


def header(name: str, size: int) -> bytes:
    """The 512-byte USTAR header (POSIX.1-1988) of a regular file: mode 0644, owner 0, time 0, no user name.

    Raises FormatError where the name exceeds 100 bytes of ASCII or the size 11 octal digits.
    """
    if not name.isascii() or not 0 < len(name) <= 100:
        raise FormatError(f"a tar member's name must be 1 to 100 ASCII characters, found {name!r}")
    if not 0 <= size <= MEMBER_BYTES:
        raise FormatError(f"tar member {name} would hold {size} bytes, a USTAR header at most {MEMBER_BYTES}")
    block = bytearray(BLOCK)
    block[0 : len(name)] = name.encode("ascii")
    block[100:108] = b"0000644\0"
    block[108:116] = b"0000000\0"
    block[116:124] = b"0000000\0"
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = b"0"
    block[257:265] = b"ustar\x0000"
    block[329:337] = b"0000000\0"
    block[337:345] = b"0000000\0"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def parse_header(block: bytes) -> tuple[str, int] | None:
    """(name, size) of a header that `header` could have made, None for any other 512 bytes."""
    try:
        name = block[:100].rstrip(b"\0").decode("ascii")
        digits = block[124:135]
        size = int(digits, 8) if digits.isdigit() else -1
        return (name, size) if header(name, size) == block else None
    except (ValueError, FormatError):
        return None
