"""URLs as strings: joined, taken apart, local or not."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from fmshards.errors import InputError, StoreError

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


def is_local(url: str) -> bool:
    """True for a plain path and for file://, whatever the path holds.

    `a::b` is a path; a chain of stores, as fsspec reads it, begins with a scheme and holds a URL:
    `simplecache::s3://bucket/set`. Raises InputError for what may be either.
    """
    if url.startswith(("file://", "local://", "/", "./", "../")):
        return True
    if _SCHEME.match(url) or _is_pipe(url):
        return False
    first, chained, rest = url.partition("::")
    if not chained:
        return True
    if _WORD.fullmatch(first) and "://" in rest:
        return False
    if "://" not in rest and not _is_protocol(first):
        return True
    raise InputError(
        f"{url}: may be a path, or a chain of stores; write ./{url} for the path, and for a chain its URL in full, "
        "as in simplecache::s3://bucket/set or simplecache::file:///folder"
    )


def absolute(url: str) -> str:
    """`url`; of a local path the absolute one, so that it stays right when the process goes to another folder."""
    return os.path.abspath(url) if is_local(url) and not url.startswith(("file://", "local://")) else url


def local_path(url: str) -> str:
    """The path of a local URL. Raises StoreError for a file:// URL of another host."""
    if not url.startswith(("file://", "local://")):
        return url
    host, slash, path = url.split("://", 1)[1].partition("/")
    if host not in ("", "localhost"):
        raise StoreError(f"{url}: a file:// URL must name this machine, found host {host!r}; write file:///path")
    return unquote(slash + path)


def join(url: str, *parts: str) -> str:
    """`url` and `parts` with one slash between each; a query (`?...` of http) stays at the end."""
    if not url:
        # What is joined to nothing is a path in the current folder: nobody meant to write there.
        raise InputError("an empty path: name a folder or a URL (. is the current folder)")
    base, query = _split_query(url)
    for part in parts:
        if not base.endswith("/"):
            base += "/"
        base += part.strip("/")
    return base + query


def parent(url: str) -> str:
    """The folder that holds `url`; of a path without a folder, `.`; of a root, the root."""
    base, query = _split_query(url)
    match = _SCHEME.match(base)
    root = match.end() if match else 0
    rest = base[root:].rstrip("/")
    head, slash, _ = rest.rpartition("/")
    if not slash:
        return base if match else ("/" if base.startswith("/") else ".")
    return base[:root] + (head or "/") + query


def _split_query(url: str) -> tuple[str, str]:
    if url.startswith(("http://", "https://")):
        base, mark, query = url.partition("?")
        return base, mark + query
    return url, ""


def _is_pipe(url: str) -> bool:
    return url.startswith("pipe:")


def _is_protocol(word: str) -> bool:
    """Whether fsspec knows a store of that name, so that `word::path` may be meant as a chain."""
    from fsspec.registry import known_implementations, registry

    return word in known_implementations or word in registry
