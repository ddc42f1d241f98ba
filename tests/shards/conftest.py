from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fmshards import store
from fmshards.shards import Manifest, layer_url, read_index
from fmshards.shards.envelope import unseal
from tests.shards.build import write_set


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A whole set of two layers and two shards each; read only."""
    folder = tmp_path_factory.mktemp("set")
    return folder, write_set(folder)


@pytest.fixture(scope="session")
def parts(small_set: tuple[Path, Manifest]) -> dict[str, Any]:
    """What is in the index and in a meta of the set's first shard, and where the index lies."""
    url = layer_url(str(small_set[0]), "layer2", "000000.tar")
    entry = small_set[1].shards["layer2"][0]
    index = read_index(url, entry)
    raw = store.read(url, entry.index_offset, entry.index_length)
    offset, length, _ = index.chunks[0].members["meta"]
    return {"index": unseal(raw, ""), "offset": entry.index_offset, "meta": unseal(store.read(url, offset, length), "")}
