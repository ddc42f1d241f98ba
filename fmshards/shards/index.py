"""The index of a shard, its last member: where every other member lies, and its checksum.

A reader with a manifest fetches the index by one ranged read; one without finds it from the end of the tar. Either
way the offsets are checked against the one layout that the format knows, so that reading through the index needs no
tar header.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fmshards import store
from fmshards.codec import codec_from_config
from fmshards.errors import CorruptError, FormatError, MismatchError
from fmshards.shards import limits
from fmshards.shards.envelope import seal, unseal
from fmshards.shards.fields import Kinds
from fmshards.shards.jsonio import Fields, check_version, show
from fmshards.shards.layer import check_name
from fmshards.shards.manifest import ShardEntry
from fmshards.shards.plan import Plan, is_digest
from fmshards.shards.tar import BLOCK, END, INDEX_NAME, META, chunk_key, padding, parse_header

_TAIL = 64 * 1024
_REACH = limits.INDEX_BYTES + padding(limits.INDEX_BYTES) + BLOCK + len(END)


@dataclass(frozen=True)
class ChunkIndex:
    """One chunk: `members` maps "meta", "base.zfp", ... in stored order to (offset in the tar, length, crc32)."""

    key: str
    n: int
    members: dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Summary:
    """What an index says of all that is before it, so that a whole shard is known by its end.

    body: SHA-256 of the tar's bytes before the index's header. samples: that of keys, fields and thetas. kinds: see
    `ShardEntry`; None where there is no sample.
    """

    body: str
    samples: str
    kinds: Kinds | None

    def to_json(self) -> dict[str, Any]:
        kinds = None if self.kinds is None else self.kinds.to_json()
        return {"body": self.body, "samples": self.samples, "kinds": kinds}

    @staticmethod
    def from_json(value: Any, where: str) -> Summary:
        """Raises FormatError."""
        fields = Fields(value, where)
        body, samples, kinds = fields.text("body", 64), fields.text("samples", 64), fields.take("kinds")
        fields.done()
        for name, digest in (("body", body), ("samples", samples)):
            if not is_digest(digest):
                raise fields.bad(name, "64 hexadecimal digits", digest)
        return Summary(body, samples, None if kinds is None else Kinds.from_json(kinds, f"{where}: kinds"))


@dataclass(frozen=True)
class ShardIndex:
    """`plan` is the digest of the plan the shard was written by; `shard` the name it was written as.

    `errors` is None or {"samples": int, "error": [...], "energy": [...]}: sums over the first chunk, a channel each.
    `input` is the content of the input shard that it was made from, {"bytes": int or None, "digest": text}; None where
    the writer did not say, as `summary` is.
    """

    samples: int
    chunks: Sequence[ChunkIndex]
    plan: str
    layer: str
    shard: str
    errors: dict[str, Any] | None
    input: dict[str, Any] | None = None
    summary: Summary | None = None


def seal_index(index: ShardIndex) -> bytes:
    """The bytes of the index member."""
    names = list(index.chunks[0].members) if index.chunks else []
    content = {
        "version": limits.VERSION,
        "plan": index.plan,
        "layer": index.layer,
        "shard": index.shard,
        "samples": index.samples,
        "members": names,
        "chunks": [[c.n, [list(c.members[name]) for name in names]] for c in index.chunks],
        "errors": index.errors,
    }
    if index.input is not None:
        content["input"] = index.input
    if index.summary is not None:
        content["summary"] = index.summary.to_json()
    return seal(content)


def read_index(url: str, entry: ShardEntry | None = None, source: store.Backend | None = None) -> ShardIndex:
    """The index of the shard at `url`: one ranged read where the manifest's `entry` is given.

    Without an entry it is found from the end of the tar, and only the tail is read. source: the backend of `url`, where
    it is not the store's own; what is damaged is read once more from it. Raises CorruptError where bytes
    are missing or changed, FormatError where the content is not of this format, MismatchError where the shard is
    not the one the entry tells of.
    """
    if entry is None:
        offset, data = find_index(url)
        index = _parsed(url, offset, data)
    else:
        offset, source = entry.index_offset, store.backend(url) if source is None else source
        index = source.checked(url, offset, entry.index_length, lambda data: _parsed(url, offset, data))
    if entry is not None and (index.samples != entry.samples or f"{index.shard}.tar" != entry.name):
        raise MismatchError(
            f"{url}: holds {index.samples} samples of shard {index.shard}; the manifest says {entry.samples} samples "
            f"of {entry.name}: the file is another shard's; extract the set again"
        )
    return index


def _parsed(url: str, offset: int, data: bytes) -> ShardIndex:
    return parse_index(data, offset, f"{url}: index (bytes {offset} to {offset + len(data)})")


def find_index(url: str) -> tuple[int, bytes]:
    """Where the index of the shard at `url` begins, and its bytes: found from the end, of which alone is read.

    Raises CorruptError where there is none, as in a file that is cut short.
    """
    size = store.size(url)
    reach = _TAIL
    while True:
        start = max(0, (size - reach) // BLOCK * BLOCK)
        tail = store.read(url, start, size - start)
        found = _locate(tail)
        if found is not None:
            at, length = found
            return start + at, tail[at : at + length]
        if start == 0 or reach >= _REACH or size % BLOCK or tail[-len(END) :] != END:
            raise CorruptError(
                f"{url}: no index at the end of its {size} bytes: it is cut short, or is not a shard of fmshards"
            )
        reach = min(8 * reach, _REACH)


def _locate(tail: bytes) -> tuple[int, int] | None:
    """(offset in tail, length) of the index: the last header whose member and two zero blocks end the file."""
    if tail[-len(END) :] != END:
        return None
    at = tail.rfind(INDEX_NAME.encode("ascii"))
    while at >= 0:
        parsed = parse_header(tail[at : at + BLOCK]) if at % BLOCK == 0 else None
        if parsed is not None and parsed[0] == INDEX_NAME:
            length = parsed[1]
            if at + BLOCK + length + padding(length) + len(END) == len(tail):
                return at + BLOCK, length
        at = tail.rfind(INDEX_NAME.encode("ascii"), 0, at)
    return None


def parse_index(data: bytes, offset: int, where: str) -> ShardIndex:
    """Parse and check the index member `data`, which lies at `offset` in its tar."""
    if len(data) > limits.INDEX_BYTES:
        raise FormatError(f"{where}: {len(data)} bytes, the format allows {limits.INDEX_BYTES}")
    fields = Fields(unseal(data, where), where)
    check_version(fields.take("version"), where)
    plan = fields.text("plan", 64)
    layer = check_name(fields.take("layer"), f"{where}: layer")
    shard = check_name(fields.take("shard"), f"{where}: shard")
    samples = fields.integer("samples", 0, limits.CHUNK_SAMPLES * limits.SHARD_CHUNKS)
    names = fields.items("members", 3 + limits.VIEWS)
    rows = fields.items("chunks", limits.SHARD_CHUNKS)
    errors = _errors(fields)
    source = check_input(fields.optional("input"), f"{where}: input")
    summary = fields.optional("summary")
    summary = None if summary is None else Summary.from_json(summary, f"{where}: summary")
    fields.done()
    if not is_digest(plan):
        raise fields.bad("plan", "64 hexadecimal digits", plan)
    for name in names:
        check_name(name, f"{where}: members")
    if rows and (not names or names[0] != META or len(set(names)) != len(names)):
        raise FormatError(f"{where}: members must be distinct and begin with {META!r}")
    chunks, end = _chunks(names, rows, where)
    if end + BLOCK != offset:
        raise FormatError(f"{where}: its members end at byte {end}, so the index would begin at {end + BLOCK}")
    if sum(c.n for c in chunks) != samples:
        raise FormatError(f"{where}: its chunks hold {sum(c.n for c in chunks)} samples, stated are {samples}")
    return ShardIndex(samples, chunks, plan, layer, shard, errors, source, summary)


def _chunks(names: list[str], rows: list[Any], where: str) -> tuple[tuple[ChunkIndex, ...], int]:
    """The chunks, and where the last member's padding ends. Members lie one after another with no gap."""
    chunks: list[ChunkIndex] = []
    end = 0
    for j, row in enumerate(rows):
        if not (isinstance(row, list) and len(row) == 2 and isinstance(row[1], list) and len(row[1]) == len(names)):
            raise FormatError(f"{where}: chunk {j} must be [samples, [one entry a member]]")
        n, places = row
        full = rows[0][0]
        if type(n) is not int or not 1 <= n <= limits.CHUNK_SAMPLES or n > full or (n < full and j < len(rows) - 1):
            raise FormatError(
                f"{where}: chunk {j} cannot hold {show(n)} samples: all hold as many, the last may hold fewer"
            )
        members: dict[str, tuple[int, int, int]] = {}
        for name, place in zip(names, places, strict=True):
            if not (isinstance(place, list) and len(place) == 3 and all(type(v) is int for v in place)):
                raise FormatError(f"{where}: chunk {j}: {name} must be [offset, length, crc32]")
            offset, length, crc = place
            limit = limits.META_BYTES if name == META else limits.MEMBER_BYTES
            if offset != end + BLOCK or not 0 <= length <= limit or not 0 <= crc < 1 << 32:
                raise FormatError(
                    f"{where}: chunk {j}: {name} at {show(offset)}, {show(length)} bytes, cannot be: the "
                    f"member before it ends at {end}, a member has at most {limit} bytes"
                )
            members[name] = (offset, length, crc)
            end = offset + length + padding(length)
        chunks.append(ChunkIndex(chunk_key(j), n, members))
    return tuple(chunks), end


def _errors(fields: Fields) -> dict[str, Any] | None:
    value = fields.object_or_none("errors")
    return None if value is None else check_errors(value, f"{fields.where}: errors")


def check_errors(value: dict[str, Any], where: str) -> dict[str, Any]:
    """Error sums {"samples", "error", "energy"}: non-negative, one a channel. Raises FormatError."""
    fields = Fields(value, where)
    samples = fields.integer("samples", 0, limits.CHUNK_SAMPLES)
    error = list(fields.numbers("error", 0.0, math.inf))
    energy = list(fields.numbers("energy", 0.0, math.inf))
    fields.done()
    if len(error) != len(energy):
        raise FormatError(f"{where}: error and energy differ in length")
    return {"samples": samples, "error": error, "energy": energy}


def check_input(value: Any, where: str) -> dict[str, Any] | None:
    """The content of an input shard {"bytes", "digest"}, or None. Raises FormatError."""
    if value is None:
        return None
    fields = Fields(value, where)
    out = {"bytes": fields.integer_or_none("bytes", 0, 1 << 62), "digest": fields.text("digest", 256)}
    fields.done()
    return out


def check_index(index: ShardIndex, plan: Plan, layer: str, where: str) -> None:
    """Raise MismatchError or FormatError unless the index is of a shard of `layer` of `plan`.

    The plan's digest, the chunk length, the members and the bytes of their rows must all be the plan's.
    """
    if index.plan != plan.digest:
        raise MismatchError(
            f"{where}: written by plan {index.plan[:16]}, the set's plan is {plan.digest[:16]}: it is a shard of "
            "another set; extract the set again"
        )
    if index.layer != layer:
        raise MismatchError(f"{where}: a shard of layer {index.layer}, expected layer {layer}")
    check_members(index.chunks, plan, layer, where)
    channels = codec_from_config(plan.layer(layer).codec).spec.channels
    if index.errors is not None and len(index.errors["error"]) != channels:
        raise FormatError(f"{where}: error sums of {len(index.errors['error'])} channels, the layer has {channels}")


def check_members(chunks: Sequence[ChunkIndex], plan: Plan, layer: str, where: str) -> None:
    """Raise FormatError unless each chunk has the plan's length, members and bytes of rows."""
    codecs = plan.layer_members(layer)
    for j, chunk in enumerate(chunks):
        if chunk.n != plan.chunk and (chunk.n > plan.chunk or j < len(chunks) - 1):
            raise FormatError(f"{where}: chunk {j} holds {chunk.n} samples, the plan's chunk is {plan.chunk}")
        if list(chunk.members) != [META, *codecs]:
            raise FormatError(f"{where}: chunk {j} has members {list(chunk.members)}, the plan {[META, *codecs]}")
        for name, codec in codecs.items():
            least, most = codec.member_bytes(chunk.n)
            if not least <= chunk.members[name][1] <= most:
                expected = str(most) if least == most else f"{least} to {most}"
                raise FormatError(
                    f"{where}: chunk {j}: {name} has {chunk.members[name][1]} bytes, {chunk.n} rows of "
                    f"{codec.row_bytes} bytes make {expected}"
                )
