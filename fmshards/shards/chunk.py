"""Reading a chunk: its meta and the members asked for, every checksum verified before anything is returned."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fmshards import store
from fmshards.errors import CorruptError, InputError, MismatchError
from fmshards.shards.envelope import crc32
from fmshards.shards.index import ChunkIndex, ShardIndex
from fmshards.shards.meta import Meta, parse_meta
from fmshards.shards.tar import META, member_name

_GAP = 256 * 1024
"""Members at most this far apart are fetched by one request from a store: bytes of a few milliseconds, where a request
waits for ten or more. Between neighbours lie one header and some padding."""


@dataclass(frozen=True)
class Chunk:
    """n samples: `keys`, `fields` (a list of n a field), `theta` float32 [n, V, 2, 3] or None, members by name."""

    n: int
    keys: list[str]
    fields: dict[str, list[Any]]
    theta: np.ndarray | None
    members: dict[str, bytes]


def read_chunk(
    url: str, index: ShardIndex, j: int, members: Sequence[str], source: store.Backend | None = None
) -> Chunk:
    """Chunk j of the shard at `url`: the meta and the named members ("base.zfp"), neighbours in one request.

    source: the backend of `url`, where it is not the store's own; bytes that have changed are read once more from it.
    Raises CorruptError, naming member and byte range, where they are missing or changed then too; InputError for a
    member that the shard does not have.
    """
    if not 0 <= j < len(index.chunks):
        raise InputError(f"{url}: no chunk {j}; it has {len(index.chunks)}")
    place = index.chunks[j]
    wanted = list(dict.fromkeys([META, *members]))
    missing = [name for name in wanted if name not in place.members]
    if missing:
        raise InputError(f"{url}: no member {missing[0]!r}; a chunk has {', '.join(place.members)}")
    data = _fetch(url, place, wanted, store.backend(url) if source is None else source)
    meta_name = member_name(place.key, META)
    offset, length, _ = place.members[META]
    meta = parse_meta(data[META], f"{url}: {meta_name} (bytes {offset} to {offset + length})")
    stated = {name: (length, crc) for name, (_, length, crc) in place.members.items() if name != META}
    here = (index.plan, index.layer, j, place.n)
    if (meta.plan, meta.layer, meta.chunk, meta.n) != here or meta.members != stated:
        raise MismatchError(f"{url}: {meta_name} belongs to another shard than the index; extract the set again")
    return _chunk(meta, {name: data[name] for name in members})


def expect_chunk(url: str, index: ShardIndex, j: int, members: Sequence[str], source: store.Backend) -> None:
    """Tell the backend that `read_chunk` of these members comes soon."""
    place = index.chunks[j]
    source.expect(url, [(start, end) for start, end, _ in _spans(url, place, {META, *members} & set(place.members))])


def _fetch(url: str, place: ChunkIndex, wanted: Sequence[str], source: store.Backend) -> dict[str, bytes]:
    out: dict[str, bytes] = {}
    for start, end, names in _spans(url, place, wanted):
        out |= source.checked(url, start, end - start, partial(_apart, url, place, start, names))
    return out


def _spans(url: str, place: ChunkIndex, wanted: Collection[str]) -> list[tuple[int, int, list[str]]]:
    """The byte ranges, from one to another, in which members are read, and the members of each."""
    # A local file is read member by member: a read costs less there than cutting one apart, which copies.
    gap = -1 if store.is_local(url) else _GAP
    spans: list[tuple[int, int, list[str]]] = []
    for name in sorted(wanted, key=lambda name: place.members[name][0]):
        offset, length, _ = place.members[name]
        if spans and offset - spans[-1][1] <= gap:
            start, _, names = spans.pop()
            spans.append((start, offset + length, [*names, name]))
        else:
            spans.append((offset, offset + length, [name]))
    return spans


def _apart(url: str, place: ChunkIndex, start: int, names: Sequence[str], data: bytes) -> dict[str, bytes]:
    """The members `names` out of `data`, which begins at byte `start`, each verified."""
    out = {}
    for name in names:
        offset, length, crc = place.members[name]
        part = data if len(names) == 1 else data[offset - start : offset - start + length]
        _check(part, length, crc, f"{url}: {member_name(place.key, name)} (bytes {offset} to {offset + length})")
        out[name] = part
    return out


def _check(data: bytes, length: int, crc: int, where: str) -> None:
    if len(data) != length:
        raise CorruptError(f"{where}: {len(data)} bytes, {length} were written; the shard is cut short")
    found = crc32(data)
    if found != crc:
        raise CorruptError(f"{where}: checksum is {found:08x}, {crc:08x} was written; the bytes have changed")


def _chunk(meta: Meta, members: dict[str, bytes]) -> Chunk:
    return Chunk(meta.n, meta.keys, meta.fields, meta.theta, members)


def chunk_from_members(
    members: Mapping[str, bytes], where: str, plan: str | None = None, layer: str | None = None
) -> Chunk:
    """A chunk out of members that a tar reader gave ("meta.msgpack" -> bytes, "base.zfp" -> bytes, ...).

    The meta's own checksum and those that it states for the other members are verified; all of them must be there.
    `plan` (a digest) and `layer`, where given, must be the meta's. Raises CorruptError or MismatchError, beginning
    with `where`.
    """
    data = members.get("meta.msgpack")
    if data is None:
        raise CorruptError(f"{where}: no member meta.msgpack; the shard is damaged or is not one of fmshards")
    meta = parse_meta(data, f"{where}: meta.msgpack")
    if plan is not None and meta.plan != plan:
        raise MismatchError(f"{where}: written by plan {meta.plan[:16]}, expected {plan[:16]}: another set's shard")
    if layer is not None and meta.layer != layer:
        raise MismatchError(f"{where}: a chunk of layer {meta.layer}, expected layer {layer}")
    out: dict[str, bytes] = {}
    for name, (length, crc) in meta.members.items():
        if name not in members:
            raise CorruptError(f"{where}: member {name} is missing; the shard is damaged")
        _check(members[name], length, crc, f"{where}: {name}")
        out[name] = members[name]
    return _chunk(meta, out)
