"""sources: where images come from, as input shards of samples in a fixed order.

base.py         what a source is: Item, Sample, the Source protocol
webdataset.py   tars in WebDataset's way, on a disk or at URLs; one input shard a tar
folder.py       a folder of class folders, in a seeded permutation
dataset.py      a map-style data set from Python
tar.py          a strict reader of tars
image_field.py  which member of a WebDataset sample is its image; names with dots
scan.py         what lies below a folder: links, odd names, archives among images
image.py        encoded bytes to an RGB image, turned as its EXIF says
classes.py      class names that are given, and labels held against them
content.py      stamps and digests: whether input is what it was
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fmshards import store
from fmshards.errors import InputError
from fmshards.extraction.sources.base import Item, Sample, Source
from fmshards.extraction.sources.classes import class_difference, read_classes
from fmshards.extraction.sources.dataset import DatasetSource
from fmshards.extraction.sources.folder import FolderSource
from fmshards.extraction.sources.image import ORIENTATIONS, check_orientation
from fmshards.extraction.sources.scan import archives
from fmshards.extraction.sources.webdataset import WebDatasetSource

_SHARD_SIZE = 4096

__all__ = [
    "ORIENTATIONS",
    "DatasetSource",
    "FolderSource",
    "Item",
    "Sample",
    "Source",
    "WebDatasetSource",
    "class_difference",
    "open_source",
    "read_classes",
]


def open_source(
    source: Any,
    *,
    shard_size: int | None = None,
    image_field: str | None = None,
    seed: int = 0,
    classes: Any = None,
    orientation: str = "apply",
) -> Source:
    """The source that `source` names.

    source: text or a path: a local folder of images (or of tars), else WebDataset shards (braces, globs, fsspec URLs);
        a list of texts or paths: WebDataset shards; any other object: a map-style data set.
    classes: class names in the order of their numbers, or the path or URL of a text file with one a line, or of a set
        whose classes are meant. A folder's classes get these numbers; the labels of other sources are held against
        them. None: a folder's own, sorted.
    orientation: what becomes of encoded images whose EXIF says that they lie on their side: "apply" turns them,
        "ignore" takes them as they lie, "refuse" raises InputError.

    Raises InputError, and StoreError where a shard is not there.
    """
    if shard_size is not None and shard_size < 1:
        raise InputError(f"shard_size is {shard_size}; expected 1 or more")
    names, orientation = read_classes(classes), check_orientation(orientation)
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if isinstance(source, str):
        folder = _folder(source)
        if folder is not None:
            source = archives(Path(folder))
            if not source:
                if image_field is not None:
                    raise InputError(f"image_field={image_field!r} has no meaning for a folder of images")
                size = shard_size or _SHARD_SIZE
                return FolderSource(folder, size, seed, classes=names, orientation=orientation)
    elif _texts(source):
        source = [os.fspath(url) for url in source]
    else:
        size = shard_size or _SHARD_SIZE
        return DatasetSource(source, size, image_field, classes=names, orientation=orientation)
    if shard_size is not None:
        raise InputError(
            "shard_size is given, but one shard comes from one input shard where the source is WebDataset tars; leave "
            "it out"
        )
    return WebDatasetSource(source, image_field, classes=names, orientation=orientation)


def _folder(source: str) -> str | None:
    """The local folder that `source` names, if it does."""
    if not source:
        raise InputError("the source is an empty text; expected a folder, tars or a data set")
    try:
        source.encode()
    except UnicodeEncodeError:
        raise InputError(f"the source {source!r} is not UTF-8, and cannot be kept in a plan; rename it") from None
    path = store.local_path(source) if store.is_local(source) else None
    return path if path is not None and os.path.isdir(path) else None


def _texts(source: Any) -> bool:
    return (
        isinstance(source, Sequence) and len(source) > 0 and all(isinstance(url, (str, os.PathLike)) for url in source)
    )
