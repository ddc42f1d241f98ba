"""reader: the verified rows of a set, for whoever reads one: the stream, `verify`, and what comes.

It knows layers, chunks and streams of rows, and nothing of batches, epochs or training.

serving.py      what recipes a set can serve, its own left aside
catalog.py      what is known of a set before a shard is read; the set opened, its claims and its model checked
calibrated.py   what calibration left: each layer's fill and its map to the mirror
inspection.py   a set in a few plain numbers, for a person
ledger.py       chunks that were bad and left out, written down for all processes of a run
fetch.py        chunks read, verified, ahead of their use: the one place where reading a chunk can fail
"""

from __future__ import annotations

from fmshards.reader.calibrated import read_calibrated
from fmshards.reader.catalog import PLAIN, Catalog, Combination, layer_names, open_catalog
from fmshards.reader.fetch import Fetched, Fetcher, read_ahead
from fmshards.reader.ledger import Ledger, check_entries

__all__ = [
    "PLAIN",
    "Catalog",
    "Combination",
    "Fetched",
    "Fetcher",
    "Ledger",
    "check_entries",
    "layer_names",
    "open_catalog",
    "read_ahead",
    "read_calibrated",
]
