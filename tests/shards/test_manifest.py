"""Error sums, differences between plans, and what the plan's digest covers."""

from __future__ import annotations

import math
import pickle

import pytest

from fmshards.errors import FormatError
from fmshards.shards import InputShard, chunk_sizes, layer_error, plan_differences
from tests.shards.build import layer_plan, small_plan


def test_errors_add_up_over_shards() -> None:
    one = {"samples": 8, "error": [1.0, 2.0], "energy": [100.0, 20.0]}
    two = {"samples": 8, "error": [3.0, 0.0], "energy": [100.0, 20.0]}
    found = layer_error([one, None, two])
    assert found is not None
    assert found["db"] == pytest.approx(10 * math.log10(6 / 240))
    assert (found["worst_channel"], found["samples"]) == (1, 16)
    assert found["worst_channel_db"] == pytest.approx(10 * math.log10(2 / 40))


def test_no_error_and_no_signal() -> None:
    exact = layer_error([{"samples": 1, "error": [0.0, 0.0], "energy": [0.0, 5.0]}])
    assert exact == {"db": None, "worst_channel_db": None, "worst_channel": 0, "samples": 1}
    noise = layer_error([{"samples": 1, "error": [0.0, 1.0], "energy": [5.0, 0.0]}])
    assert noise is not None
    assert noise["worst_channel"] == 1
    assert math.isfinite(noise["worst_channel_db"])
    assert layer_error([None]) is None
    with pytest.raises(FormatError, match="different numbers"):
        layer_error([{"samples": 1, "error": [0.0], "energy": [0.0]}, {"samples": 1, "error": [], "energy": []}])


def test_differences_are_lines_for_a_person() -> None:
    plan = small_plan()
    assert plan_differences(plan, plan) == []
    assert plan_differences({"options": {"batch": 64, "model": "resnet20"}}, plan) == []
    lines = plan_differences({"options": {"batch": 128, "extra": 1}, "chunk": 9, "provenance": {"torch": "0"}}, plan)
    assert lines == [
        "batch: 128 here, 64 in plan.json",
        "extra: 1 here, nothing in plan.json",
        "model: nothing here, resnet20 in plan.json",
        "chunk: 9 here, 8 in plan.json",
    ]
    other = (InputShard("000000", "in/000000.tar", 2, 20, None), InputShard("000002", "in/2.tar", 1, 16, None))
    assert plan_differences({"inputs": other}, plan) == [
        "inputs 000000.bytes: 2 here, 1 in plan.json",
        "inputs 000002: 000002 here, nothing in plan.json",
        "inputs 000001: nothing here, 000001 in plan.json",
    ]
    identity = {"layers": {"layer2": {"cut": "layer2", "prefix": "1" * 64}, "head": plan.identity["layers"]["head"]}}
    (line,) = plan_differences({"identity": {**identity, "seed": 0}}, plan)
    assert line == f"layers.layer2.prefix: {'1' * 16}... here, {'0' * 16}... in plan.json"
    assert plan_differences({"inputs": plan.inputs[::-1]}, plan) == ["inputs: the same ones in another order"]


def test_the_digest_covers_everything_but_provenance() -> None:
    plan = small_plan()
    assert small_plan(provenance={"torch": "1"}).digest == plan.digest
    changed = {
        "identity": {}, "options": {}, "inputs": plan.inputs[:1], "chunk": 4, "base_size": (8, 8), "recipe": {},
        "mirror": {}, "layers": plan.layers[:1], "classes": None,
        "calibration": {"file": f"calibration-{'a' * 16}.safetensors", "sha256": "a" * 64},
    }  # fmt: skip
    digests = {small_plan(**{name: value}).digest for name, value in changed.items()}
    assert len(digests | {plan.digest}) == len(changed) + 1
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_chunk_sizes() -> None:
    assert chunk_sizes(20, 8) == [8, 8, 4]
    assert chunk_sizes(16, 8) == [8, 8]
    assert chunk_sizes(3, 8) == [3]
    assert chunk_sizes(0, 8) == []


def test_a_layer_without_sensitive_channels_has_no_view_members() -> None:
    calm = layer_plan("layer2", (8, 8, 8), views=0)
    plan = small_plan(views=2, layers=(calm, layer_plan("head", (5, 7, 6), rate="fp16", views=2)))
    assert list(plan.layer_members("layer2")) == ["base.zfp", "mirror.zfp"]
    assert list(plan.layer_members("head")) == ["base.raw", "mirror.raw", "view1.raw", "view2.raw"]
    assert plan.layer_members("head")["view1.raw"].spec.shape == (2, 7, 6)
    plan.to_bytes()
