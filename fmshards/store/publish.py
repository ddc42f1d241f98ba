"""A local file that appears whole: a temporary file in the same folder, fsync, then one rename or link.

The temporary file is locked (flock) while its writer lives. A writer that is killed loses the lock with its life, so
the next writer of the same name on the same machine can tell what was left behind, and removes it.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from fmshards.errors import StoreError
from fmshards.store.guard import guard, guarded_writer
from fmshards.store.url import local_path

_SUFFIX = ".tmp"
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@contextmanager
def published(url: str, move: Callable[[str, str], None]) -> Iterator[BinaryIO]:
    """A writable file that `move(temporary, path)` puts in place on a clean exit; on an error nothing is left.

    Raises StoreError, and FileExistsError where `move` does.
    """
    path = os.path.abspath(local_path(url))
    with guard("write", url):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        prefix = _prefix(path)
        _sweep(prefix)
        # Not mkstemp's 0600: a shard set is shared, and its files get the mode that the umask gives.
        temporary, fd = _create_temporary(prefix, 0o666)
    file = guarded_writer(fd, url)
    try:
        yield file
        file.flush()
        with guard("write", url, f"{file.tell():,} bytes"):
            os.fsync(fd)
        try:
            move(temporary, path)
        except FileExistsError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"cannot write {url}: {temporary} could not be put in place: {reason}") from None
        _sync_folder(os.path.dirname(path))
    finally:
        # Closing flushes: on a full disk it fails once more, and the first error is the one to tell.
        with suppress(StoreError, OSError):
            file.close()
        with suppress(OSError):
            os.unlink(temporary)


@contextmanager
def spooled(url: str) -> Iterator[tuple[BinaryIO, str]]:
    """A writable file in the folder for temporary files, and its path: what is to be uploaded to `url`. It goes at
    the end, and what killed writers left there goes at the beginning."""
    with guard("make a temporary file for", url):
        prefix = _prefix(os.path.join(tempfile.gettempdir(), "fmshards-spool"))
        _sweep(prefix)
        spool, fd = _create_temporary(prefix, 0o600)
    file = guarded_writer(fd, f"{spool}, to be uploaded to {url}")
    try:
        yield file, spool
    finally:
        with suppress(StoreError, OSError):
            file.close()
        with suppress(OSError):
            os.unlink(spool)


def move_if_absent(temporary: str, path: str) -> None:
    """Exactly one of many callers succeeds; the others get FileExistsError. `temporary` may stay."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # No hard links here (FAT, some network mounts): the nearest thing, with a moment between look and move.
        if _is_there(path):
            raise FileExistsError(path) from None
        os.rename(temporary, path)


def is_temporary(name: str) -> bool:
    """Whether a name in a folder is a file still being written, or what a killed writer left."""
    return name.startswith(".") and name.endswith(_SUFFIX)


def _create_temporary(prefix: str, mode: int) -> tuple[str, int]:
    while True:
        temporary = f"{prefix}{secrets.token_hex(8)}{_SUFFIX}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        if _try_lock(fd) is not False and _is_there(temporary):
            return temporary, fd
        os.close(fd)  # a sweep came between creating and locking: once more


def _is_there(path: str) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _prefix(path: str) -> str:
    # The machine is part of the name: over a network, a lock may not be seen from elsewhere.
    host = "".join(c for c in socket.gethostname() if c.isalnum())[:40] or "host"
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{host}.")


def _sweep(prefix: str) -> None:
    """Remove what killed writers of files of this prefix on this machine left."""
    folder, start = os.path.split(prefix)
    for name in os.listdir(folder):
        if not (name.startswith(start) and name.endswith(_SUFFIX)):
            continue
        with suppress(OSError):
            # The folder may be everybody's: no link is followed, no pipe waited for.
            fd = os.open(os.path.join(folder, name), os.O_WRONLY | _CAREFULLY)
            try:
                if _try_lock(fd) is True:
                    os.unlink(os.path.join(folder, name))
            finally:
                os.close(fd)


def _try_lock(fd: int) -> bool | None:
    """True: locked. False: someone else holds it. None: there are no locks here."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _sync_folder(folder: str) -> None:
    # The rename itself must survive a power cut. Some systems and mounts cannot sync a folder; the data is synced.
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
