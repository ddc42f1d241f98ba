"""The images below a folder: every directory read once, and nothing left out without a word."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fmshards import store
from fmshards.errors import InputError, warn
from fmshards.extraction.sources.base import IMAGE_EXTENSIONS

Seen = tuple[int, str]
"""A file's size in bytes, and the times of its last writing and change in nanoseconds; of an object its mark, "" where
it has none."""
TARS = (".tar",)
PACKED_TARS = (".tar.gz", ".tgz")
PARQUET = ".parquet"


@dataclass
class Scan:
    """What lies below a folder, hidden names left out. Paths are relative to it, '/' between their parts.

    images: with size and time of change. folders: the names of the folders directly in it. others: files that are no
    images by their extension. again: links to folders that are read already, under another name or as a parent, or
    that hold this one.
    """

    images: dict[str, Seen] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)


def scan(root: Path) -> Scan:
    """Look at everything below `root`; links are followed.

    Raises InputError, naming the path, for a folder that cannot be read, a link to nothing, an image that is no plain
    file, and a name of an image or folder that is not UTF-8.
    """
    found = Scan()
    try:
        _walk(root, found)
    except OSError as error:
        raise InputError(f"{_shown(str(error.filename))} cannot be read: {error.strerror}") from None
    return found


def _walk(root: Path, found: Scan) -> None:
    # Real folders first: a folder keeps its own name where a link leads to it too.
    waiting, links = [""], list[str]()
    visited = {_identity(parent) for parent in root.resolve().parents}
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        here = _identity(root / folder)
        if here in visited:
            found.again.append(folder)
            continue
        visited.add(here)
        for path, entry in _entries(root, folder):
            if _is_folder(entry):
                _check_name(root, path)
                if not folder:
                    found.folders.append(path)
                (links if entry.is_symlink() else waiting).append(path)
            elif is_image(path):
                _check_name(root, path)
                if not entry.is_file():
                    raise InputError(f"{root / path} is no plain file; expected an image")
                seen = entry.stat()
                found.images[path] = seen.st_size, f"{seen.st_mtime_ns} {seen.st_ctime_ns}"
            else:
                found.others.append(path)


def _identity(folder: Path) -> tuple[int, int]:
    here = os.stat(folder)
    return here.st_dev, here.st_ino


def is_image(path: str) -> bool:
    """By its extension."""
    return path.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


def warn_left_out(root: str, found: Scan) -> None:
    """One warning for files that are no images, one for links to what is read already."""
    if found.others:
        warn(
            f"{root}: {len(found.others)} files are no images by their extension, such as {min(found.others)!r}; left "
            "out"
        )
    if found.again:
        warn(
            f"{root}: {len(found.again)} links lead to folders that are read already or hold this one, such as "
            f"{min(found.again)!r}; left out, so that no image comes twice"
        )


def archives(root: str, names: Sequence[str], images: Callable[[], Collection[str]]) -> list[str]:
    """The tars among the `names` directly in the folder `root`, or where there is none, those packed with gzip; else
    the Parquet files, where no image lies in the folder or below.

    images: finds these. Raises InputError where tars lie beside images or Parquet files: which is meant cannot be told.
    """
    tars = [name for name in names if name.endswith(TARS)]
    packed = [name for name in names if name.endswith(PACKED_TARS)]
    tables = [name for name in names if is_parquet(name)]
    if not tars and not packed:
        return [] if not tables or images() else [store.join(root, name) for name in tables]
    found, archive = images(), (tars or packed)[0]
    if found or tables:
        name, below, _ = (min(found) if found else tables[0]).partition("/")
        what = "images in class folders" if below else "images" if found else "Parquet files"
        raise InputError(
            f"{root} holds tars ({archive!r} ...) and {what} ({name!r} ...); expected one or the other: move the "
            f"archive out of the folder to read the {what.partition(' in')[0]}, or name the tars "
            f"({store.join(root, '*.tar')!r}) to read these"
        )
    if tars and packed:
        warn(
            f"{root}: {len(packed)} tars packed with gzip lie beside plain ones, such as {packed[0]!r}; left out: name "
            "all tars to read them too"
        )
    return [store.join(root, name) for name in tars or packed]


def file_names(root: Path) -> list[str]:
    """What lies directly in a local folder and is no folder, sorted; hidden names left out."""
    return [path for path, entry in _entries(root, "") if not _is_folder(entry)]


def is_parquet(url: str) -> bool:
    """By its extension."""
    return without_query(url).endswith(PARQUET)


def without_query(url: str) -> str:
    """A URL without what follows a question mark, which http alone knows."""
    return url.partition("?")[0] if url.startswith(("http://", "https://")) else url


def _entries(root: Path, folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(path, entry) of what is in a folder and not hidden, sorted by name."""
    try:
        with os.scandir(root / folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"the folder {_shown(str(root / folder))} cannot be read: {error.strerror}") from None
    for entry in found:
        yield (f"{folder}/{entry.name}" if folder else entry.name), entry


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Raises InputError for a link that leads nowhere."""
    try:
        if entry.is_symlink():
            os.stat(entry.path)
        return entry.is_dir()
    except OSError as error:
        raise InputError(
            f"{_shown(entry.path)} is a link that leads nowhere ({error.strerror}); put back what it names, or remove "
            "the link"
        ) from None


def _check_name(root: Path, path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{_shown(str(root / path))}: the name is not UTF-8, and cannot be a key or a class; rename it"
        ) from None


def _shown(path: str) -> str:
    """A path for a message: bytes that are no UTF-8 as \\xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
