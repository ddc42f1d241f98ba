"""An object store for a test, and no client of it left behind."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest

from fmshards.store import clients
from tests.servers import S3


def forget_clients() -> None:
    """Clients are made once a process and know their server: those of a server that is no more are dropped."""
    from s3fs import S3FileSystem

    clients._clients.clear()
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """An S3-compatible store, which this process finds by its environment."""
    pytest.importorskip("s3fs", reason="fsspec reads s3 through s3fs")
    server = S3(tmp_path / "s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.kill()
    forget_clients()
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # it keeps the environment that it was started in
