"""Writing a shard: chunks one after another, then the index; published whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from fmshards import store
from fmshards.errors import FormatError, InputError
from fmshards.shards import limits
from fmshards.shards.envelope import crc32
from fmshards.shards.fields import LABEL, Kinds, check_served, decode_field, label_kind, label_text, readable_value
from fmshards.shards.index import ChunkIndex, ShardIndex, Summary, check_errors, check_input, seal_index
from fmshards.shards.layer import check_name
from fmshards.shards.manifest import ShardEntry
from fmshards.shards.meta import Meta, sample_bytes, seal_meta
from fmshards.shards.plan import is_digest
from fmshards.shards.tar import BLOCK, END, INDEX_NAME, META, chunk_key, header, member_name, padding


class ShardWriter:
    """Writes one shard; a context manager. Equal calls write equal bytes, so a second writer does no harm.

    `url` ends with `<name>.tar`. `layers` are the set's: fields must have names of their own in a batch of them.
    `kinds`: what another shard of the set has written, if one has. The shard appears at `url` when `close` returns;
    after an exception inside the `with` block, or a kill, nothing does.
    """

    def __init__(
        self, url: str, plan_digest: str, layer: str, layers: Sequence[str] = (), kinds: Kinds | None = None
    ) -> None:
        name = url.rsplit("/", 1)[-1]
        if not name.endswith(".tar") or not is_digest(plan_digest):
            raise InputError(f"{url}: a shard's name ends with .tar and its plan's digest is 64 hexadecimal digits")
        self.url = url
        self._plan = plan_digest
        self._layer = check_name(layer, "layer")
        self._layers = (layer, *layers)
        self._shard = check_name(name[: -len(".tar")], "shard")
        self._chunks: list[ChunkIndex] = []
        self._keys: set[str] = set()
        self._fields = None if kinds is None else list(kinds.names)
        self._label = None if kinds is None else kinds.label
        self._views = 0
        self._errors: dict[str, Any] | None = None
        self._input: dict[str, Any] | None = None
        self._sha256 = hashlib.sha256()
        self._samples = hashlib.sha256()
        self._at = 0
        self._file: BinaryIO | None = None
        self._publish: AbstractContextManager[BinaryIO] | None = None
        self.entry: ShardEntry | None = None

    def __enter__(self) -> ShardWriter:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._publish is not None:
            publish, self._publish, self._file = self._publish, None, None
            publish.__exit__(kind, error, trace)

    def add(
        self,
        keys: Sequence[str],
        fields: Mapping[str, Sequence[Any]],
        theta: np.ndarray | None,
        members: Mapping[str, bytes],
    ) -> None:
        """Append a chunk of len(keys) samples: fields by column, theta float32 [n, V, 2, 3] or None, members' bytes.

        `members` ("base.zfp" -> bytes) are stored in the order given. Raises InputError for a key that was there
        before, columns of another length, fields or members other than the chunk's before, or a chunk after a
        shorter one.
        """
        j, n = len(self._chunks), len(keys)
        where = f"{self.url}: chunk {j}"
        meta = Meta(
            plan=self._plan,
            layer=self._layer,
            chunk=j,
            n=n,
            keys=self._new_keys(keys, where),
            fields=self._new_fields(fields, keys, where),
            theta=self._new_theta(theta, n, where),
            members={name: (len(data), crc32(data)) for name, data in members.items()},
        )
        self._check_chunk(meta, where)
        sealed = seal_meta(meta, where)
        self._samples.update(sample_bytes(meta))
        places: dict[str, tuple[int, int, int]] = {}
        for name, data in {META: sealed, **members}.items():
            crc = crc32(sealed) if name == META else meta.members[name][1]
            places[name] = (self._at + BLOCK, len(data), crc)
            self._put_member(member_name(chunk_key(j), name), data)
        self._chunks.append(ChunkIndex(chunk_key(j), n, places))

    def errors(self, stats: Mapping[str, Any]) -> None:
        """Error sums for the index: {"samples": n, "error": [a channel], "energy": [a channel]}."""
        plain = {
            "samples": int(stats["samples"]),
            "error": [float(v) for v in stats["error"]],
            "energy": [float(v) for v in stats["energy"]],
        }
        try:
            self._errors = check_errors(plain, f"{self.url}: errors")
        except FormatError as error:
            raise InputError(str(error)) from None

    def input(self, bytes: int | None, digest: str) -> None:
        """The content of the input shard, for the index: its size, where that is known, and its digest as text."""
        try:
            self._input = check_input({"bytes": bytes, "digest": digest}, f"{self.url}: input")
        except FormatError as error:
            raise InputError(str(error)) from None

    def close(self) -> ShardEntry:
        """Write the index, publish the shard and return its entry for the manifest."""
        if self.entry is not None:
            return self.entry
        samples = sum(chunk.n for chunk in self._chunks)
        kinds = Kinds(tuple(self._fields), self._label) if self._chunks and self._fields is not None else None
        summary = Summary(self._sha256.hexdigest(), self._samples.hexdigest(), kinds)
        chunks, own = tuple(self._chunks), (self._plan, self._layer, self._shard)
        data = seal_index(ShardIndex(samples, chunks, *own, self._errors, self._input, summary))
        if len(data) > limits.INDEX_BYTES:
            raise InputError(f"{self.url}: an index of {len(data)} bytes, the format allows {limits.INDEX_BYTES}")
        offset = self._at + BLOCK
        self._put_member(INDEX_NAME, data)
        self._put(END)
        publish, self._publish, self._file = self._publish, None, None
        if publish is not None:
            publish.__exit__(None, None, None)
        self.entry = ShardEntry(
            name=f"{self._shard}.tar",
            samples=samples,
            bytes=self._at,
            index_offset=offset,
            index_length=len(data),
            index_sha256=hashlib.sha256(data).hexdigest(),
            samples_digest=summary.samples,
            kinds=kinds,
        )
        return self.entry

    def _new_keys(self, keys: Sequence[str], where: str) -> list[str]:
        for key in keys:
            if not isinstance(key, str) or not 0 < len(key) <= limits.KEY_LENGTH:
                raise InputError(
                    f"{where}: a key must be text of 1 to {limits.KEY_LENGTH} characters, found {key!r}"[:400]
                )
            if key in self._keys:
                raise InputError(f"{where}: the key {key!r} occurs twice; keys must be unique within a shard")
            self._keys.add(key)
        return list(keys)

    def _new_fields(self, fields: Mapping[str, Sequence[Any]], keys: Sequence[str], where: str) -> dict[str, list[Any]]:
        names = sorted(fields)
        if self._fields is not None and names != self._fields:
            odd = sorted(set(names) ^ set(self._fields))
            raise InputError(f"{where}: field {odd[0]!r} is in some chunks of this set and not in others")
        check_served(fields, self._layers, f"{where}: ")
        self._fields = names
        out = {}
        for name in names:
            column = list(fields[name])
            if len(column) != len(keys):
                raise InputError(f"{where}: field {name!r} has {len(column)} values for {len(keys)} samples")
            out[name] = [readable_value(name, v, f"{where}: key {key!r}") for key, v in zip(keys, column, strict=True)]
        if LABEL in out:
            self._check_labels(out[LABEL], keys, where)
        return out

    def _check_labels(self, labels: list[Any], keys: Sequence[str], where: str) -> None:
        """A loader makes one tensor of a batch's labels: they must be of one kind."""
        for key, label in zip(keys, labels, strict=True):
            kind = label_kind(decode_field(LABEL, label))
            if self._label is not None and kind != self._label:
                raise InputError(
                    f"{where}: key {key!r}: field {LABEL!r} is {label_text(kind)}, in the samples before it "
                    f"{label_text(self._label)}; give labels of one kind, or put them under another name"
                )
            self._label = kind

    def _new_theta(self, theta: np.ndarray | None, n: int, where: str) -> np.ndarray | None:
        views = 0 if theta is None else theta.shape[1] if theta.ndim == 4 else -1
        if self._chunks and views != self._views:
            raise InputError(f"{where}: theta of {views} views after chunks of {self._views}")
        self._views = views
        if theta is None or views == 0:
            return None
        if theta.shape != (n, views, 2, 3) or theta.dtype != np.float32 or not np.isfinite(theta).all():
            raise InputError(f"{where}: theta must be finite float32 [{n}, V, 2, 3], found {theta.dtype} {theta.shape}")
        return theta

    def _check_chunk(self, meta: Meta, where: str) -> None:
        if not 1 <= meta.n <= limits.CHUNK_SAMPLES:
            raise InputError(f"{where}: {meta.n} samples; a chunk holds 1 to {limits.CHUNK_SAMPLES}")
        for name in meta.members:
            check_name(name, f"{where}: member")
        if not self._chunks:
            return
        first, last = self._chunks[0], self._chunks[-1]
        if meta.n > first.n or last.n < first.n:
            raise InputError(f"{where}: {meta.n} samples after {last.n}: all chunks but the last hold {first.n}")
        if [META, *meta.members] != list(first.members):
            raise InputError(f"{where}: members {list(meta.members)}, the first chunk's were {list(first.members)[1:]}")

    def _open(self) -> BinaryIO:
        if self.entry is not None:
            raise InputError(f"{self.url}: the shard is closed")
        if self._file is None:
            self._publish = store.atomic_file(self.url)
            self._file = self._publish.__enter__()
        return self._file

    def _put_member(self, name: str, data: bytes) -> None:
        self._put(header(name, len(data)))
        self._put(data)
        self._put(bytes(padding(len(data))))

    def _put(self, data: bytes) -> None:
        self._open().write(data)
        self._sha256.update(data)
        self._at += len(data)
