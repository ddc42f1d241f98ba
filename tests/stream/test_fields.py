"""Fields as a loader serves them; a field that would harm a loader is an error there, never a wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from fmshards.errors import FormatError
from fmshards.shards import field_value
from fmshards.stream import FeatureDataset, open_shards
from tests.sets import build_set
from tests.stream.helpers import error_of


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that refuses nothing that a meta can hold, as other programs' may be."""
    monkeypatch.setattr("fmshards.shards.writer.readable_value", lambda name, value, where: field_value(value))
    monkeypatch.setattr("fmshards.shards.writer.check_served", lambda names, layers, prefix: None)
    monkeypatch.setattr("fmshards.shards.writer.ShardWriter._check_labels", lambda *args: None)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_field_of_600_levels_ends_a_loader_with_an_error(tmp_path: Path, unchecked: None, workers: int) -> None:
    built = build_set(tmp_path / "set", samples=(8,), chunk=4, fields={"json": [b"[" * 600 + b"]" * 600] * 8})
    batches = DataLoader(
        FeatureDataset(built.url, batch_size=4), None, num_workers=workers, timeout=30 if workers else 0
    )
    message = error_of(FormatError, batches)
    assert "000000.tar" in message
    assert "sample 's0_0000': field 'json' cannot be read as json: it is nested too deeply" in message


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        ([float(i) / 2 for i in range(8)], torch.float32),
        ([[i, 1] for i in range(8)], torch.int64),
        ([[i / 2, 1.0, 0.0] for i in range(8)], torch.float32),
        ([b"%d" % i for i in range(8)], torch.int64),
    ],
)
def test_labels_of_any_numeric_kind_are_tensors(
    tmp_path: Path, labels: list[Any], dtype: torch.dtype, workers: int
) -> None:
    built = build_set(tmp_path / "set", samples=(8,), chunk=4, fields={"cls": labels, "weight": [0.5] * 8})
    data = FeatureDataset(built.url, batch_size=3, train=False)
    found = list(DataLoader(data, None, num_workers=workers))
    cls = torch.cat([batch["cls"][batch["valid"]] for batch in found])
    assert cls.dtype == dtype
    assert cls.tolist() == [int(v) if isinstance(v, bytes) else v for v in labels]
    assert found[0]["weight"] == [0.5] * 3


def test_labels_of_text_are_lists(tmp_path: Path) -> None:
    built = build_set(tmp_path / "set", samples=(8,), chunk=4, fields={"cls": ["cat", "dog"] * 4})
    assert next(iter(FeatureDataset(built.url, batch_size=4, train=False)))["cls"] == ["cat", "dog"] * 2
    assert open_shards(built.url)[1]["cls"] == "dog"


def test_chunks_with_labels_of_other_kinds_are_refused(tmp_path: Path, unchecked: None) -> None:
    """No writer makes them: a batch would have another dtype than the one before it."""
    built = build_set(tmp_path / "set", samples=(8,), chunk=4, fields={"cls": [1, 2, 3, 4, 0.5, 1.5, 2.5, 3.5]})
    with pytest.raises(FormatError, match=r"chunk 1: its field 'cls' holds float32 \[\], other chunks .* int64 \[\]"):
        list(FeatureDataset(built.url, batch_size=8, train=False))


def test_a_field_with_a_batch_s_own_name(tmp_path: Path) -> None:
    built = build_set(tmp_path / "set", samples=(8,), chunk=4, fields={"layer2.rows": [1] * 8, "theta": [2] * 8})
    (batch,) = FeatureDataset(built.url, batch_size=8, train=False, decode=False)
    assert batch["layer2.rows"].dtype == torch.uint8
    assert batch["theta"].shape == (8, 2, 3)
    assert (batch["field.layer2.rows"], batch["field.theta"]) == ([1] * 8, [2] * 8)
    assert open_shards(built.url)[0]["field.theta"] == 2


def test_fields_that_collide_are_not_dropped(tmp_path: Path, unchecked: None) -> None:
    built = build_set(tmp_path / "set", samples=(8,), chunk=4, fields={"theta": [1] * 8, "field.theta": [2] * 8})
    for read in (lambda: list(FeatureDataset(built.url, batch_size=4)), lambda: open_shards(built.url)[0]):
        with pytest.raises(FormatError, match=r"000000\.tar.*the field 'theta' would be 'field.theta' in a batch"):
            read()
