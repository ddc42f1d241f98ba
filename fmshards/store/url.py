"""URLs as strings: joined, taken apart, and names that come from a file checked before they are joined."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from fmshards.errors import FormatError, StoreError

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
# A separator, a drive or chain mark, or a character that a URL or a glob reads as something other than itself.
_UNSAFE = frozenset('/\\:%?#*[]{}<>|"')
_LONGEST_NAME = 200


def is_local(url: str) -> bool:
    """True for a plain path and for file://, whatever the path holds."""
    return url.startswith(("file://", "local://")) or not (_SCHEME.match(url) or "::" in url or _is_pipe(url))


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
    base, query = _split_query(url)
    for part in parts:
        if base and not base.endswith("/"):
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


def safe_name(name: object, what: str) -> str:
    """`name`, if it is one plain file name; used on every name that a plan, manifest or index gives.

    Raises FormatError, naming `what`, for a name that would climb out of its folder ('..', absolute, backslash)
    or that a URL, a glob or a file system would read as something else.
    """
    if not isinstance(name, str):
        raise FormatError(f"{what}: expected a name, found {type(name).__name__}")
    bad = "".join(sorted(set(name) & _UNSAFE))
    if not name or len(name) > _LONGEST_NAME or name.startswith(".") or bad or not name.isprintable():
        raise FormatError(
            f"{what}: expected one plain file name of at most {_LONGEST_NAME} characters, with no leading dot and "
            f"none of {''.join(sorted(_UNSAFE))}, found {name[:80]!r}"
        )
    return name


def as_url(url: str | os.PathLike[str]) -> str:
    """A str or a path as the str that this room works on."""
    return os.fspath(url)


def _split_query(url: str) -> tuple[str, str]:
    if url.startswith(("http://", "https://")):
        base, mark, query = url.partition("?")
        return base, mark + query
    return url, ""


def _is_pipe(url: str) -> bool:
    return url.startswith("pipe:")
