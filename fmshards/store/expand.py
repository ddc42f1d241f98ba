"""Input URLs as people write them: `train-{000000..000099}.tar`, `photos/*.tar`, or a list of such."""

from __future__ import annotations

import errno
import glob
import itertools
import os
import re
from collections.abc import Sequence

from fmshards.errors import InputError
from fmshards.store.api import list_names
from fmshards.store.guard import guard
from fmshards.store.url import is_local, local_path

_MOST_URLS = 1_000_000
_RANGE = re.compile(r"\{(-?\d{1,99})\.\.(-?\d{1,99})")


def expand(urls: str | Sequence[str]) -> list[str]:
    """Every URL meant, in order: braces expanded, then globs (sorted); in a store those of names in one folder.

    Raises InputError where a local path or a glob matches nothing, braces do not close, or the list is empty.
    """
    patterns = [urls] if isinstance(urls, str) else list(urls)
    found = [url for pattern in patterns for braced in _braces(str(pattern)) for url in _globs(braced)]
    if not found:
        raise InputError("expected at least one URL, found none")
    return found


def _braces(pattern: str) -> list[str]:
    if "{" not in pattern or _is_there(pattern):
        return [pattern]
    import braceexpand

    # braceexpand lists a range before it yields from it: look at its length first.
    longest = max((abs(int(b) - int(a)) for a, b in _RANGE.findall(pattern)), default=0)
    if longest >= _MOST_URLS:
        raise InputError(f"{pattern}: expected at most {_MOST_URLS:,} URLs, found a range of {longest + 1:,}")
    try:
        found = list(itertools.islice(braceexpand.braceexpand(pattern), _MOST_URLS + 1))
    except ValueError as error:
        raise InputError(f"{pattern}: the braces cannot be read: {error}; write {{000000..000099}}") from None
    if len(found) > _MOST_URLS:
        raise InputError(f"{pattern}: expected at most {_MOST_URLS:,} URLs, found more")
    return found


def _globs(url: str) -> list[str]:
    if not url:
        raise InputError("an empty path among the URLs: name a file, a folder or a URL")
    if _is_there(url):
        return [url]
    if not is_local(url):
        return _matching(url) if "*" in url else [url]
    path = local_path(url)
    found = sorted(glob.glob(path)) if glob.has_magic(path) else []
    if not found:
        # glob passes over what it may not look into: that is said, and not taken for an empty folder.
        _is_there(_plain_folder(path))
        raise InputError(f"{url}: nothing is there")
    return found


def _matching(url: str) -> list[str]:
    """What lies in a store's folder under names of the form of `url`'s last piece, sorted."""
    folder, _, form = url.rpartition("/")
    if "*" in folder or "?" in form:
        raise InputError(
            f"{url}: of URLs * is read in the last name only, and without a query; name the files by braces, as "
            "{000000..000099}"
        )
    pattern = re.compile(".*".join(map(re.escape, form.split("*"))), re.DOTALL)
    found = [f"{folder}/{name}" for name in list_names(folder) if pattern.fullmatch(name)]
    if not found:
        raise InputError(f"{url}: nothing is there")
    return found


def _plain_folder(path: str) -> str:
    """The folder above the first piece of a path that is a glob, as something that must be looked into: with /. ."""
    pieces = path.split("/")
    first = next((i for i, piece in enumerate(pieces) if glob.has_magic(piece)), len(pieces) - 1)
    return "/".join([*pieces[:first], "."])


def _is_there(url: str) -> bool:
    """Whether a local path is there as it stands. Raises StoreError where that cannot be told."""
    if not is_local(url):
        return False
    with guard("look for", url):
        try:
            os.stat(local_path(url))
        except OSError as error:
            # A pattern may be longer than a name can be, or go through a file.
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
            return False
        return True
