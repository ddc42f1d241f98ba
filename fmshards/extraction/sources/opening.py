"""Which source is meant by what people write."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmshards import store
from fmshards.errors import InputError, StoreError, TransientError
from fmshards.extraction.sources.base import Source
from fmshards.extraction.sources.classes import read_classes
from fmshards.extraction.sources.dataset import DatasetSource
from fmshards.extraction.sources.folder import FolderSource
from fmshards.extraction.sources.image import check_orientation
from fmshards.extraction.sources.list_file import list_kind
from fmshards.extraction.sources.parquet import ParquetSource
from fmshards.extraction.sources.scan import archives, file_names, is_parquet, scan
from fmshards.extraction.sources.scan_store import scan_store
from fmshards.extraction.sources.url_list import ListSource
from fmshards.extraction.sources.webdataset import WebDatasetSource

_SHARD_SIZE = 4096


def open_source(
    source: Any,
    *,
    shard_size: int | None = None,
    image_field: str | None = None,
    seed: int = 0,
    classes: Any = None,
    orientation: str = "apply",
    fields: Collection[str] | None = None,
    drop_fields: Collection[str] = (),
) -> Source:
    """The source that `source` names.

    source: text or a path: a folder of images (or of tars or Parquet files), at a
        URL too where that can be listed and ends with a slash or has no extension; else WebDataset shards or Parquet
        files (braces, globs, fsspec URLs), or one file that lists URLs; a list of texts or paths of tars or Parquet
        files; any other object: a map-style data set.
    classes: class names in the order of their numbers, or the path or URL of a text file with one a line, or of a set
        whose classes are meant. A folder's classes get these numbers; the labels of other sources are held against
        them. None: a folder's own, sorted; of other sources those that they name themselves.
    orientation: what becomes of encoded images whose EXIF says that they lie on their side: "apply" turns them,
        "ignore" takes them as they lie, "refuse" raises InputError.
    fields, drop_fields: which fields will travel: columns of Parquet files that will not are not read.

    Raises InputError, and StoreError where a shard is not there.
    """
    if shard_size is not None and shard_size < 1:
        raise InputError(f"shard_size is {shard_size}; expected 1 or more")
    size = shard_size or _SHARD_SIZE
    names, orientation = read_classes(classes), check_orientation(orientation)
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if isinstance(source, str):
        folder = _folder(source)
        if folder is not None:
            source = archives(folder.url, folder.names, folder.images)
            if not source:
                if image_field is not None:
                    raise InputError(f"image_field={image_field!r} has no meaning for a folder of images")
                return FolderSource(folder.url, size, seed, classes=names, orientation=orientation)
    elif _texts(source):
        source = [os.fspath(url) for url in source]
    else:
        return DatasetSource(source, size, image_field, classes=names, orientation=orientation)
    urls = store.expand(source)
    lists = [url for url in urls if list_kind(url)]
    if lists:
        if len(urls) > 1:
            raise InputError(f"the source is {len(urls)} files, {lists[0]} among them; a list of URLs is given alone")
        return ListSource(urls[0], size, image_field, classes=names, orientation=orientation)
    tables = [url for url in urls if is_parquet(url)]
    if tables:
        if len(tables) < len(urls):
            other = next(url for url in urls if not is_parquet(url))
            raise InputError(
                f"the source names Parquet files ({tables[0]} ...) and others ({other} ...); name one kind"
            )
        return ParquetSource(
            urls, size, image_field, classes=names, orientation=orientation, fields=fields, drop_fields=drop_fields
        )
    if shard_size is not None:
        raise InputError(
            "shard_size is given, but one shard comes from one input shard where the source is WebDataset tars; leave "
            "it out"
        )
    return WebDatasetSource(urls, image_field, classes=names, orientation=orientation)


@dataclass(frozen=True)
class _Folder:
    """names: of what lies directly in it."""

    url: str
    names: list[str]

    def images(self) -> Collection[str]:
        return scan(Path(self.url)).images if store.is_local(self.url) else scan_store(self.url).images


def _folder(source: str) -> _Folder | None:
    """The folder that `source` names, if it does."""
    if not source:
        raise InputError("the source is an empty text; expected a folder, tars or a data set")
    try:
        source.encode()
    except UnicodeEncodeError:
        raise InputError(f"the source {source!r} is not UTF-8, and cannot be kept in a plan; rename it") from None
    if store.is_local(source):
        path = str(Path(store.local_path(source)))
        return _Folder(path, file_names(Path(path))) if os.path.isdir(path) else None
    if not _may_be_folder(source):
        return None
    try:
        names = store.list_names(source)
    except TransientError:
        raise
    except StoreError:  # who may read a tar may not be allowed to list
        if source.endswith("/"):
            raise
        return None
    if not names and source.endswith("/"):
        raise InputError(f"{source}: nothing is there; expected a folder of images, tars or Parquet files")
    return _Folder(source.rstrip("/"), names) if names else None


def _may_be_folder(url: str) -> bool:
    """Whether a URL looks like that of a folder: it ends with a slash, or its last name has no extension. A web server
    has files without one, so there the slash decides."""
    if any(mark in url for mark in "*{"):
        return False
    return url.endswith("/") or ("." not in url.rpartition("/")[2] and not url.startswith(("http://", "https://")))


def _texts(source: Any) -> bool:
    return (
        isinstance(source, Sequence) and len(source) > 0 and all(isinstance(url, (str, os.PathLike)) for url in source)
    )
