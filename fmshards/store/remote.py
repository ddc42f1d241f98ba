"""The store through fsspec: s3, gs, az, http, memory ... whatever fsspec has a backend for.

Nothing is kept between calls: fsspec caches its file systems itself and renews them in a forked process. Sizes and
listings are asked for anew each time, since another machine may be writing. Credentials and endpoints are found as
fsspec's file systems find them, in the environment and in its own configuration; none is ever asked for or kept here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from fmshards.errors import CorruptError, InputError, StoreError, TransientError
from fmshards.store.backend import Backend, Info
from fmshards.store.guard import guard, guarded_reader, is_missing, status_of
from fmshards.store.publish import spooled
from fmshards.store.retry import CONNECT, STALL, insist

_MARKS = ("VersionId", "version_id", "generation", "ETag", "etag", "content_md5", "Content-MD5", "md5Hash", "blob_id")
_TIMES = ("LastModified", "last_modified", "Last-Modified", "updated", "mtime", "modified", "created")
"""What file systems of fsspec call them."""

_OBJECTS = {"s3", "gs", "az"}
_PINNED = re.compile(r"hf://[^@]*@[0-9a-f]{40}(/|$)")


class Remote(Backend):
    """Whatever fsspec has a backend for. A mark is a version or an etag; else size and time of the last write."""

    def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        fs, path = _open(url)
        if length == 0:
            return b""
        end = None if length is None else start + length
        with guard("read", url):
            try:
                data = bytes(fs.cat_file(path, start=start or None, end=end))
            except FileNotFoundError:
                raise
            except Exception:
                # Most servers answer a range that starts past the end with an error: say which it is.
                if start >= _size_or(fs, path, start + 1):
                    raise CorruptError(
                        f"{url}: expected bytes from {start}, found only {start} bytes or fewer"
                    ) from None
                raise
        if length is None or len(data) == length:
            return data
        if len(data) > length:
            raise StoreError(
                f"cannot read {url}: {length} bytes from {start} were asked for and {len(data)} came: the server does "
                "not serve byte ranges; use one that does, or copy the set to a local disk"
            )
        if _size_or(fs, path, start + length) >= start + length:
            raise TransientError(f"cannot read {url}: {length} bytes from {start} were asked for, {len(data)} came")
        raise CorruptError(f"{url}: expected {length} bytes from {start}, found only {len(data)}")

    def info(self, url: str) -> Info | None:
        fs, path = _open(url)
        with guard("look for", url):
            # Not fs.exists(): it reads every error as "no", and a set that cannot be reached is not a missing set.
            try:
                found = fs.info(path)
            except FileNotFoundError as error:
                if not is_missing(error):
                    raise
                return None
            size = found.get("size")
            return Info(None if size is None else int(size), _mark(found))

    def list_names(self, url: str) -> list[str]:
        fs, path = _open(url)
        with guard("list", url):
            names = _listed(fs, path, detail=False)
        here = path.rstrip("/")
        found = {str(name).rstrip("/") for name in names}
        return sorted(name.rsplit("/", 1)[-1] for name in found if name != here)

    def list_files(self, url: str) -> dict[str, Info]:
        fs, path = _open(url)
        with guard("list", url):
            here, found = path.rstrip("/") + "/", {}
            for entry in _listed(fs, path, detail=True):
                # One folder after another: what a file system says of a file takes a kilobyte, here some hundred bytes.
                below = fs.find(entry["name"], detail=True) if entry["type"] == "directory" else {entry["name"]: entry}
                for name, seen in below.items():
                    # A web page links to more than what is below it; an object that ends with a slash marks a folder.
                    linked = url.startswith("http") and "?" in str(name)
                    if str(name).startswith(here) and not str(name).endswith("/") and not linked:
                        size = seen.get("size")
                        found[str(name)[len(here) :]] = Info(None if size is None else int(size), _mark(seen))
                fs.invalidate_cache()
        return found

    def remove(self, url: str) -> None:
        fs, path = _open(url)
        with guard("remove", url):
            try:
                fs.rm_file(path)
            except FileNotFoundError as error:
                if not is_missing(error):
                    raise

    def open_stream(self, url: str) -> BinaryIO:
        fs, path = _open(url)
        with guard("open", url):
            return guarded_reader(fs.open(path, "rb"), url)

    def put(self, url: str, data: bytes) -> None:
        fs, path = _open(url)
        with guard("write", url, f"{len(data):,} bytes"):
            _make_folder(fs, path)
            fs.pipe_file(path, data)

    def put_if_absent(self, url: str, data: bytes) -> bool:
        """Exactly one winner where the backend can create conditionally (s3 does); elsewhere a look, then a write."""
        if self.exists(url):
            return False
        fs, path = _open(url)
        with guard("write", url, f"{len(data):,} bytes"):
            _make_folder(fs, path)
            try:
                fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                status = status_of(error)
                if status == 412:
                    return False
                if status == 409:  # another one is writing it: who has won is known in a moment
                    raise TransientError(f"cannot write {url}: another writer is at it") from None
                raise
            except TypeError:  # a backend older than conditional creation
                fs.pipe_file(path, data)
        return True

    @contextmanager
    def atomic_file(self, url: str) -> Iterator[BinaryIO]:
        """Written to a local spool, then uploaded in one go: an upload appears when it is complete, or not at all."""
        _open(url)
        with spooled(url) as (file, spool):
            yield file
            file.flush()
            insist(lambda: _upload(url, spool, file.tell()), url)


REMOTE = Remote()


def _mark(found: Mapping[str, Any]) -> str | None:
    """A version or an etag of an object; else its size and the time of the last write; else None."""
    for name in _MARKS:
        if found.get(name):
            return f"{name} {found[name]}"
    for name in _TIMES:
        if found.get(name) and found.get("size") is not None:
            return f"{found['size']} bytes, {name} {found[name]}"
    return None


def _listed(fs: Any, path: str, detail: bool) -> list[Any]:
    """What a file system has in a folder; [] where there is none."""
    try:
        found: list[Any] = fs.ls(path, detail=detail)
    except FileNotFoundError as error:
        if not is_missing(error):
            raise
        return []
    return found


def _open(url: str) -> tuple[Any, str]:
    with guard("open", url):
        if url.startswith("pipe:"):
            raise StoreError(f"cannot open {url}: commands are not run; give a path or a URL")
        if url.startswith("hf://") and not _PINNED.match(url):
            raise InputError(
                f"{url}: expected a revision that cannot move, the 40 digits of a commit, as in "
                "hf://datasets/OWNER/NAME@0123456789abcdef0123456789abcdef01234567/SET; branches and tags do"
            )
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(url, **_time_outs(url))
        fs.invalidate_cache()
        return fs, str(path)


def _time_outs(url: str) -> dict[str, Any]:
    """Options that give a client our time-outs, and leave it to us to ask again; none where the user's configuration
    of fsspec has its own."""
    from fsspec.config import conf

    protocol = url.partition("://")[0]
    if protocol in ("http", "https") and "client_kwargs" not in conf.get(protocol, {}):
        import aiohttp

        return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(None, sock_connect=CONNECT, sock_read=STALL)}}
    if protocol in ("s3", "s3a") and "config_kwargs" not in conf.get(protocol, {}):
        return {
            "config_kwargs": {"connect_timeout": CONNECT, "read_timeout": STALL, "retries": {"total_max_attempts": 1}}
        }
    return {}


def _upload(url: str, spool: str, count: int) -> None:
    fs, path = _open(url)
    with guard("write", url, f"{count:,} bytes"):
        _make_folder(fs, path)
        fs.put_file(spool, path)


def _make_folder(fs: Any, path: str) -> None:
    # A file system needs its folder; an object store has none, and would be asked for its bucket each time.
    if _OBJECTS.isdisjoint([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol):
        with suppress(Exception):
            fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)


def _size_or(fs: Any, path: str, default: int) -> int:
    with suppress(Exception):
        return int(fs.info(path)["size"])
    return default
