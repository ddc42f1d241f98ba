"""What a worker sends is what it made; only what is large goes through shared memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fmshards
from fmshards.codec import FeatureSpec
from tests.sets import build_set


@pytest.mark.parametrize(
    ("side", "dtype", "shared"), [(32, "float32", True), (4, "float32", False), (4, "bfloat16", True)]
)
def test_small_tensors_go_in_the_message(tmp_path: Path, side: int, dtype: str, shared: bool) -> None:
    """numpy, which carries them, has no bfloat16."""
    built = build_set(tmp_path / "set", samples=(40,), chunk=8, kind=FeatureSpec("map", (4, side, side)))
    options = {"batch_size": 8, "dtype": dtype, "groups": 1}
    there, here = (fmshards.loader(built.url, num_workers=workers, **options) for workers in (1, 0))
    for sent, made in zip(there, here, strict=True):
        assert type(sent) is dict
        assert list(sent) == list(made)
        for name, value in made.items():
            if not isinstance(value, torch.Tensor):
                assert sent[name] == value
                continue
            assert sent[name].dtype == value.dtype
            assert torch.equal(sent[name], value)
            assert sent[name].is_shared() == (shared and name == "layer2")
            sent[name].zero_()  # it is the loop's own
