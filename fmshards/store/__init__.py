"""store: bytes at a URL.

Plain functions. A local path or `file://` URL is read and written by plain `open()` (12 times faster than an
object-store client's local backend); every other URL goes through fsspec, imported on first use. Reads are exact:
the bytes asked for, or an error. Writes are whole: a temporary file, fsync and an atomic rename, or one upload
that appears when it is complete. Every error of a backend becomes a StoreError, which pickles.

    url.py     joining URLs, local or not, names that must not climb out of a set
    guard.py   a backend's errors in our words
    local.py   the functions on local files
    remote.py  the same functions through fsspec
    api.py     picks one of the two for each call
    expand.py  braces and globs of input URLs
"""

from __future__ import annotations

from fmshards.store.api import (
    atomic_file,
    exists,
    list_names,
    open_stream,
    put,
    put_if_absent,
    read,
    read_small,
    remove,
    size,
)
from fmshards.store.expand import expand
from fmshards.store.url import is_local, join, local_path, parent, safe_name

__all__ = [
    "atomic_file",
    "exists",
    "expand",
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
    "safe_name",
    "size",
]
