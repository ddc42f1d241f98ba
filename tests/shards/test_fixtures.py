"""Sets written by an earlier version are read whole, and verify."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fmshards.extraction import verify
from fmshards.reader.catalog import Catalog, open_catalog
from fmshards.reader.fetch import Fetcher
from fmshards.shards import layer_url, read_index
from fmshards.stream import FeatureDataset, open_shards

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
SETS = ["set-mirror", "set-views"]


def _catalog(name: str) -> Catalog:
    return open_catalog(str(FIXTURES / name))


@pytest.mark.parametrize("name", SETS)
def test_an_old_set_is_sound(name: str) -> None:
    report = verify(str(FIXTURES / name))
    assert report.problems == ()
    assert report.shards == 4


@pytest.mark.parametrize("name", SETS)
def test_every_chunk_is_read_in_every_combination(name: str) -> None:
    catalog = _catalog(name)
    fetcher, chunks = Fetcher(catalog), len(catalog.sizes)
    for combination in catalog.combinations:
        found = [fetcher.fetch(chunk, combination) for chunk in range(chunks)]
        assert sum(each.n for each in found) == catalog.manifest.samples
    for layer in catalog.layers:
        for entry in catalog.manifest.shards[layer.name]:
            assert read_index(layer_url(catalog.url, layer.name, entry.name), entry).input is None


@pytest.mark.parametrize("name", SETS)
def test_every_sample_comes_out_of_a_loader(name: str) -> None:
    url = str(FIXTURES / name)
    samples = open_shards(url)
    keys: list[str] = []
    for batch in FeatureDataset(url, batch_size=8, train=False):
        valid = batch["valid"].tolist()
        keys += [key for key, real in zip(batch["__key__"], valid, strict=True) if real]
        for layer in samples.catalog.layers:
            assert torch.isfinite(batch[layer.name]).all()
    assert keys == samples.keys()
    assert len(keys) == samples.catalog.manifest.samples
