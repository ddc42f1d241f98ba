"""Whether input is what it was: cheap stamps, and digests of content.

A stamp is compared first, and costs no reading. Where stamps differ (a copy, a touched file) or there is none, content
decides. On a disk a stamp is size, time of writing and time of change: a file that was given its old time is read too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import msgpack

from fmshards import store
from fmshards.errors import InputError, StoreError
from fmshards.shards import field_value

_BLOCK = 1 << 20


def size_and_stamp(url: str) -> tuple[int, str | None]:
    """Size in bytes and stamp of the file at `url`. Raises StoreError where there is none, InputError for a folder."""
    found = store.info(url)
    if found is None:
        raise StoreError(f"cannot read {url}: it does not exist")
    if store.is_local(url) and os.path.isdir(store.local_path(url)):
        raise InputError(f"{url} is a folder; expected a file, or a folder alone")
    if found.size is None:
        raise StoreError(f"cannot read {url}: the server does not say how long it is")
    return found.size, found.mark


def file_content(url: str) -> str:
    """ "sha256:<hex>" of the bytes at `url`. Raises StoreError."""
    digest = hashlib.sha256()
    with store.open_stream(url) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def files_content(paths: Iterable[str], digests: Iterable[bytes]) -> str:
    """ "sha256:<hex>" over many files: SHA-256 over path, NUL and the SHA-256 of the bytes (32 bytes), file by file."""
    digest = hashlib.sha256()
    for path, one in zip(paths, digests, strict=True):
        digest.update(path.encode() + b"\0" + one)
    return f"sha256:{digest.hexdigest()}"


class DigestReader:
    """`stream`, read from start to end; `content` is what `file_content` gives, after that."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._digest = stream, hashlib.sha256()

    @property
    def content(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"

    def read(self, length: int) -> bytes:
        data = self._stream.read(length)
        self._digest.update(data)
        return data


class SampleDigests:
    """SHA-256 of the files of each input shard's samples, in order, as workers tell of them."""

    def __init__(self) -> None:
        self._known: dict[int, list[bytes]] = {}

    def add(self, shard: int, digests: Iterable[bytes], samples: int) -> None:
        """samples: of the whole shard; what comes after all of them is of a shard that is read once more."""
        known = self._known.setdefault(shard, [])
        if len(known) == samples:
            known.clear()
        known += digests

    def whole(self, shard: int, samples: int) -> list[bytes] | None:
        """Those of all samples; None until they are there."""
        known = self._known.get(shard, [])
        return known if len(known) == samples else None


class RowsDigest:
    """ "sha256:<hex>" over the rows of a table: of each its key, NUL, the SHA-256 of its image's bytes and that of its
    fields, an array of [name, value] sorted by name as msgpack has it (32 bytes each)."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    @property
    def content(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"

    def add(self, key: str, image: bytes, fields: Mapping[str, Any]) -> None:
        values = msgpack.packb([[name, field_value(fields[name])] for name in sorted(fields)])
        self._digest.update(key.encode() + b"\0" + hashlib.sha256(image).digest() + hashlib.sha256(values).digest())
