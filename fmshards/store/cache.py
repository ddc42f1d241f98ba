"""A cache of ranges on a local disk, shared by the processes of a machine.

Each range is a file of its own, named by a digest of (URL, mark, range), so that what a store has anew never meets
what it had. It holds its checksum, then the bytes. Files appear by an atomic rename and are checked before they are
used: what a crash, a full disk or a bad sector leaves is read again from the store, and so is what another process
has just removed. There are no locks, no memory maps and no daemon.

Least recently used is by time of change, which reading renews. Every process looks through the folder whenever it has
written another 1/128 of the limit, and above 7/8 of the limit removes the oldest files down to 3/4. So up to sixteen
processes stay within the limit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress

from fmshards import tally
from fmshards.store.backend import Backend, Passing

_FOLDER = "fmshards-ranges-1"
_HEAD = struct.Struct("<IQ")
"""The checksum of name and bytes, CRC-32; the number of bytes."""

_STEP, _HIGH, _LOW = 1 / 128, 7 / 8, 3 / 4
_LARGEST = 1 / 16
"""Share of the limit above which a range is not kept: it would drive out too much."""

_RENEW = 60.0
"""Seconds for which a file counts as just used: its time is written no more often."""

_ABANDONED = 3600.0
_log = logging.getLogger("fmshards")


class Cached(Passing):
    """Another backend's ranges, kept in `folder` in at most `limit` bytes.

    An object's mark is asked for once, when the first of its ranges is: what is kept under another mark is not used,
    so a Cached lives as long as what is read is to stay the same. Objects without a mark are not kept.
    """

    def __init__(self, inner: Backend, folder: str, limit: int) -> None:
        super().__init__(inner)
        self._folder = os.path.join(folder, _FOLDER)
        self._limit = limit
        self._marks: dict[str, str | None] = {}
        self._written = limit  # nothing is known yet of what is there: look before the first write
        self._lock = threading.Lock()
        self._failed = False

    def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        path = self._path(url, start, length)
        if path is None:
            return self._inner.read(url, start, length)
        kept = _load(path)
        if kept is not None:
            tally.count("cache_hits")
            return kept
        data = self._inner.read(url, start, length)
        self._keep(path, data)
        return data

    def refresh(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        path = self._path(url, start, length)
        data = self._inner.refresh(url, start, length)
        if path is not None:
            self._keep(path, data)
        return data

    def _path(self, url: str, start: int, length: int | None) -> str | None:
        if length is None or not length or length > self._limit * _LARGEST:
            return None
        if url not in self._marks:
            found = self._inner.info(url)
            self._marks[url] = None if found is None or found.mark is None else f"{found.mark}, {found.size} bytes"
        mark = self._marks[url]
        if mark is None:
            return None
        name = hashlib.blake2b(json.dumps([url, mark, start, length]).encode(), digest_size=20).hexdigest()
        return os.path.join(self._folder, name[:2], name)

    def _keep(self, path: str, data: bytes) -> None:
        with self._lock:
            self._written += len(data)
            look = self._written > self._limit * _STEP
            if look:
                self._written = 0
        try:
            if look:
                _shrink(self._folder, self._limit)
            _write(path, data)
        except OSError as error:
            # A cache that is full or may not be written to is none: what is read is right all the same.
            if not self._failed:
                self._failed = True
                _log.warning("%s: ranges are not kept: %s", self._folder, error.strerror or error)


def _load(path: str) -> bytes | None:
    """The bytes kept at `path`; None where there are none that are whole."""
    try:
        with open(path, "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            head = file.read(_HEAD.size)
            if len(head) != _HEAD.size:
                return None
            crc, count = _HEAD.unpack(head)
            if found.st_size != _HEAD.size + count:
                return None
            data = file.read(count)
        if len(data) != count or _checksum(path, data) != crc:
            return None
        if time.time() - found.st_mtime > _RENEW:
            os.utime(path)
    except OSError:
        return None
    return data


def _write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb", buffering=0) as file:
            for part in (_HEAD.pack(_checksum(path, data), len(data)), memoryview(data)):
                while part:
                    part = part[file.write(part) :]
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _checksum(path: str, data: bytes) -> int:
    # With the name, so that a file under another's name is not taken for it.
    return zlib.crc32(data, zlib.crc32(os.path.basename(path).encode()))


def _shrink(folder: str, limit: int) -> None:
    """Remove what killed writers left, and above the limit's upper mark the oldest ranges down to its lower one."""
    files, now = [], time.time()
    for entry in _files(folder):
        with suppress(OSError):
            found = entry.stat(follow_symlinks=False)
            if entry.name.endswith(".tmp") and now - found.st_mtime > _ABANDONED:
                os.unlink(entry.path)
                continue
            files.append((found.st_mtime, found.st_size, entry.path))
    total = sum(size for _, size, _ in files)
    if total <= limit * _HIGH:
        return
    for _, size, path in sorted(files):
        if total <= limit * _LOW:
            return
        with suppress(OSError):
            os.unlink(path)
        total -= size


def _files(folder: str) -> Iterator[os.DirEntry[str]]:
    os.makedirs(folder, exist_ok=True)
    with os.scandir(folder) as folders:
        for inner in folders:
            if inner.is_dir(follow_symlinks=False):
                with suppress(OSError), os.scandir(inner.path) as entries:
                    yield from entries
