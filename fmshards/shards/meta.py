"""The meta of a chunk, its first member: keys, fields and thetas, and the checksums of the chunk's other members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from fmshards.errors import FormatError, InputError
from fmshards.shards import limits
from fmshards.shards.envelope import seal, unseal
from fmshards.shards.fields import check_columns
from fmshards.shards.jsonio import Fields, check_version, show
from fmshards.shards.layer import check_name
from fmshards.shards.plan import is_digest


@dataclass(frozen=True)
class Meta:
    """`theta` float32 [n, V, 2, 3] or None; `members` name -> (length, crc32) in stored order, without the meta."""

    plan: str
    layer: str
    chunk: int
    n: int
    keys: list[str]
    fields: dict[str, list[Any]]
    theta: np.ndarray | None
    members: dict[str, tuple[int, int]]


def seal_meta(meta: Meta, where: str) -> bytes:
    """The bytes of the meta member. Raises InputError where it exceeds the format's limits."""
    try:
        data = seal(
            {
                "version": limits.VERSION,
                "plan": meta.plan,
                "layer": meta.layer,
                "chunk": meta.chunk,
                "n": meta.n,
                "keys": meta.keys,
                "fields": meta.fields,
                "views": 0 if meta.theta is None else int(meta.theta.shape[1]),
                "theta": None if meta.theta is None else np.ascontiguousarray(meta.theta, "<f4").tobytes(),
                "members": [[name, *place] for name, place in meta.members.items()],
            }
        )
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{where}: the samples' fields cannot be stored: {error}") from None
    if len(data) > limits.META_BYTES:
        raise InputError(
            f"{where}: keys and fields of {meta.n} samples take {len(data)} bytes, the format allows "
            f"{limits.META_BYTES} a chunk; use a smaller chunk or leave large fields out"
        )
    return data


def sample_bytes(meta: Meta) -> bytes:
    """What a chunk says of its samples, whatever the layer: keys, fields and thetas, as bytes to be hashed."""
    theta = None if meta.theta is None else np.ascontiguousarray(meta.theta, "<f4").tobytes()
    packed: bytes = msgpack.packb([meta.keys, sorted(meta.fields.items()), theta], use_bin_type=True)
    return packed


def parse_meta(data: bytes, where: str) -> Meta:
    """Parse and check a meta member. Raises CorruptError or FormatError, beginning with `where`."""
    if len(data) > limits.META_BYTES:
        raise FormatError(f"{where}: {len(data)} bytes, the format allows {limits.META_BYTES}")
    fields = Fields(unseal(data, where), where)
    check_version(fields.take("version"), where)
    plan = fields.text("plan", 64)
    layer = check_name(fields.take("layer"), f"{where}: layer")
    chunk = fields.integer("chunk", 0, limits.SHARD_CHUNKS)
    n = fields.integer("n", 1, limits.CHUNK_SAMPLES)
    keys = fields.items("keys")
    columns = check_columns(fields.take("fields"), n, where)
    views = fields.integer("views", 0, limits.VIEWS)
    theta = _theta(fields.take("theta"), n, views, where)
    members = _members(fields.items("members", 2 + limits.VIEWS), where)
    fields.done()
    if not is_digest(plan):
        raise fields.bad("plan", "64 hexadecimal digits", plan)
    if len(keys) != n or set(map(type, keys)) != {str} or not _lengths_fit(keys):
        raise FormatError(f"{where}: keys must be {n} texts of 1 to {limits.KEY_LENGTH} characters")
    if len(set(keys)) != n:
        raise FormatError(f"{where}: a key occurs twice")
    return Meta(plan, layer, chunk, n, keys, columns, theta, members)


def _lengths_fit(keys: Sequence[str]) -> bool:
    return min(map(len, keys)) > 0 and max(map(len, keys)) <= limits.KEY_LENGTH


def _theta(data: Any, n: int, views: int, where: str) -> np.ndarray | None:
    if views == 0 and data is None:
        return None
    size = n * views * 6 * 4
    if views == 0 or not isinstance(data, bytes) or len(data) != size:
        raise FormatError(f"{where}: theta of {n} samples and {views} views must be {size} bytes, or nothing for 0")
    theta = np.frombuffer(data, "<f4").astype(np.float32).reshape(n, views, 2, 3)
    if not np.isfinite(theta).all():
        raise FormatError(f"{where}: theta is not finite")
    return theta


def _members(items: Sequence[Any], where: str) -> dict[str, tuple[int, int]]:
    out: dict[str, tuple[int, int]] = {}
    for item in items:
        if not (isinstance(item, list) and len(item) == 3):
            raise FormatError(f"{where}: each member must be [name, length, crc32]")
        name, length, crc = item
        check_name(name, f"{where}: members")
        if type(length) is not int or not 0 <= length <= limits.MEMBER_BYTES or name in out:
            raise FormatError(f"{where}: member {name}: cannot have length {show(length)}, or is named twice")
        if type(crc) is not int or not 0 <= crc < 1 << 32:
            raise FormatError(f"{where}: member {name}: {show(crc)} is no crc32")
        out[name] = (length, crc)
    return out
