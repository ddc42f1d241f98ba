"""A backend's errors in our words: one message that says what, where and how much, in an exception that pickles."""

from __future__ import annotations

import errno
import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from fmshards.errors import FmshardsError, StoreError, TransientError

_BUSY = {408, 425, 429, 500, 502, 503, 504}
"""Answers of a server that may be others when it is asked again."""

_LOST = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH,
    errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH, errno.EPIPE, errno.ESTALE, errno.ETIMEDOUT, socket.EAI_AGAIN,
}  # fmt: skip
_TRANSIENT = {
    "TimeoutError", "ConnectionError",  # Python's and botocore's
    "FSTimeoutError",  # fsspec
    "ClientPayloadError", "ServerConnectionError",  # aiohttp
    "ConnectTimeoutError", "ReadTimeoutError", "EndpointConnectionError", "ConnectionClosedError",
    "ResponseStreamingError", "IncompleteReadError",  # botocore
    "IncompleteRead", "ServiceRequestError", "ServiceResponseError",  # http.client, azure
}  # fmt: skip
"""Classes of errors, by name: the libraries that they are of are not imported to know them."""

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "the file is too large"}
_BUFFER = 1 << 20


@contextmanager
def guard(action: str, url: str, amount: str = "") -> Iterator[None]:
    """Turn whatever a backend raises inside into a StoreError "cannot <action> <url>: ...", a TransientError where
    the same may succeed when it is tried again.

    amount: how much was being written, said where the disk is full.
    """
    try:
        yield
    except FmshardsError:
        raise
    except FileNotFoundError as error:
        reason = "it does not exist" if is_missing(error) else _chain(error)
        raise _kind(error)(f"cannot {action} {url}: {reason}") from None
    except OSError as error:
        raise _kind(error)(f"cannot {action} {url}: {_describe(error, amount)}") from None
    except Exception as error:  # a backend may raise anything, and often what does not pickle
        raise _kind(error)(f"cannot {action} {url}: {type(error).__name__}: {error}") from None


def is_missing(error: FileNotFoundError) -> bool:
    """Whether nothing is there. fsspec's http says so of a server that fails or cannot be reached as well."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        return isinstance(cause, FileNotFoundError)
    return getattr(cause, "status", 404) in (404, 410)


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that a server answered with, of the error or what it came from; None where there is none."""
    while error is not None:
        status = _status(error)
        if status is not None:
            return status
        error = error.__cause__
    return None


def _kind(error: BaseException | None) -> type[StoreError]:
    """TransientError where the error, or what it came from, says that asking again may help."""
    while error is not None:
        status = _status(error)
        if status is not None:
            return TransientError if is_busy(status) else StoreError
        if isinstance(error, OSError) and error.errno in _LOST:
            return TransientError
        if any(kind.__name__ in _TRANSIENT for kind in type(error).__mro__):
            return TransientError
        error = error.__cause__
    return StoreError


def is_busy(status: int) -> bool:
    """Whether a server that answers with this HTTP status may answer otherwise when it is asked again."""
    return status in _BUSY


def _status(error: BaseException) -> int | None:
    """The HTTP status of a server's answer, wherever the client keeps it; None where it is no such error."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore
        return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
    for name in ("status", "status_code", "code"):  # aiohttp, azure, gcsfs
        found = getattr(error, name, None)
        if isinstance(found, (int, str)) and str(found).isdigit() and 100 <= int(found) < 600:
            return int(found)
    return None


def _chain(error: Exception) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


def _describe(error: OSError, amount: str) -> str:
    if error.errno in _FULL:
        writing = f" (writing {amount})" if amount else ""
        return f"{_FULL[error.errno]}{writing}; free some space or choose another place, then run again"
    return f"{error.strerror or error or 'no reason given'} ({type(error).__name__})"


class _GuardedReader(io.RawIOBase):
    """A backend's file whose errors, raised in the middle of a body, are ours."""

    def __init__(self, file: Any, url: str) -> None:
        self._file = file
        self._url = url

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with guard("read", self._url):
            return int(self._file.readinto(buffer))

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with guard("read", self._url):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            try:
                with guard("close", self._url):
                    self._file.close()
            finally:
                super().close()


def guarded_reader(file: Any, url: str) -> BinaryIO:
    """`file`, to be read from start to end; an error in the middle is a StoreError naming `url`."""
    return cast(BinaryIO, io.BufferedReader(_GuardedReader(file, url), _BUFFER))


class _GuardedWriter(io.FileIO):
    """A local file being written, whose errors say for which URL and after how many bytes."""

    def __init__(self, fd: int, url: str) -> None:
        super().__init__(fd, "wb")
        self._url = url

    def write(self, data: Any) -> int:
        with guard("write", self._url, f"{memoryview(data).nbytes:,} bytes at byte {self.tell():,}"):
            return super().write(data)


def guarded_writer(fd: int, url: str) -> BinaryIO:
    """A buffered writer on the open descriptor `fd`; a full disk is a StoreError naming `url`."""
    return cast(BinaryIO, io.BufferedWriter(_GuardedWriter(fd, url), _BUFFER))
