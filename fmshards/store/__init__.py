"""store: bytes at a URL.

Plain functions, each of which asks the Backend of its URL. A local path or `file://` URL is read and written by plain
`open()` (12 times faster than an object-store client's local backend); every other URL goes through fsspec, imported
on first use. Reads are exact:
the bytes asked for, or an error. Writes are whole: a temporary file, fsync and an atomic rename, or one upload
that appears when it is complete. Every error of a backend becomes a StoreError, which pickles.

    backend.py   what a store is: an object of a few functions, which another may wrap (`wrapped`)
    local.py     local files
    remote.py    everything else, through fsspec
    publish.py   local files that appear whole; what killed writers leave
    url.py       joining URLs, local or not
    guard.py     a backend's errors in our words
    api.py       the functions, and which backend serves a URL
    expand.py    braces and globs of input URLs
"""

from __future__ import annotations

from fmshards.store.api import (
    atomic_file,
    backend,
    exists,
    info,
    list_names,
    open_stream,
    put,
    put_if_absent,
    read,
    read_small,
    remove,
    size,
    wrapped,
)
from fmshards.store.backend import Backend, Info
from fmshards.store.expand import expand
from fmshards.store.url import absolute, is_local, join, local_path, parent

__all__ = [
    "Backend",
    "Info",
    "absolute",
    "atomic_file",
    "backend",
    "exists",
    "expand",
    "info",
    "is_local",
    "join",
    "list_names",
    "local_path",
    "open_stream",
    "parent",
    "put",
    "put_if_absent",
    "read",
    "read_small",
    "remove",
    "size",
    "wrapped",
]
