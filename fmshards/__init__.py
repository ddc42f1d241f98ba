"""Run the frozen part of a network once, keep its features in shards, train the rest from them.

The names below are loaded on first use: importing `fmshards` alone imports no torch, so that the command line
answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmshards.codec.report import doctor as doctor
    from fmshards.extraction import extract as extract
    from fmshards.extraction import plan as plan
    from fmshards.extraction.verify import verify as verify
    from fmshards.model import cuts as cuts
    from fmshards.model import split as split
    from fmshards.reader.inspection import inspect as inspect
    from fmshards.stream import FeatureDataset as FeatureDataset
    from fmshards.stream import FeatureDecoder as FeatureDecoder
    from fmshards.stream import bench as bench
    from fmshards.stream import decode_chunks as decode_chunks
    from fmshards.stream import loader as loader
    from fmshards.stream import open_shards as open_shards

__version__ = "0.1.0"

_HOME = {
    "cuts": "fmshards.model",
    "split": "fmshards.model",
    "extract": "fmshards.extraction",
    "plan": "fmshards.extraction",
    "verify": "fmshards.extraction",
    "inspect": "fmshards.reader.inspection",
    "doctor": "fmshards.codec.report",
    "FeatureDataset": "fmshards.stream",
    "FeatureDecoder": "fmshards.stream",
    "loader": "fmshards.stream",
    "bench": "fmshards.stream",
    "open_shards": "fmshards.stream",
    "decode_chunks": "fmshards.stream",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fmshards' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
