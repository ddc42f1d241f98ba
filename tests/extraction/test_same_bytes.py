"""Sets written before a change against sets written now: every row, key, field and theta, and old sets gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmshards.extraction import extract
from fmshards.shards import layer_url, read_chunk, read_index, read_manifest

from .conftest import tree

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
TARS = [str(FIXTURES / f"images-{i}.tar") for i in range(2)]
MODEL = f"{FIXTURES / 'whole_numbers.py'}:net"
SETS = ["set-mirror", "set-views"]


def options_of(name: str) -> dict[str, Any]:
    """The arguments that made a fixture."""
    plan = json.loads((FIXTURES / name / "plan.json").read_text())
    identity, options = plan["identity"], plan["options"]
    return {
        "model": MODEL,
        "device": "cpu",
        "layers": options["rates"],
        **{name: identity[name] for name in ("preprocess", "recipe", "mirror", "views", "sensitive", "seed")},
        **{name: options.get(name) for name in ("batch", "calibration", "chunk", "order", "filter")},
    }


@pytest.mark.filterwarnings("ignore:.*no weights given")
@pytest.mark.parametrize("name", SETS)
def test_what_is_written_anew_is_what_was_written(name: str, tmp_path: Path) -> None:
    old = read_manifest(str(FIXTURES / name))
    new = extract(TARS, tmp_path / "new", **options_of(name))
    assert new.errors == old.errors
    for layer in old.plan.layers:
        codecs = old.plan.layer_members(layer.name)
        assert new.plan.layer_members(layer.name).keys() == codecs.keys()
        assert new.plan.layer(layer.name) == layer
        for entry, again in zip(old.shards[layer.name], new.shards[layer.name], strict=True):
            places = [layer_url(str(where), layer.name, entry.name) for where in (FIXTURES / name, tmp_path / "new")]
            indexes = [read_index(places[0], entry), read_index(places[1], again)]
            assert [c.n for c in indexes[0].chunks] == [c.n for c in indexes[1].chunks]
            for j in range(len(indexes[0].chunks)):
                a, b = (read_chunk(place, index, j, list(codecs)) for place, index in zip(places, indexes, strict=True))
                assert (a.keys, a.fields, a.members) == (b.keys, b.fields, b.members)
                assert (a.theta is None) == (b.theta is None)
                assert a.theta is None or np.array_equal(a.theta, b.theta)


@pytest.mark.filterwarnings("ignore:.*no weights given")
@pytest.mark.parametrize("name", SETS)
def test_an_old_set_is_returned_and_gone_on_with(name: str, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(FIXTURES / name, out)
    before = tree(out)
    assert extract(TARS, out, **options_of(name)) == read_manifest(str(out))
    assert extract(TARS, out, **{**options_of(name), "batch": None}) == read_manifest(str(out))
    assert tree(out) == before
    (out / "manifest.json").unlink()
    (out / "1" / "000001.tar").unlink()
    extract(TARS, out, **options_of(name))
    assert tree(out).keys() == before.keys()
    assert {n: d for n, d in tree(out).items() if n != "1/000001.tar" and n != "manifest.json"} == {
        n: d for n, d in before.items() if n != "1/000001.tar" and n != "manifest.json"
    }
