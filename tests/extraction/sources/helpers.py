"""What the tests of sources share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fmshards.extraction.sources import Item, Source

from ..conftest import png


def items(source: Source, shard: int = 0) -> list[Item]:
    return list(source.items(shard))


def make_folder(root: Path, names: Iterable[str]) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(i))
    return root
