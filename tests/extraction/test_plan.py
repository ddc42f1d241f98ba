"""`fmshards.plan` on the bundled network and images, what extraction makes of its answer, and `NAME:auto`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from fmshards.augment import parse_mirror
from fmshards.errors import FmshardsError, InputError, MismatchError, ModelError
from fmshards.extraction import extract, plan, propose
from fmshards.extraction.sources.image import decode_image
from fmshards.model import find_cut
from fmshards.planning import Proposal
from fmshards.shards import read_plan

from .conftest import MODEL, TRAIN, WEIGHTS, members_of, network, stored, tree, write_tar

NAMES = {"model": MODEL, "weights": WEIGHTS, "device": "cpu", "preprocess": "normalize(imagenet)"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photos")
    return str(write_tar(folder / "000000.tar", members_of(TRAIN[0], range(96))))


@pytest.fixture(scope="module")
def found(photos: str) -> Proposal:
    return plan(photos, **NAMES, layers=["layer2", "layer3"], max_drop="2%", samples=96)


class Photos(Dataset[Any]):
    """The bundled images with labels of another kind, or with none."""

    def __init__(self, source: str, labels: Any) -> None:
        members = members_of(Path(source), range(96))
        self.images = [decode_image(data, "apply") for name, data in members if name.endswith("jpg")]
        own = [int(data) for name, data in members if name.endswith("cls")]
        self.labels = None if labels is None else [labels(label) for label in own]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Any:
        return self.images[i] if self.labels is None else (self.images[i], self.labels[i])


def test_what_is_chosen_is_within_the_budget_and_says_how_sure_it_is(found: Proposal) -> None:
    assert found.judged.by == "suffix"
    assert found.judged.own
    for report in found.cuts:
        assert report.chosen is not None
        assert report.chosen.outcome.drop.value <= 0.02
        assert report.chosen.outcome.drop.error > 0
        assert report.chosen.outcome.accuracy is not None
        assert len({trial.rate for trial in report.found.trials}) == len(report.found.trials) >= 3
        fewer = [t for t in report.found.trials if t.bytes < report.chosen.bytes]
        assert fewer
        assert all(t.outcome.drop.value > 0.02 for t in fewer)
        assert not report.told, "80 photos do not tell a percent"
        assert report.needed is not None
        assert report.needed > report.photos
    assert any("do not tell" in note for note in found.notes)


def test_sizes_are_those_of_the_set_that_is_made(found: Proposal, photos: str, tmp_path: Path) -> None:
    found.save(tmp_path / "plan.json")
    manifest = extract(photos, tmp_path / "set", model=MODEL, device="cpu", plan=tmp_path / "plan.json")
    made = manifest.plan
    assert found.options is not None
    assert {name: made.options["rates"][name] for name in ("layer2", "layer3")} == {
        report.cut.name: report.chosen.rate for report in found.cuts if report.chosen
    }
    assert made.identity["recipe"] == found.options["recipe"]
    assert made.identity["mirror"] == str(parse_mirror(found.options["mirror"]))
    assert made.chunk == found.options["chunk"]
    assert made.identity["preprocess"] == NAMES["preprocess"]
    for report in found.cuts:
        assert report.worth is not None
        assert report.chosen is not None
        row = made.layer(report.cut.name).base_codec.row_bytes
        assert report.chosen.bytes == row
        assert report.worth.total == pytest.approx(report.worth.bytes * 96, rel=0.05)  # tars do not tell their samples
    # The same proposal without the way over a file, and the same options by hand, are the same set.
    assert extract(photos, tmp_path / "set", model=MODEL, device="cpu", plan=found) == manifest
    assert extract(photos, tmp_path / "set", model=MODEL, device="cpu", **found.options) == manifest


def test_what_it_says_of_a_rate_is_what_the_stored_rows_give(found: Proposal, photos: str, tmp_path: Path) -> None:
    extract(photos, tmp_path / "set", model=MODEL, device="cpu", plan=found)
    model = network()
    with torch.no_grad():
        rows = stored(tmp_path / "set", "layer3").streams["base"]
        after = model.linear(rows.mean((2, 3)))
        data = Photos(photos, None)
        x = torch.stack([torch.from_numpy(np.array(image)) for image in data.images])
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        before = model(((x / 255 - mean) / std).permute(0, 3, 1, 2))
    agreed = float((after.argmax(1) == before.argmax(1)).float().mean())
    report = found.cuts[-1]
    assert report.chosen is not None
    said = report.chosen.outcome.agreement
    assert agreed == pytest.approx(said.value, abs=4 * said.error)


def test_the_answer_is_the_same_again(photos: str, found: Proposal) -> None:
    again = plan(photos, **NAMES, layers=["layer2", "layer3"], max_drop=0.02, samples=96)
    assert again.options == found.options
    for one, other in zip(again.cuts, found.cuts, strict=True):
        assert [(t.rate, t.outcome) for t in one.found.trials] == [(t.rate, t.outcome) for t in other.found.trials]


def test_bytes_bound_with_the_mirror_in_them(photos: str) -> None:
    found = plan(photos, **NAMES, layers="layer3", max_bytes="4kB", recipe="flip", mirror="stored", samples=64)
    (report,) = found.cuts
    assert report.chosen is not None
    assert report.worth is not None
    assert 2 * report.chosen.bytes == report.worth.bytes <= 4000
    assert report.chosen.outcome.drop.value == min(t.outcome.drop.value for t in report.found.trials)
    assert found.options is not None
    assert found.options["mirror"] == "stored"


def test_where_both_bounds_cannot_be_met_nothing_is_proposed(photos: str, tmp_path: Path) -> None:
    found = plan(
        photos, **NAMES, layers="layer1", max_drop=0.0001, max_bytes=1100, recipe="none", samples=64, mirror="none"
    )
    assert found.options is None
    assert any("no rate is within the budget" in note for note in found.notes)
    found.save(tmp_path / "plan.json")
    for given in (found, tmp_path / "plan.json"):
        with pytest.raises(InputError, match="proposes nothing"):
            extract(photos, tmp_path / "set", model=MODEL, plan=given)
    tiny = plan(photos, **NAMES, layers="layer1", max_bytes=100, recipe="none", samples=64)
    assert tiny.options is None
    assert any("100 B" in note for note in tiny.notes)


def test_without_names_cuts_are_looked_for_and_one_is_proposed(photos: str) -> None:
    found = plan(photos, **NAMES, samples=48, max_drop="5%", recipe="none")
    assert len(found.cuts) >= 2
    assert found.options is not None
    assert len(found.options["layers"]) == 1
    assert "mirror" not in found.options


def test_labels_of_another_kind_are_judged_by_a_probe_that_is_said_to_stand_in(photos: str) -> None:
    data = Photos(photos, lambda label: (label + 3) % 10)
    found = plan(data, **NAMES, layers="layer3", samples=96, max_drop="5%", recipe="none")
    assert found.judged.by == "probe"
    assert "stand-in" in found.notes[0]
    (report,) = found.cuts
    assert report.chosen is not None
    assert report.chosen.outcome.drop.value <= 0.05
    assert found.photo_bytes is None


def test_without_labels_the_networks_own_answers_are_kept(photos: str) -> None:
    found = plan(Photos(photos, None), **NAMES, layers="layer3", samples=48, max_drop="5%", recipe="none")
    assert found.judged.by == "suffix"
    assert not found.judged.own
    (report,) = found.cuts
    assert report.chosen is not None
    assert report.chosen.outcome.accuracy is None


def test_the_whole_is_plain_json(found: Proposal) -> None:
    told = json.loads(json.dumps(found.to_json()))
    assert told["options"] == found.options
    assert [cut["cut"] for cut in told["cuts"]] == ["layer2", "layer3"]
    assert told["cuts"][0]["trials"][0]["outcome"]["agreement"].keys() == {"value", "error", "n"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"max_drop": "half"}, "max_drop"),
        ({"max_drop": 2}, "max_drop.*0.5%"),
        ({"max_drop": True}, "max_drop"),
        ({"max_bytes": "20 quarks"}, "max_bytes"),
        ({"samples": 0}, "samples"),
        ({"samples": 2.5}, "samples"),
        ({"suffix": "soon"}, "suffix.*auto, trained, fresh"),
        ({"speed": 0}, "speed"),
        ({"layers": ["layer2:4"]}, "rate"),
        ({"layers": 3}, "layers"),
        ({"layers": ["layer2", "layer2"]}, "twice"),
        ({"recipe": lambda image: image}, "function"),
        ({"recipe": "twist"}, "twist"),
        ({"mirror": "glass"}, "glass"),
        ({"progress": 3}, "progress"),
    ],
)
def test_what_is_asked_wrongly_is_named_before_anything_is_run(
    more: dict[str, Any], words: str, photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(propose, "survey", None)
    with pytest.raises(FmshardsError, match=words):
        plan(photos, **NAMES, **more)


def test_a_cut_that_is_not_there_is_named_with_the_nearest(photos: str) -> None:
    with pytest.raises(ModelError, match=r"layer9.*layer"):
        plan(photos, **NAMES, layers="layer9")


class Backbone(nn.Module):
    """Gives a map, and no logits."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x))


def test_a_network_without_logits_is_judged_by_a_probe_or_not_at_all(photos: str) -> None:
    given: dict[str, Any] = {"model": Backbone().eval(), "device": "cpu", "preprocess": "none", "layers": "one"}
    found = plan(photos, **given, samples=96, max_drop="10%", recipe="flip")
    assert found.judged.by == "probe"
    assert found.cuts[0].moves is not None
    assert found.cuts[0].moves.flips["none"].outcome is None
    with pytest.raises(InputError, match="no logits"):
        plan(photos, **given, suffix="trained")
    with pytest.raises(InputError, match="nothing can judge"):
        plan(Photos(photos, None), **given)
    with pytest.raises(InputError, match="too few labels"):
        plan(Photos(photos, None), **NAMES, suffix="fresh")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[1]", "no file of fmshards plan"),
        ("{}", "no file of fmshards plan"),
        ('{"fmshards_plan": 99, "options": {}}', "version 99"),
        ('{"fmshards_plan": 1, "options": [1]}', "expected an object"),
        ('{"fmshards_plan": 1, "options": {"layers": {"layer2": "int99"}}}', "int99"),
        ('{"fmshards_plan": 1, "options": {"layers": {"layer2": 4}, "speed": 3}}', "speed"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_by_its_name(text: str, words: str, photos: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        extract(photos, tmp_path / "set", model=MODEL, plan=tmp_path / "plan.json")
    assert "plan.json" in str(caught.value)
    assert not (tmp_path / "set").exists()


def test_what_the_plan_has_is_not_given_otherwise(found: Proposal, photos: str, tmp_path: Path) -> None:
    for other in ({"layers": "layer2:4"}, {"recipe": "flip"}, {"chunk": 7}, {"weights": "DEFAULT"}):
        with pytest.raises(InputError, match=f"{next(iter(other))} is .*leave it out"):
            extract(photos, tmp_path / "set", model=MODEL, device="cpu", plan=found, **other)
    with pytest.raises(InputError, match="plan is int"):
        extract(photos, tmp_path / "set", model=MODEL, plan=3)
    assert not (tmp_path / "set").exists()
    same = (
        {"recipe": "flip(p=0.5)+crop(pad=4, step=1)"} if found.options and "step=1" in found.options["recipe"] else {}
    )
    manifest = extract(photos, tmp_path / "set", model=MODEL, device="cpu", plan=found, fields="cls", **same)
    assert manifest.plan.options["fields"] == ["cls"]


def test_auto_is_a_rate_once_the_set_is_begun(photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, asked = tmp_path / "set", {"layers": "layer3:auto", **NAMES, "chunk": 10}
    manifest = extract(photos, out, **asked)
    rate = manifest.plan.options["rates"]["layer3"]
    assert rate not in ("auto", None)
    assert read_plan(str(out)).options["rates"] == {"layer3": rate}
    before = tree(out)
    monkeypatch.setattr(propose, "survey", None)  # would have to be asked if anything were chosen anew
    assert extract(photos, out, **asked) == manifest
    for path in [*(out / "layer3").iterdir(), out / "manifest.json"]:
        path.unlink()
    extract(photos, out, **asked)
    assert tree(out) == before
    assert extract(photos, out, **{**asked, "layers": {"layer3": rate}}) == manifest
    with pytest.raises(MismatchError, match="layer2"):
        extract(photos, out, **{**asked, "layers": "layer2:auto"})


def test_auto_chooses_what_plan_would(photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(photos, **NAMES, layers="layer3", recipe="none")
    extract(photos, tmp_path / "set", **NAMES, layers={"layer3": "auto", "layer2": 2}, progress=True)
    made = read_plan(str(tmp_path / "set"))
    assert found.options is not None
    assert made.options["rates"] == {"layer3": found.options["layers"]["layer3"], "layer2": "2"}
    assert f"layer3: {made.options['rates']['layer3']} chosen, it drops" in capsys.readouterr().err


def test_the_cut_that_is_reported_is_the_models(found: Proposal) -> None:
    from fmshards.model import cuts

    every = cuts(network(), torch.zeros(1, 3, 32, 32))
    for report in found.cuts:
        cut = find_cut(every, report.cut.name)
        assert (report.cut.flops_before, report.cut.shape) == (cut.flops_before, cut.shape)
