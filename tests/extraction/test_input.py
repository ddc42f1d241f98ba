"""The input of a set that is there: the same, moved, repaired, edited; what is compared is content."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fmshards.errors import InputError, MismatchError
from fmshards.extraction import extract, verify
from fmshards.shards import read_index, read_manifest, read_plan

from .conftest import MODEL, TRAIN, WEIGHTS, members_of, options, stored, tree, write_tar

MORE = options(layers={"layer2": 4, "layer3": 4}, chunk=8)


def tar(path: Path, samples: range, labels: str | None = None, shard: int = 0) -> str:
    """Some bundled samples, all with the label `labels` where it is given."""
    members = [
        (n, labels.encode() if labels and n.endswith(".cls") else d) for n, d in members_of(TRAIN[shard], samples)
    ]
    return str(write_tar(path, members))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars and the whole set made from them, never changed by a test."""
    folder = tmp_path_factory.mktemp("made")
    extract([tar(folder / f"in-{i}.tar", range(20 * i, 20 * i + 20)) for i in range(2)], folder / "set", **MORE)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A copy of both."""
    shutil.copytree(made, tmp_path / "here")
    return tmp_path / "here"


def inputs(folder: Path) -> list[str]:
    return [str(folder / f"in-{i}.tar") for i in range(2)]


def test_a_shard_keeps_what_it_was_made_from(made: Path) -> None:
    import hashlib

    for i, path in enumerate(inputs(made)):
        data = Path(path).read_bytes()
        for layer in ("layer2", "layer3"):
            found = read_index(str(made / "set" / layer / f"{i:06d}.tar")).input
            assert found == {"bytes": len(data), "digest": f"sha256:{hashlib.sha256(data).hexdigest()}"}


def test_a_copy_elsewhere_is_the_same(here: Path) -> None:
    before = tree(here / "set")
    for path in inputs(here):
        os.utime(path, (1e9, 1e9))
    assert extract(inputs(here), here / "set", **MORE) == read_manifest(str(here / "set"))
    renamed = [shutil.copy(path, here / f"other-{i}.tar") for i, path in enumerate(inputs(here))]
    assert extract(renamed, here / "set", **MORE).samples == 40
    assert tree(here / "set") == before


@pytest.mark.parametrize("whole", [True, False])
def test_an_edited_file_of_the_same_size_is_refused(here: Path, whole: bool) -> None:
    size = os.stat(inputs(here)[0]).st_size
    tar(here / "in-0.tar", range(20), labels="7")
    assert os.stat(inputs(here)[0]).st_size == size
    if not whole:
        (here / "set" / "manifest.json").unlink()
        (here / "set" / "layer3" / "000000.tar").unlink()
    before = tree(here / "set")
    with pytest.raises(
        MismatchError, match=r"inputs 000000: .*in-0\.tar is not what .*layer2/000000\.tar was made from"
    ):
        extract(inputs(here), here / "set", **MORE)
    assert tree(here / "set") == before


def test_an_edited_file_that_was_given_its_old_time_is_refused(here: Path) -> None:
    path = here / "in-1.tar"
    before = path.stat()
    tar(path, range(20, 40), labels="7")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    with pytest.raises(MismatchError, match="inputs 000001"):
        extract(inputs(here), here / "set", **MORE)


def test_what_is_not_made_yet_may_change(here: Path) -> None:
    """A repaired tar, of another size: what is whole stays, and one line says so."""
    out = here / "set"
    (out / "manifest.json").unlink()
    for layer in ("layer2", "layer3"):
        (out / layer / "000001.tar").unlink()
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    tar(here / "in-1.tar", range(20, 35), labels="3")
    with pytest.warns(UserWarning, match=r"in-1\.tar: changed since the set was begun; nothing was made from it yet"):
        manifest = extract(inputs(here), out, **MORE)
    assert manifest.samples == 35
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert stored(out, "layer2").fields["cls"][20:] == [b"3"] * 15
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extract(inputs(here), out, **MORE) == manifest
    assert verify(str(out), MODEL, weights=WEIGHTS, source=inputs(here)).problems == ()
    tar(here / "in-1.tar", range(20, 40))  # what it was, and what the plan says: but not what the shard was made from
    with pytest.raises(MismatchError, match="inputs 000001"):
        extract(inputs(here), out, **MORE)


def test_layers_are_not_mixed_while_it_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is replaced after it was compared and before it is read."""
    from fmshards.extraction import pipeline

    out = here / "set"
    (out / "manifest.json").unlink()
    (out / "layer3" / "000000.tar").unlink()
    begin = pipeline.decoded_batches

    def late(*args: Any, **kwargs: Any) -> Any:
        tar(here / "in-0.tar", range(20), labels="7")
        return begin(*args, **kwargs)

    monkeypatch.setattr(pipeline, "decoded_batches", late)
    with pytest.raises(MismatchError, match=r"in-0\.tar has changed: the shard .*layer2/000000\.tar"):
        extract(inputs(here), out, **MORE)
    assert not (out / "manifest.json").exists()
    assert not (out / "layer3" / "000000.tar").exists()


class Images:
    """A data set whose images, labels and fingerprint can change."""

    def __init__(self, shade: int = 0, label: int = 0, fails_at: int = 99, fingerprint: str | None = None) -> None:
        self.shade, self.label, self.fails_at = shade, label, fails_at
        if fingerprint is not None:
            self.fingerprint = fingerprint

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        if i >= self.fails_at:
            raise RuntimeError("stopped here")
        return Image.new("RGB", (32, 32), (i * 10, i, self.shade)), i + self.label


DATA = options(shard_size=8, calibration=2)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("change", "said"),
    [({"shade": 90}, "computed again it differs"), ({"label": 1}, "the field 'cls' is 1, the input's 2")],
)
def test_a_data_set_is_known_by_its_samples(tmp_path: Path, whole: bool, change: dict[str, int], said: str) -> None:
    out = tmp_path / "set"
    if whole:
        extract(Images(), out, **DATA)
        assert extract(Images(), out, **DATA) == read_manifest(str(out))
    else:
        with pytest.raises(InputError, match="stopped here"):
            extract(Images(fails_at=10), out, **DATA)
    before = tree(out)
    with pytest.raises(MismatchError, match=said):
        extract(Images(**change), out, **DATA)
    assert tree(out) == before
    if not whole:
        assert extract(Images(), out, **DATA).samples == 24


def test_a_data_set_is_known_by_its_fingerprint(tmp_path: Path) -> None:
    extract(Images(fingerprint="one"), tmp_path / "set", **DATA)
    assert extract(Images(fingerprint="one"), tmp_path / "set", **DATA).samples == 24
    with pytest.raises(MismatchError, match="fingerprint: two here, one in plan"):
        extract(Images(fingerprint="two"), tmp_path / "set", **DATA)


def scaled(factor: float) -> Any:
    def apply(image: Image.Image) -> torch.Tensor:
        return torch.full((3, 32, 32), factor) * (image.getpixel((0, 0))[0] + 1)

    return apply


def test_a_function_is_known_by_what_it_is(tmp_path: Path) -> None:
    extract(Images(), tmp_path / "a", **options(preprocess=scaled(0.1)))
    assert extract(Images(), tmp_path / "a", **options(preprocess=scaled(0.1))).samples == 24
    with pytest.raises(MismatchError, match="preprocess: "):
        extract(Images(), tmp_path / "a", **options(preprocess=scaled(0.2)))
    named = options(preprocess=scaled(0.1), version="1")
    extract(Images(), tmp_path / "b", **named)
    assert extract(Images(), tmp_path / "b", **{**named, "preprocess": scaled(0.1)}).samples == 24
    with pytest.raises(MismatchError, match="version 2"):
        extract(Images(), tmp_path / "b", **{**named, "version": "2"})
    with pytest.raises(InputError, match="version is given"):
        extract(Images(), tmp_path / "c", **options(version="1"))


def test_a_transform_of_views_is_known_by_what_it_is(tmp_path: Path) -> None:
    def turned(degrees: int) -> Any:
        return lambda image: image.rotate(degrees)

    more = options(views=2, sensitive=1.0, mirror="none")
    extract(Images(), tmp_path / "set", **more, recipe=turned(90))
    assert extract(Images(), tmp_path / "set", **more, recipe=turned(90)).samples == 24
    with pytest.raises(MismatchError, match="recipe: custom"):
        extract(Images(), tmp_path / "set", **more, recipe=turned(180))


@pytest.mark.parametrize("factor", [0.1, 0.2])
def test_a_function_of_a_set_of_before_is_told_by_samples(tmp_path: Path, factor: float) -> None:
    """Sets of earlier versions hold a function's name alone: some samples made again tell whether it is the same."""
    out = tmp_path / "set"
    source = str(write_tar(tmp_path / "in.tar", members_of(TRAIN[0], range(16))))
    extract(source, out, **options(preprocess=scaled(0.1)))
    _as_before(out)
    if factor == 0.1:
        assert extract(source, out, **options(preprocess=scaled(factor))).samples == 16
    else:
        with pytest.raises(MismatchError, match="computed again it differs"):
            extract(source, out, **options(preprocess=scaled(factor)))


def _as_before(out: Path) -> None:
    """Make a set one of an earlier version: its plan knows a function by name, its shards nothing of their input."""
    from dataclasses import replace

    from fmshards.shards import (
        ShardWriter,
        layer_url,
        make_manifest,
        read_chunk,
        write_manifest,
        write_plan,
    )

    manifest = read_manifest(str(out))
    old = manifest.plan
    identity = {**old.identity, "preprocess": old.identity["preprocess"].partition(" sha256")[0]}
    plan = replace(old, identity=identity, provenance={})
    entries: dict[str, list[Any]] = {}
    for layer, shards in manifest.shards.items():
        for entry in shards:
            url = layer_url(str(out), layer, entry.name)
            index = read_index(url, entry)
            chunks = [read_chunk(url, index, j, list(plan.layer_members(layer))) for j in range(len(index.chunks))]
            with ShardWriter(url, plan.digest, layer) as writer:
                for chunk in chunks:
                    writer.add(chunk.keys, chunk.fields, chunk.theta, chunk.members)
                writer.errors(index.errors)
                entries.setdefault(layer, []).append(writer.close())
    (out / "plan.json").unlink()
    write_plan(str(out), plan)
    write_manifest(str(out), make_manifest(str(out), plan, entries))
    assert read_plan(str(out)).digest == plan.digest


@pytest.mark.parametrize("done", [True, False])
def test_another_folder_is_refused_without_digests(tmp_path: Path, done: bool) -> None:
    photos = tmp_path / "photos"
    (photos / "a").mkdir(parents=True)
    for i in range(2):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(photos / "a" / f"{i}.png")
    extract(photos, tmp_path / "set", **MORE)
    if not done:
        (tmp_path / "set" / "manifest.json").unlink()
    (photos / "a" / "1.png").rename(photos / "a" / "2.png")
    with pytest.raises(MismatchError, match="the names or sizes of its files are others") as refused:
        extract(photos, tmp_path / "set", **MORE)
    assert not re.search(r"[0-9a-f]{64}", str(refused.value))
