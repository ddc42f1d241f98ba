"""A strict, streaming tar reader: every header is checked, and the end must be there.

Python's `tarfile` takes a damaged header or a missing end for the end of the archive and says nothing; then samples
are lost without an error. Here each of these is an InputError. Read are POSIX ustar, pax and GNU long names, plain or
within gzip.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from fmshards.errors import InputError
from fmshards.shards.tar import BLOCK

MAX_MEMBER = 1 << 31  # bytes: one image or field; a larger size is a damaged or hostile header
MAX_EXTENSION = 1 << 20  # bytes of a pax record or a long name

# What people give in place of a tar, by its first bytes: what it is, what to do.
_OTHERS = {
    b"BZh": ("packed with bzip2", "unpack it (bunzip2)"),
    b"\xfd7zXZ\0": ("packed with xz", "unpack it (unxz)"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "unpack it (unzstd)"),
    b"\x04\x22\x4d\x18": ("packed with lz4", "unpack it (unlz4)"),
    b"LZIP": ("packed with lzip", "unpack it (lzip -d)"),
    b"\x1f\x9d": ("packed with compress", "unpack it (uncompress)"),
    b"PK\3\4": ("a zip archive", "unpack it (unzip) and give the folder"),
    b"PK\5\6": ("an empty zip archive", "give another"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it and give the folder"),
    b"Rar!": ("a RAR archive", "unpack it and give the folder"),
    b"\xff\xd8\xff": ("a JPEG image", "give the folder that holds the images"),
    b"\x89PNG": ("a PNG image", "give the folder that holds the images"),
    b"PAR1": ("a Parquet file", "give it a name that ends with .parquet"),
}
_ZERO = bytes(BLOCK)
_REGULAR = (b"0", b"\0", b"7")


class Readable(Protocol):
    """What is read from start to end."""

    def read(self, length: int, /) -> bytes: ...


def read_members(stream: Readable, where: str) -> Iterator[tuple[str, bytes, int]]:
    """Yield (name, data, offset after the member) of each regular file.

    Raises InputError, naming `where` and the last member read, for a damaged header, a short archive, a link or
    another special file, or data after the end of the archive.
    """
    tape = _Tape(stream, where)
    try:
        yield from _members(tape)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise tape.error(f"its gzip data is damaged ({error})") from None


def _members(tape: _Tape) -> Iterator[tuple[str, bytes, int]]:
    long_name: str | None = None
    pax: dict[str, str] = {}
    pax_global: dict[str, str] = {}
    while True:
        header = tape.take(BLOCK, "a header")
        if header == _ZERO:
            if long_name is not None or pax:
                raise tape.error("it ends after an extended header that belongs to no member")
            return tape.check_end()
        _check_sum(header, tape)
        kind = header[156:157]
        merged = {**pax_global, **pax}
        size = _number(header[124:136], tape, "size")
        if kind in (b"L", b"K", b"x", b"g"):
            if size > MAX_EXTENSION:
                raise tape.error(f"an extended header claims {size} bytes")
            data = tape.take_padded(size, "an extended header")
            if kind == b"L":
                long_name = _text(data.rstrip(b"\0"), tape)
            elif kind == b"x":
                pax.update(_pax(data, tape))
            elif kind == b"g":
                pax_global.update(_pax(data, tape))
            continue
        name = merged.get("path") or long_name or _name(header, tape)
        if "size" in merged:
            if not merged["size"].isdigit():
                raise tape.error(f"member {name!r} has the pax size {merged['size']!r}")
            size = int(merged["size"])
        long_name, pax = None, {}
        tape.last = name
        if kind in _REGULAR and not name.endswith("/"):
            if any(field.startswith("GNU.sparse") for field in merged):
                raise tape.error(f"member {name!r} is a sparse file, which is not read here; pack it plainly")
            if size > MAX_MEMBER:
                raise tape.error(f"member {name!r} claims {size} bytes; at most {MAX_MEMBER} are read")
            data = tape.take_padded(size, f"the data of {name!r}")
            yield name, data, tape.offset
        elif kind != b"5" and kind not in _REGULAR:
            raise tape.error(
                f"member {name!r} is of type {kind.decode('latin1')!r} (a link, a device or a sparse file); "
                "only plain files are read: pack copies"
            )


class _Tape:
    """A stream that counts its bytes and knows how to say where it is."""

    def __init__(self, stream: Readable, where: str) -> None:
        self._head = head = stream.read(8)
        joined = io.BufferedReader(_Rejoined(head, stream), 1 << 20)
        self.stream: BinaryIO = gzip.GzipFile(fileobj=joined, mode="rb") if head[:2] == b"\x1f\x8b" else joined  # type: ignore[assignment]  # typeshed: GzipFile is no BinaryIO
        self.where, self.offset, self.last = where, 0, ""

    def error(self, what: str) -> InputError:
        mend = "get it again"
        if self.offset <= BLOCK:
            # Not before its first header was refused: a member's name may begin like another kind of file.
            for magic, (kind, advice) in _OTHERS.items():
                if self._head.startswith(magic):
                    return InputError(
                        f"{self.where} is {kind}; expected a tar archive, plain or packed with gzip: {advice}"
                    )
            mend = "if it is meant to be one, get it again"
        after = f", after member {self.last!r}" if self.last else ""
        return InputError(f"{self.where} is not a whole tar: {what} (at byte {self.offset}{after}); {mend}")

    def take(self, length: int, what: str) -> bytes:
        data = self.stream.read(length)
        if len(data) != length:
            found = f"{len(data)} of {length} bytes of {what}"
            raise self.error(f"it ends early, {found}" if data or length != BLOCK else "its end marker is missing")
        self.offset += length
        return data

    def take_padded(self, size: int, what: str) -> bytes:
        data = self.take(size, what)
        if size % BLOCK:
            self.take(BLOCK - size % BLOCK, what)
        return data

    def check_end(self) -> None:
        """After the first zero block nothing but zeros may follow: else members would be lost without a word."""
        while block := self.stream.read(1 << 16):
            if block.count(0) != len(block):
                raise self.error("there is data after its end marker (two archives joined?)")
            self.offset += len(block)


class _Rejoined(io.RawIOBase):
    """`head` followed by `stream`: what was read to look at the first bytes is put back."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self._head, self._stream = head, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]  # a writable buffer, by the contract of RawIOBase
        data = self._head or self._stream.read(len(view))
        self._head = b""
        view[: len(data)] = data
        return len(data)


def _check_sum(header: bytes, tape: _Tape) -> None:
    stated = _number(header[148:156], tape, "checksum")
    rest = header[:148] + b" " * 8 + header[156:]
    if sum(rest) != stated:
        # Some old writers summed signed bytes.
        if sum(rest) - 256 * sum(byte > 127 for byte in rest) == stated:
            return
        raise tape.error("a header's checksum differs: the header is damaged")


def _number(field: bytes, tape: _Tape, what: str) -> int:
    if field[0] == 0x80:  # GNU: base 256
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise tape.error(f"a header's {what} reads {digits!r}: the header is damaged")
    return int(digits or b"0", 8)


def _name(header: bytes, tape: _Tape) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0]
    posix = header[257:263] == b"ustar\0"
    return _text(prefix + b"/" + name if posix and prefix else name, tape)


def _text(data: bytes, tape: _Tape) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise tape.error(f"the name {data!r} is not UTF-8") from None


def _pax(data: bytes, tape: _Tape) -> dict[str, str]:
    """Records "LENGTH KEY=VALUE\\n", POSIX.1-2001."""
    records: dict[str, str] = {}
    rest = data
    while rest:
        digits, _, _ = rest.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = rest[len(digits) + 1 : length]
        if not len(digits) + 1 < length <= len(rest) or not record.endswith(b"\n") or b"=" not in record:
            raise tape.error("a pax header is damaged")
        key, _, value = record[:-1].partition(b"=")
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse"):
            records[_text(key, tape)] = _text(value, tape)
        rest = rest[length:]
    return records
