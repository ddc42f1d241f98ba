"""Mirrors that are stored in part, end to end: what is stored, chosen, said, verified and gone on with."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fmshards.errors import FmshardsError, MismatchError
from fmshards.extraction import extract, verify
from fmshards.reader.inspection import inspect
from fmshards.shards.describe import mirror_text, mirror_texts
from fmshards.stream import open_shards

from .conftest import direct, network, options, stored, tree


@pytest.mark.parametrize("rest", ["map, kernel=1", "map, kernel=3", "flip"])
def test_a_mirror_stored_in_part(tars: list[str], tmp_path: Path, rest: str) -> None:
    out = tmp_path / "out"
    mirror = f"stored(0.3, rest={rest}, rate=fp32)"
    layers = {"layer1": 4, "layer2": 4}
    plan = extract(tars, out, **options(layers=layers, recipe="flip+crop(pad=4)", mirror=mirror)).plan
    assert (plan.members, plan.references) == (("base", "mirror"), ("base", "mirror"))
    assert verify(str(out), network(), preprocess="normalize(imagenet)").problems == ()
    for name, channels, stored_channels in (("layer1", 16, 5), ("layer2", 32, 10)):
        layer, true = plan.layer(name), direct(tars, name, lambda x: x.flip(-1))
        assert len(layer.mirror_channels) == stored_channels
        assert torch.equal(stored(out, name).streams["mirror"], true[:, list(layer.mirror_channels)])
        samples = open_shards(out)
        keys = [samples.sample(i, "mirror")[name] for i in range(0, len(samples), 13)]
        found = torch.stack(keys)
        assert torch.equal(found[:, list(layer.mirror_channels)], true[::13][:, list(layer.mirror_channels)])
        others = [c for c in range(channels) if c not in layer.mirror_channels]
        # The others are not far off what calibration says, nor exact: the base is stored at 4 bits.
        gap = (found[:, others] - true[::13][:, others]).square().sum() / true[::13].square().sum()
        assert layer.mirror_error is not None
        assert abs(10 * math.log10(gap) - layer.mirror_error) < 1.5


def test_the_channels_stored_are_those_that_what_stands_in_gets_most_wrong(tars: list[str], tmp_path: Path) -> None:
    chosen = {}
    for rest in ("map, kernel=1", "flip"):
        mirror = f"stored(0.25, rest={rest})"
        plan = extract(tars, tmp_path / rest, **options(recipe="flip", mirror=mirror, calibration=80)).plan
        chosen[rest] = plan.layer("layer2").mirror_channels
        whole = open_shards(tmp_path / rest)
        assert len(chosen[rest]) == 8
    base, true = (direct(tars, "layer2", change) for change in (lambda x: x, lambda x: x.flip(-1)))
    naive = (base.flip(-1) - true).square().sum((0, 2, 3)).argsort(descending=True)[:8]
    assert len(set(naive.tolist()) & set(chosen["flip"])) >= 6  # other images, and the flip goes through the grid
    assert chosen["flip"] != chosen["map, kernel=1"]
    assert len(whole) == len(true)


@pytest.mark.filterwarnings("ignore:mirror 'none' with a flip")
@pytest.mark.parametrize(
    ("part", "end"),
    [("stored(1.0)", "stored"), ("stored(0, kernel=1)", "mapped(kernel=1)"), ("stored(0, rest=flip)", "none")],
)
def test_the_ends_of_a_partly_stored_mirror_are_the_other_ways(
    tars: list[str], tmp_path: Path, part: str, end: str
) -> None:
    more = options(recipe="flip+crop(pad=4)", layers={"layer3": 4})
    extract(tars[:2], tmp_path / "part", **more, mirror=part)
    extract(tars[:2], tmp_path / "end", **more, mirror=end)
    assert tree(tmp_path / "part") == tree(tmp_path / "end")


def test_what_a_map_costs_and_how_far_it_is_off_is_said(tars: list[str], tmp_path: Path) -> None:
    said = io.StringIO()
    mirror = "stored(0.25, rest=map, kernel=3)"
    plan = extract(tars[:2], tmp_path / "out", progress=said, **options(recipe="flip", mirror=mirror)).plan
    line = next(line for line in said.getvalue().splitlines() if line.startswith("layer2: mirror:"))
    assert "8 of 32 channels stored, 1,024 bytes a sample" in line
    assert f"24 of 32 mapped 3 x 3, {24 * 32 * 9 * 16 * 16:,} multiplications a sample" in line
    assert "on 3 images left out of the fit" in line
    assert "of the 13 that it is fitted on" in line
    (layer,) = inspect(str(tmp_path / "out"))["layers"]
    assert mirror_text(layer) == line
    assert layer["mirror_channels"] == list(plan.layer("layer2").mirror_channels)
    odd = replace(plan, provenance={**plan.provenance, "mirror_maps": {"layer2": {"kernel": "three"}}})
    assert "mapped" not in mirror_texts(odd)[0]  # nobody checks provenance


def test_a_vector_cannot_be_flipped_in_part(tars: list[str], tmp_path: Path) -> None:
    more = options(recipe="flip", layers={"mean": 4})
    with pytest.raises(FmshardsError, match=r"no places.*stored\(0\.3, rest=flip\)"):
        extract(tars[:1], tmp_path / "out", **more, mirror="stored(0.3, rest=flip)")


def test_a_stopped_extraction_is_gone_on_with_and_another_mirror_is_refused(tars: list[str], tmp_path: Path) -> None:
    out, more = tmp_path / "out", options(recipe="flip", layers={"layer3": 4})
    extract(tars, out, **more, mirror="stored(0.3, rest=flip)")
    before = tree(out)
    (out / "manifest.json").unlink()
    (out / "layer3" / "000001.tar").unlink()
    extract(tars, out, **more, mirror="stored(0.30, rest=flip)")
    assert tree(out) == before
    for other in ("stored(0.3, rest=flip, rate=2)", "stored(0.3)", "stored(0.4, rest=flip)", "stored"):
        with pytest.raises(MismatchError, match=r"mirror: .* in plan\.json"):
            extract(tars, out, **more, mirror=other)
    assert verify(str(out), network()).problems == ()
    problems = verify(
        str(out), network(), preprocess="normalize(mean=(0.4, 0.4, 0.4), std=(0.25, 0.25, 0.25))"
    ).problems
    assert sum("), mirror: computed again it differs" in problem for problem in problems) == 8


def test_a_mirror_that_must_shrink_to_fit_is_stored_at_a_rate_of_its_own(tars: list[str], tmp_path: Path) -> None:
    plan = extract(tars[:1], tmp_path / "out", **options(recipe="flip", mirror="stored(rate=int4-channel)")).plan
    layer = plan.layer("layer2")
    assert layer.mirror_channels == tuple(range(32))
    assert plan.layer_members("layer2").keys() == {"base.zfp", "mirror.int"}
    assert layer.mirror_error is None
    true = direct(tars[:1], "layer2", lambda x: x.flip(-1))
    found = torch.stack([open_shards(tmp_path / "out").sample(i, "mirror")["layer2"] for i in range(len(true))])
    assert (found - true).square().sum() / true.square().sum() < 0.02
    assert mirror_texts(plan) == ["layer2: mirror: 32 of 32 channels stored, 4,096 bytes a sample"]
