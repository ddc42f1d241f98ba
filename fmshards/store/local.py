"""The store on local files: exact reads, and writes that are whole or not there."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO

from fmshards.errors import CorruptError, StoreError
from fmshards.store.backend import Backend, Info
from fmshards.store.guard import guard, guarded_reader
from fmshards.store.publish import is_temporary, move_if_absent, published
from fmshards.store.url import local_path

_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
"""A pipe is opened at once, to be refused: without it the open waits for a writer."""
_ADVICE = 128 * 1024
"""Bytes of one piece of advice: Linux reads no more at a piece than it reads ahead, which on NFS is so much."""


class Local(Backend):
    """Plain files. A mark is the size, the time of the last write and, as that one can be set, of the last change."""

    def info(self, url: str) -> Info | None:
        # Not os.path.exists(): it reads every error as "no", and a folder that cannot be looked into for a moment
        # (EACCES, EIO, ESTALE ...) is not an empty one.
        with guard("look for", url):
            try:
                found = os.stat(local_path(url))
            except FileNotFoundError:
                return None
        return Info(found.st_size, f"{found.st_size} bytes, {found.st_mtime_ns} ns, {found.st_ctime_ns} ns")

    def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        # Not through a buffered file, which reads a few kB and then copies all.
        with guard("read", url), open(local_path(url), "rb", buffering=0, opener=_open) as file:
            whole = _regular(file.fileno(), url).st_size
            end = whole if length is None else start + length
            if max(start, end) > whole:
                raise CorruptError(f"{url}: expected bytes {start} to {end}, found only {whole} bytes")
            data = os.pread(file.fileno(), end - start, start)
            while len(data) < end - start:  # one call brings 2 GB at most
                more = os.pread(file.fileno(), end - start - len(data), start + len(data))
                if not more:
                    break
                data += more
        if len(data) != end - start:
            raise CorruptError(f"{url}: expected {end - start} bytes from {start}, found only {len(data)}")
        return data

    def expect(self, url: str, spans: Sequence[tuple[int, int]]) -> None:
        if not hasattr(os, "posix_fadvise"):  # macOS
            return
        with suppress(OSError), open(local_path(url), "rb", buffering=0, opener=_open) as file:
            for start, end in spans:
                for piece in range(start, end, _ADVICE):
                    os.posix_fadvise(file.fileno(), piece, min(_ADVICE, end - piece), os.POSIX_FADV_WILLNEED)

    def open_stream(self, url: str) -> BinaryIO:
        with guard("open", url):
            fd = _open(local_path(url), os.O_RDONLY)
            try:
                _regular(fd, url)
            except BaseException:
                os.close(fd)
                raise
            return guarded_reader(io.FileIO(fd), url)

    def list_names(self, url: str) -> list[str]:
        with guard("list", url):
            try:
                names = os.listdir(local_path(url))
            except FileNotFoundError:
                return []
        return sorted(name for name in names if not is_temporary(name))

    def list_files(self, url: str) -> dict[str, Info]:
        root, found = local_path(url), {}
        with guard("list", url):
            for folder, _, names in os.walk(root, onerror=_unless_absent):
                for name in names:
                    path = os.path.join(folder, name)
                    seen = self.info(path)
                    if seen is not None and not is_temporary(name):
                        found[os.path.relpath(path, root)] = seen
        return found

    def put(self, url: str, data: bytes) -> None:
        with published(url, os.replace) as file:
            file.write(data)

    def put_if_absent(self, url: str, data: bytes) -> bool:
        if self.exists(url):
            return False
        try:
            with published(url, move_if_absent) as file:
                file.write(data)
        except FileExistsError:
            return False
        return True

    @contextmanager
    def atomic_file(self, url: str) -> Iterator[BinaryIO]:
        with published(url, os.replace) as file:
            yield file

    def remove(self, url: str) -> None:
        with guard("remove", url), suppress(FileNotFoundError):
            os.unlink(local_path(url))


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | _NONBLOCK)


def _unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _regular(fd: int, url: str) -> os.stat_result:
    """What fstat says of a plain file. Raises StoreError for what else can be opened: it may never end."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        kind = "a pipe" if stat.S_ISFIFO(found.st_mode) else "no plain file"
        raise StoreError(f"cannot read {url}: it is {kind}; give a file, which can be read in parts and again")
    return found
