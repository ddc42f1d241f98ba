from __future__ import annotations

from pathlib import Path

import pytest

from fmshards.shards import Manifest
from tests.shards.build import write_set


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A whole set of two layers and two shards each; read only."""
    folder = tmp_path_factory.mktemp("set")
    return folder, write_set(folder)
