"""sources: where images come from, as input shards of samples in a fixed order.

base.py         what a source is: Item, Sample, the Source protocol
opening.py      which source is meant by what people write
webdataset.py   tars in WebDataset's way, on a disk or at URLs; one input shard a tar
parquet.py      Parquet files with a column of images; an input shard is some row groups of a file
parquet_file.py a Parquet file's footer and rows, read through the store
columns.py      which column is the image, which are fields; class names of Hugging Face's metadata
url_list.py     a file that lists the URLs of images; an input shard is some of its rows
list_check.py   a whole list read once: where shards begin, what labels are, what cannot be an item
list_file.py    such a file, as rows: text, CSV, TSV, JSON-lines
folder.py       a folder of class folders, on a disk or in a store, in a seeded permutation
dataset.py      a map-style data set from Python
tar.py          a strict reader of tars
image_field.py  which member of a WebDataset sample is its image; names with dots
scan.py         what lies below a folder: links, odd names, archives among images
scan_store.py   the same of a folder in a store
fetch.py        files of a store read side by side
image.py        encoded bytes to an RGB image, turned as its EXIF says
classes.py      class names that are given, and labels held against them
content.py      stamps and digests: whether input is what it was
"""

from __future__ import annotations

from fmshards.extraction.sources.base import Item, Sample, Source
from fmshards.extraction.sources.classes import class_difference, read_classes
from fmshards.extraction.sources.dataset import DatasetSource
from fmshards.extraction.sources.folder import FolderSource
from fmshards.extraction.sources.image import ORIENTATIONS
from fmshards.extraction.sources.opening import open_source
from fmshards.extraction.sources.parquet import ParquetSource
from fmshards.extraction.sources.url_list import ListSource
from fmshards.extraction.sources.webdataset import WebDatasetSource

__all__ = [
    "ORIENTATIONS",
    "DatasetSource",
    "FolderSource",
    "Item",
    "ListSource",
    "ParquetSource",
    "Sample",
    "Source",
    "WebDatasetSource",
    "class_difference",
    "open_source",
    "read_classes",
]
