"""decode_chunks in hand-built WebDataset pipelines."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import webdataset as wds

from fmshards.errors import FormatError, InputError
from fmshards.stream import FeatureDataset, decode_chunks
from tests.sets import BuiltSet, build_set

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def urls(built: BuiltSet, layer: str = "layer2") -> list[str]:
    return sorted(map(str, (built.path / layer).glob("*.tar")))


def pipeline(built: BuiltSet, *stages, layer: str = "layer2", **options) -> wds.DataPipeline:
    return wds.DataPipeline(
        wds.SimpleShardList(urls(built, layer)), wds.split_by_worker, decode_chunks(**options), *stages
    )


def test_samples_are_the_sets(flipped: BuiltSet) -> None:
    samples = list(pipeline(flipped, augment=False))
    assert [sample["__key__"] for sample in samples] == flipped.keys
    for row, sample in enumerate(samples):
        assert np.array_equal(sample["layer2"].numpy(), flipped.features["layer2"]["base"][row])
        assert sample["cls"] == flipped.classes[row]
        assert sample["__url__"] in urls(flipped)
        assert sample["layer2"].untyped_storage().nbytes() == 4 * 8**3


def test_augmented_as_the_data_set_does(flipped: BuiltSet) -> None:
    for epoch in (0, 3):
        ours = {}
        for batch in FeatureDataset(flipped.url, batch_size=73, seed=5, epoch=epoch):
            ours = dict(zip(batch["__key__"], batch["layer3"], strict=True))
        for sample in pipeline(flipped, layer="layer3", seed=5, epoch=epoch):
            assert torch.equal(sample["layer3"], ours[sample["__key__"]])


def test_views(viewed: BuiltSet) -> None:
    stage = decode_chunks()
    source = [{"url": url} for url in urls(viewed)]
    shown = [{sample["__key__"]: sample["view"] for sample in stage(iter(source))} for _ in range(4)]
    assert all(sorted(epoch[key] for epoch in shown) == [1, 2, 3, 4] for key in viewed.keys)


def test_layers_side_by_side(flipped: BuiltSet) -> None:
    for sample in pipeline(flipped, layers=["layer2", "layer3"], dtype=torch.float16):
        assert sample["layer2"].dtype == sample["layer3"].dtype == torch.float16


def test_any_stage_may_follow(flipped: BuiltSet) -> None:
    batches = list(
        pipeline(
            flipped,
            wds.shuffle(100),
            wds.decode(partial=True),
            wds.to_tuple("layer2", "cls", "__key__"),
            wds.batched(16, partial=True),
        )
    )
    assert [len(batch[2]) for batch in batches] == [16, 16, 16, 16, 9]
    assert isinstance(batches[0][0], torch.Tensor)
    assert batches[0][0].shape == (16, 8, 8, 8)
    assert sorted(key for batch in batches for key in batch[2]) == flipped.keys


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_agree_on_the_epoch(flipped: BuiltSet, method: str) -> None:
    stages = pipeline(flipped)
    load = wds.WebLoader(stages, batch_size=None, num_workers=2, multiprocessing_context=method)
    for _ in range(2):
        found = [(sample["__key__"], sample["mirrored"], sample["theta"]) for sample in load]
        assert sorted(key for key, _, _ in found) == flipped.keys
        epoch = stages.stage(2).epoch - 1
        for sample in pipeline(flipped, epoch=epoch):
            _, mirrored, theta = next(item for item in found if item[0] == sample["__key__"])
            assert mirrored == sample["mirrored"]
            assert torch.equal(theta, sample["theta"])
    stages.stage(2).set_epoch(0)
    assert stages.stage(2).epoch == 0


def test_it_pickles(flipped: BuiltSet) -> None:
    stage = pickle.loads(pickle.dumps(decode_chunks(seed=3)))
    assert len(list(stage([{"url": urls(flipped)[0]}]))) == 25


def test_what_is_no_shard_of_a_whole_set_is_refused(flipped: BuiltSet, tmp_path) -> None:
    stage = decode_chunks()
    half = build_set(tmp_path / "half", whole=False, samples=(4,), chunk=4)
    for item, kind, message in [
        ({"url": f"{flipped.url}/layer2/000009.tar"}, InputError, "no shard 000009.tar"),
        ({"url": f"{flipped.url}/layer9/000000.tar"}, InputError, "no layer 'layer9'"),
        ({"url": f"{tmp_path}/x/layer2/000000.tar"}, FormatError, "no shard set here"),
        ({"url": urls(half)[0]}, FormatError, "not whole"),
        ({"fname": "a.cls", "data": b""}, InputError, "in place of tarfile_to_samples"),
    ]:
        with pytest.raises(kind, match=message):
            list(stage([item]))
