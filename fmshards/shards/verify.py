"""Reading a whole shard again: every header, checksum, count and the digest, from the first byte to the last; or only
its end, which says whether it was written whole.

Nothing is taken from the index while walking, so the first bad byte range is found in the order of the file even
where the index itself is damaged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

from fmshards import store
from fmshards.codec import Codec
from fmshards.errors import FmshardsError, FormatError
from fmshards.shards import limits
from fmshards.shards.envelope import crc32
from fmshards.shards.fields import Kinds, decode_column
from fmshards.shards.index import ChunkIndex, ShardIndex, Summary, find_index, parse_index
from fmshards.shards.manifest import ShardEntry
from fmshards.shards.meta import Meta, parse_meta, sample_bytes
from fmshards.shards.tar import BLOCK, END, INDEX_NAME, META, chunk_key, header, member_name, padding, parse_header

_PIECE = 1 << 20


@dataclass(frozen=True)
class Problem:
    """The first bad byte range of a shard: in which member, from byte `start` up to `end`, and what is wrong."""

    member: str
    start: int
    end: int
    what: str

    def __str__(self) -> str:
        return f"{self.member}, bytes {self.start} to {self.end}: {self.what}"


@dataclass(frozen=True)
class Walked:
    """A shard read from start to end: its entry, which carries the digest of its samples, its index, its first meta."""

    entry: ShardEntry
    index: ShardIndex
    first: Meta | None


class _Bad(Exception):
    def __init__(self, member: str, start: int, end: int, what: str) -> None:
        super().__init__(what)
        self.problem = Problem(member, start, end, what)


def verify_shard(url: str, entry: ShardEntry, codecs: Mapping[str, Codec] | None = None) -> Problem | None:
    """Read the shard at `url` from start to end; None where it is sound, else the first problem.

    Checked: every byte of the tar, each checksum, the counts, the entry and its digest, and, where `codecs`
    ("base.zfp" -> its codec) are given, what a reader makes of it: that each member holds the rows of its codec, its
    filter undone, and that the fields can be decoded. Memory: one meta, index or member. Raises StoreError where the
    shard cannot be read.
    """
    found = examine_shard(url, entry, codecs)
    return found if isinstance(found, Problem) else None


def examine_shard(url: str, entry: ShardEntry, codecs: Mapping[str, Codec] | None = None) -> Walked | Problem:
    """As `verify_shard`, with what was found where the shard is sound."""
    try:
        walked = _walk(url, codecs, entry.index_offset)
    except _Bad as bad:
        return bad.problem
    found = walked.entry
    if entry.sha256 is None:
        found = replace(found, sha256=None)
    else:
        found = replace(found, index_sha256=None)
    if found != entry:
        ours, theirs = found.__dict__, entry.__dict__
        name = next(k for k in theirs if ours[k] != theirs[k])
        what = f"{name} is {ours[name]}, the manifest says {theirs[name]}: it is a sound shard, but another one"
        return Problem("the whole shard", 0, found.bytes, what)
    return walked


def entry_of(url: str, plan_digest: str, layer: str) -> ShardEntry | None:
    """The entry of a finished shard, from its end; None where it is absent, cut short or another's.

    A shard without a summary is read from start to end. What has changed in it since it was written `verify_shard`
    finds, and each reader.
    """
    if not store.exists(url):
        return None
    try:
        offset, data = find_index(url)
        index = parse_index(data, offset, url)
        summed = index.summary is not None
        entry = _entry(index, offset, data) if summed else replace(_walk(url, None, None).entry, sha256=None)
    except (FormatError, _Bad):
        return None
    mine = (index.plan, index.layer) == (plan_digest, layer) and url.rsplit("/", 1)[-1] == entry.name
    return entry if mine else None


def _entry(index: ShardIndex, offset: int, data: bytes) -> ShardEntry:
    """Of a shard whose index is `data`, at `offset`, and has a summary."""
    assert index.summary is not None, "the caller looks"
    return ShardEntry(
        name=f"{index.shard}.tar",
        samples=index.samples,
        bytes=offset + len(data) + padding(len(data)) + len(END),
        index_offset=offset,
        index_length=len(data),
        index_sha256=hashlib.sha256(data).hexdigest(),
        samples_digest=index.summary.samples,
        kinds=index.summary.kinds,
    )


class _Tape:
    """A file read forward; knows where it is and the digest of what went by."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.at, self.sha256 = file, 0, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.sha256.update(data)
        self.at += len(data)
        return data


def _walk(url: str, codecs: Mapping[str, Codec] | None, index_offset: int | None) -> Walked:
    """What the shard at `url` is, byte by byte; `index_offset` only helps to name what is bad."""
    chunks: list[ChunkIndex] = []
    metas: list[Meta] = []
    keys: set[str] = set()
    samples = hashlib.sha256()
    with store.open_stream(url) as file:
        tape = _Tape(file)
        while True:
            start, body = tape.at, tape.sha256.copy()
            block = tape.read(BLOCK)
            parsed = parse_header(block)
            if parsed is not None and parsed[0] == INDEX_NAME:
                size = parsed[1]
                break
            if tape.at == index_offset:
                raise _Bad(f"header of {INDEX_NAME}", start, tape.at, _not_header(block, parsed, INDEX_NAME))
            meta, chunk = _chunk(tape, block, start, len(chunks), codecs)
            _check_follows(meta, chunk, metas[:1], chunks, keys)
            metas = metas[:1] or [meta]
            samples.update(sample_bytes(meta))
            chunks.append(chunk)
        offset = tape.at
        data = _take(tape, size, INDEX_NAME, limits.INDEX_BYTES)
        index = _index(data, offset, chunks, metas)
        start = tape.at
        end = tape.read(len(END))
        if end != END or tape.read(1):
            raise _Bad("end of the tar", start, start + len(END), "must be 1024 zero bytes and the end of the file")
        digest = tape.sha256.hexdigest()
    summary = Summary(body.hexdigest(), samples.hexdigest(), Kinds.of(metas[0].fields) if metas else None)
    if index.summary is not None and index.summary != summary:
        what = f"its summary is {index.summary}, of what was read {summary}"
        raise _Bad(INDEX_NAME, offset, offset + size, what)
    entry = replace(_entry(replace(index, summary=summary), offset, data), sha256=digest)
    return Walked(entry, index, metas[0] if metas else None)


def _chunk(
    tape: _Tape, block: bytes, start: int, j: int, codecs: Mapping[str, Codec] | None
) -> tuple[Meta, ChunkIndex]:
    key = chunk_key(j)
    name = member_name(key, META)
    parsed = parse_header(block)
    if parsed is None or parsed[0] != name:
        raise _Bad(f"header of {name}", start, start + BLOCK, _not_header(block, parsed, name))
    places: dict[str, tuple[int, int, int]] = {}
    offset = tape.at
    data = _take(tape, parsed[1], name, limits.META_BYTES)
    try:
        meta = parse_meta(data, name)
    except FormatError as error:
        raise _Bad(name, offset, offset + parsed[1], str(error)) from None
    if meta.chunk != j:
        raise _Bad(name, offset, offset + parsed[1], f"says that it is chunk {meta.chunk}, expected {j}")
    if codecs is not None:
        _check_fields(meta, name, offset, parsed[1])
    places[META] = (offset, parsed[1], crc32(data))
    for member, (length, crc) in meta.members.items():
        full = member_name(key, member)
        start = tape.at
        block = tape.read(BLOCK)
        if block != header(full, length):
            raise _Bad(f"header of {full}", start, start + BLOCK, _not_header(block, parse_header(block), full))
        offset = tape.at
        codec = None if codecs is None else _codec_of(full, offset, length, meta.n, codecs.get(member))
        found, data = _pass(tape, length, full, codec is not None)
        if found != crc:
            what = f"checksum is {found:08x}, {crc:08x} was written; the bytes have changed"
            raise _Bad(full, offset, offset + length, what)
        places[member] = (offset, length, crc)
        if codec is not None:
            _check_rows(full, offset, data, meta.n, codec)
    return meta, ChunkIndex(key, meta.n, places)


def _not_header(block: bytes, parsed: tuple[str, int] | None, name: str) -> str:
    if len(block) < BLOCK:
        return f"the file ends after {len(block)} of its bytes; the shard is cut short"
    return "is not a header of this format" if parsed is None else f"names {parsed[0]} of {parsed[1]} bytes"


def _codec_of(name: str, offset: int, length: int, n: int, codec: Codec | None) -> Codec:
    """The codec of a member, whose length can be that of n rows: known before the member is held in memory."""
    if codec is None:
        raise _Bad(name, offset, offset + length, "is not a member of this layer by the plan")
    least, most = codec.member_bytes(n)
    if not least <= length <= most:
        raise _Bad(name, offset, offset + length, f"has {length} bytes for {n} rows of {codec.row_bytes}")
    return codec


def _check_rows(name: str, offset: int, data: bytes, n: int, codec: Codec) -> None:
    try:
        codec.rows(data, n)
    except FmshardsError as error:
        raise _Bad(name, offset, offset + len(data), str(error)) from None
    except MemoryError:
        raise _Bad(name, offset, offset + len(data), f"{n} rows of {codec.row_bytes} bytes do not fit memory") from None


def _check_fields(meta: Meta, name: str, offset: int, length: int) -> None:
    try:
        for field, values in meta.fields.items():
            decode_column(field, values, meta.keys, name)
    except FormatError as error:
        raise _Bad(name, offset, offset + length, str(error).removeprefix(f"{name}: ")) from None


def _check_follows(meta: Meta, chunk: ChunkIndex, first: list[Meta], chunks: list[ChunkIndex], keys: set[str]) -> None:
    offset, length, _ = chunk.members[META]

    def bad(what: str) -> _Bad:
        return _Bad(member_name(chunk.key, META), offset, offset + length, what)

    for key in meta.keys:
        if key in keys:
            raise bad(f"key {key!r} is in an earlier chunk too")
    keys.update(meta.keys)
    if not first:
        return
    one = first[0]
    if (meta.plan, meta.layer) != (one.plan, one.layer):
        raise bad("is of another plan or layer than the first chunk")
    if set(meta.fields) != set(one.fields) or list(meta.members) != list(one.members):
        raise bad("has other fields or members than the first chunk")
    if (0 if meta.theta is None else meta.theta.shape[1]) != (0 if one.theta is None else one.theta.shape[1]):
        raise bad("has thetas of another number of views than the first chunk")
    if meta.n > one.n or chunks[-1].n < one.n:
        raise bad(f"holds {meta.n} samples after {chunks[-1].n}: all chunks but the last hold {one.n}")


def _index(data: bytes, offset: int, chunks: list[ChunkIndex], metas: list[Meta]) -> ShardIndex:
    try:
        index = parse_index(data, offset, INDEX_NAME)
    except FormatError as error:
        raise _Bad(INDEX_NAME, offset, offset + len(data), str(error)) from None
    same = all((index.plan, index.layer) == (meta.plan, meta.layer) for meta in metas)
    if index.chunks != tuple(chunks) or not same:
        raise _Bad(INDEX_NAME, offset, offset + len(data), "does not describe the chunks before it")
    return index


def _take(tape: _Tape, size: int, name: str, limit: int) -> bytes:
    start = tape.at
    if size > limit:
        raise _Bad(f"header of {name}", start - BLOCK, start, f"states {size} bytes, the format allows {limit}")
    data = tape.read(size)
    if len(data) < size:
        what = f"the file ends after {len(data)} of its {size} bytes; the shard is cut short"
        raise _Bad(name, start, start + size, what)
    _padding(tape, size, name)
    return data


def _pass(tape: _Tape, size: int, name: str, keep: bool) -> tuple[int, bytes]:
    """Read past a member piece by piece; its crc32, and its bytes where they are to be kept."""
    start, crc, left = tape.at, 0, size
    kept: list[bytes] = []
    while left:
        data = tape.read(min(left, _PIECE))
        if not data:
            what = f"the file ends after {size - left} of its {size} bytes; the shard is cut short"
            raise _Bad(name, start, start + size, what)
        crc = crc32(data, crc)
        left -= len(data)
        if keep:
            kept.append(data)
    _padding(tape, size, name)
    return crc, b"".join(kept)


def _padding(tape: _Tape, size: int, name: str) -> None:
    start, length = tape.at, padding(size)
    data = tape.read(length)
    if data != bytes(length):
        what = "must be zeros" if len(data) == length else "the file ends within it; the shard is cut short"
        raise _Bad(f"padding after {name}", start, start + length, what)
