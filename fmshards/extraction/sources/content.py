"""Whether input is what it was: cheap stamps, and digests of content.

A stamp is compared first, and costs no reading. Where stamps differ (a copy, a touched file) or there is none, content
decides. What keeps size and time of change is not seen: that is what a stamp is.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from fmshards import store
from fmshards.errors import InputError, StoreError
from fmshards.store.guard import guard

# What object stores, as fsspec's file systems pass it on, call a name of the content; then, of the time of change.
_TAGS = ("ETag", "etag", "VersionId", "version_id", "generation", "md5Hash", "Content-MD5", "content_md5")
_TIMES = ("LastModified", "last_modified", "Last-Modified", "updated", "mtime", "created")
_BLOCK = 1 << 20


def look(url: str) -> tuple[int, str | None]:
    """Size in bytes and stamp of the file at `url`. Raises StoreError where there is none, InputError for a folder."""
    if store.is_local(url):
        with guard("read", url):
            found = os.stat(store.local_path(url))
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no plain file"
            raise InputError(f"{url} is {kind}; expected a tar, or a folder alone")
        return found.st_size, local_stamp(found)
    with guard("read", url):
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(url)
        fs.invalidate_cache()
        info = fs.info(path)
    if info.get("size") is None:
        raise StoreError(f"cannot read {url}: the server does not say how long it is")
    return int(info["size"]), remote_stamp(info)


def local_stamp(found: os.stat_result) -> str:
    return f"{found.st_size} bytes, {found.st_mtime_ns} ns"


def remote_stamp(info: Mapping[str, Any]) -> str | None:
    """The stamp of an object of which its file system says `info`."""
    for names in (_TAGS, _TIMES):
        for name in names:
            if info.get(name):
                return f"{info['size']} bytes, {name} {info[name]}"
    return None


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


class DigestReader(io.RawIOBase):
    """`stream`, read from start to end; `content` is what `file_content` gives, after that."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._digest = stream, hashlib.sha256()

    @property
    def content(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._digest.update(data)
        return len(data)
