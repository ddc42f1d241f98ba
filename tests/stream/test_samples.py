"""open_shards: one sample by its number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmshards.errors import FormatError, InputError
from fmshards.stream import open_shards
from tests.sets import BuiltSet


def test_every_sample(flipped: BuiltSet) -> None:
    samples = open_shards(flipped.url)
    assert len(samples) == 73
    assert samples.keys() == flipped.keys
    for i, sample in enumerate(samples):
        assert sample["__key__"] == flipped.keys[i]
        assert sample["cls"] == flipped.classes[i]
        assert np.array_equal(sample["layer2"].numpy(), flipped.features["layer2"]["base"][i])
    assert samples[-1]["__key__"] == flipped.keys[-1]
    assert [sample["__key__"] for sample in samples[24:27]] == flipped.keys[24:27]
    assert samples[np.int64(30)]["__url__"] == f"{flipped.url}/layer2/000001.tar"
    assert "layer2" not in open_shards(flipped.url, "layer3")[0]


def test_mirror_and_views(viewed: BuiltSet, mapped: BuiltSet) -> None:
    sample = open_shards(viewed.url).sample(40, "mirror", 3)
    assert np.array_equal(sample["layer2"].numpy(), viewed.features["layer2"]["mirror"][40])
    assert np.array_equal(sample["layer2.view"].numpy(), viewed.features["layer2"]["view3"][40])
    assert viewed.theta is not None
    assert np.array_equal(sample["theta"].numpy(), viewed.theta[40, 2])
    samples = open_shards(mapped.url)
    assert not torch.equal(samples.sample(3, "mirror")["layer2"], samples[3]["layer2"])


def test_what_is_not_there(flipped: BuiltSet, plain: BuiltSet, tmp_path) -> None:
    samples = open_shards(flipped.url)
    for i in (73, -74):
        with pytest.raises(IndexError):
            samples[i]
    with pytest.raises(InputError, match="no view 1; it has 0 views"):
        samples.sample(0, view=1)
    with pytest.raises(InputError, match="no reference 'mirror'; it has base"):
        open_shards(plain.url).sample(0, "mirror")
    with pytest.raises(FormatError, match="no shard set here"):
        open_shards(str(tmp_path))
    with pytest.raises(InputError, match="no layer"):
        open_shards(flipped.url, "layer9")
