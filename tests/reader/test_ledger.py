"""The ledger: each bad chunk once, whoever finds it, and told when the run ends."""

from __future__ import annotations

import json
import logging
import multiprocessing
import pickle

import pytest

from fmshards.errors import CorruptError
from fmshards.reader import Catalog, Ledger, ledger, open_catalog
from tests.sets import build_set


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return open_catalog(build_set(tmp_path_factory.mktemp("sets") / "set", samples=(9, 8), chunk=4).url)


def _add(shared: Ledger, catalog: Catalog, chunk: int) -> None:
    shared.add(catalog, chunk, f"chunk {chunk} is bad")


@pytest.mark.parametrize("way", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_write_into_one(catalog: Catalog, way: str) -> None:
    shared, context = Ledger(), multiprocessing.get_context(way)
    workers = [context.Process(target=_add, args=(shared, catalog, chunk)) for chunk in (1, 3, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = sorted(shared.entries(), key=lambda entry: int(entry["chunk"]))
    assert found == [
        {"chunk": 1, "shard": "000000.tar", "samples": [4, 8], "error": "chunk 1 is bad"},
        {"chunk": 3, "shard": "000001.tar", "samples": [9, 13], "error": "chunk 3 is bad"},
    ]
    kept = shared.entries()  # in the order of discovery
    assert Ledger(json.loads(json.dumps(kept))).entries() == pickle.loads(pickle.dumps(shared)).entries() == kept


def test_long_errors_are_cut_and_a_full_ledger_is_an_error(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_MOST", 2)
    full = Ledger()
    full.add(catalog, 0, "é" * 3000)
    full.add(catalog, 1, "short")
    first, second = full.entries()
    assert first["error"].startswith("ééé")
    assert first["error"].endswith(" ...")
    assert second["error"] == "short"
    with pytest.raises(CorruptError, match="2 chunks are bad already"):
        full.add(catalog, 2, "too much")


def test_the_end_of_a_run_tells(catalog: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    told = Ledger()
    told.tell_at_end()
    told.add(catalog, 2, "000002.base.raw: checksum")
    with caplog.at_level(logging.WARNING, "fmshards"):
        caplog.clear()
        del told
    (line,) = caplog.messages
    assert line.startswith("1 bad chunks, 1 samples, were left out of this run: 2 (000000.tar)")
