"""store: bytes at a URL.

Plain functions, each of which asks the Backend of its URL. A local path or `file://` URL is read and written by plain
`open()` (12 times faster than an object-store client's local backend); every other URL goes through fsspec, imported
on first use. Reads are exact: the bytes asked for, or an error. Writes are whole: a temporary file, fsync and an
atomic rename, or one upload that appears when it is complete. Every error of a backend becomes a StoreError, which
pickles; where asking again may help, that is done first.

Who streams a set opens an `Access`: Cached(Retrying(Objects)), a backend of which every layer is another backend's.

    backend.py   what a store is: an object of a few functions, which another may wrap (`wrapped`)
    local.py     local files
    remote.py    everything else, through fsspec
    objects.py   ranges of objects, through obstore
    clients.py   obstore's clients, and where there are none
    haste.py     how long a single answer may take
    retry.py     asking again, for a while
    cache.py     ranges kept on a local disk
    access.py    what a set is streamed through
    publish.py   local files that appear whole; what killed writers leave
    url.py       joining URLs, local or not
    guard.py     a backend's errors in our words
    api.py       the functions, and which backend serves a URL
    expand.py    braces and globs of input URLs
"""

from __future__ import annotations

from fmshards.store.access import Access, access_of
from fmshards.store.api import (
    atomic_file,
    backend,
    exists,
    info,
    list_files,
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
from fmshards.store.backend import Backend, Info, Passing
from fmshards.store.clients import prepare
from fmshards.store.expand import expand
from fmshards.store.retry import until
from fmshards.store.url import absolute, is_local, join, local_path, parent

__all__ = [
    "Access",
    "Backend",
    "Info",
    "Passing",
    "absolute",
    "access_of",
    "atomic_file",
    "backend",
    "exists",
    "expand",
    "info",
    "is_local",
    "join",
    "list_files",
    "list_names",
    "local_path",
    "open_stream",
    "parent",
    "prepare",
    "put",
    "put_if_absent",
    "read",
    "read_small",
    "remove",
    "size",
    "until",
    "wrapped",
]
