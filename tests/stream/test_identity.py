"""A set is refused with a model that did not write it."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from fmshards.errors import MismatchError
from fmshards.model import prefix_digest
from fmshards.shards import read_manifest, write_manifest
from fmshards.stream import FeatureDataset, loader
from tests.sets import build_set


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()


def test_other_weights_or_buffers_are_refused(tmp_path) -> None:
    built = build_set(tmp_path / "set", samples=(8,), chunk=4, layers={"2": "fp32"})
    model = network()
    identity = {"layers": {"2": {"cut": "2", "prefix": prefix_digest(model, "2")}}}
    manifest = read_manifest(built.url)
    write_manifest(built.url, dataclasses.replace(manifest, plan=dataclasses.replace(manifest.plan, identity=identity)))
    assert len(FeatureDataset(built.url, batch_size=4, model=model)) == 2
    trained = copy.deepcopy(model)
    with torch.no_grad():
        trained[3].weight.add_(1)
    loader(built.url, 4, model=trained)  # what comes after the cut is free to change
    for pick in (lambda m: m[0].weight, lambda m: m[1].running_mean):
        other = copy.deepcopy(model)
        with torch.no_grad():
            pick(other)[0] += 1e-3
        with pytest.raises(MismatchError, match=r"layer 2 was written by other weights.*cut 2"):
            loader(built.url, 4, model=other)


def test_a_plan_without_an_identity_cannot_be_checked(tmp_path) -> None:
    built = build_set(tmp_path / "set", samples=(8,), chunk=4)
    manifest = read_manifest(built.url)
    write_manifest(built.url, dataclasses.replace(manifest, plan=dataclasses.replace(manifest.plan, identity={})))
    with pytest.raises(MismatchError, match="does not say which weights"):
        FeatureDataset(built.url, batch_size=4, model=network())
