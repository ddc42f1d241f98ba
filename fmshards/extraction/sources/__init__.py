"""Where the images come from: WebDataset tars, a folder of class folders, a map-style data set; one file each."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from typing import Any

from fmshards.errors import InputError
from fmshards.extraction.sources.base import Item, Sample, Source
from fmshards.extraction.sources.dataset import DatasetSource
from fmshards.extraction.sources.folder import FolderSource
from fmshards.extraction.sources.webdataset import WebDatasetSource

DEFAULT_SHARD_SIZE = 4096

__all__ = ["DEFAULT_SHARD_SIZE", "DatasetSource", "FolderSource", "Item", "Sample", "Source", "WebDatasetSource"]


def open_source(source: Any, *, shard_size: int | None = None, image_field: str | None = None, seed: int = 0) -> Source:
    """The source that `source` names.

    Text or a path: a local folder of images (or of tars), else WebDataset shards (braces, globs, fsspec URLs); a list
    of texts: WebDataset shards; any other object: a map-style data set. Raises InputError.
    """
    if shard_size is not None and shard_size < 1:
        raise InputError(f"shard_size is {shard_size}; expected 1 or more")
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if isinstance(source, str):
        local = source[len("file://") :] if source.startswith("file://") else source
        if os.path.isdir(local):
            source = sorted(glob.glob(os.path.join(glob.escape(local), "*.tar")))
            if not source:
                if image_field is not None:
                    raise InputError(f"image_field={image_field!r} has no meaning for a folder of images")
                return FolderSource(local, shard_size or DEFAULT_SHARD_SIZE, seed)
    elif not _texts(source):
        return DatasetSource(source, shard_size or DEFAULT_SHARD_SIZE, image_field)
    if shard_size is not None:
        raise InputError(
            "shard_size is given, but one shard comes from one input shard where the source is WebDataset tars; leave "
            "it out"
        )
    return WebDatasetSource(source, image_field)


def _texts(source: Any) -> bool:
    return isinstance(source, Sequence) and len(source) > 0 and all(isinstance(url, str) for url in source)
