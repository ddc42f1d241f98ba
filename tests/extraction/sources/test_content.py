"""Whether input is what it was: stamps, and digests made while reading."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from fmshards.clock import Clock
from fmshards.extraction.batches import decoded_batches
from fmshards.extraction.decode import Decoder
from fmshards.extraction.sources import Source, open_source
from fmshards.model import parse_preprocess

from ..conftest import png, write_tar
from .helpers import items, make_folder


def read_to_end(source: Source, workers: int = 0) -> list[str | None]:
    """Digests as extraction has them: after the last batch of each shard."""
    decode = Decoder(source, parse_preprocess("none"))
    found = []
    shards = iter(range(len(source.inputs)))
    for batch in decoded_batches(source, shards, 3, decode, workers, False, Clock()):
        if batch.last:
            found.append(source.digest_read(batch.shard))
    return found


def tar(tmp_path: Path) -> str:
    return str(write_tar(tmp_path / "a.tar", {f"{i}.png": png(i) for i in range(5)}))


def packed(tmp_path: Path) -> str:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(Path(tar(tmp_path)).read_bytes()))
    return str(path)


def remote(tmp_path: Path) -> str:
    with fsspec.open("memory://fmshards-content/a.tar", "wb") as file:
        file.write(Path(tar(tmp_path)).read_bytes())
    return "memory://fmshards-content/a.tar"


def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images", [f"{c}/{i}.png" for c in "ab" for i in range(4)])


@pytest.fixture(autouse=True)
def _no_remote() -> Iterator[None]:
    yield
    memory = fsspec.filesystem("memory")
    if memory.exists("/fmshards-content"):
        memory.rm("/fmshards-content", recursive=True)


@pytest.mark.parametrize("make", [tar, packed, remote, folder])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_digest_made_while_reading_is_the_contents(
    tmp_path: Path, make: Callable[[Path], Any], workers: int
) -> None:
    made = make(tmp_path)
    source = open_source(made, shard_size=5 if make is folder else None)
    assert source.digest_read(0) is None
    contents = [
        open_source(made, shard_size=source.options().get("shard_size")).content(i) for i in range(len(source.inputs))
    ]
    assert read_to_end(source, workers) == contents
    assert all(str(content).startswith("sha256:") for content in contents)
    assert len(set(contents)) == len(contents)
    assert read_to_end(source) == contents


@pytest.mark.parametrize("make", [tar, packed])
def test_a_tars_digest_is_that_of_its_bytes(tmp_path: Path, make: Callable[[Path], str]) -> None:
    path = make(tmp_path)
    assert open_source(path).content(0) == "sha256:" + hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_shard_not_read_to_its_end_has_no_digest(tmp_path: Path) -> None:
    for made in (tar(tmp_path), folder(tmp_path)):
        source = open_source(made)
        reading = source.items(0)
        source.load(next(reading))
        reading.close()
        assert source.digest_read(0) is None


@pytest.mark.parametrize("make", [tar, remote, folder])
def test_a_stamp_stays_while_nothing_changes(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    made = make(tmp_path)
    assert open_source(made).stamp(0) is not None
    assert open_source(made).stamp(0) == open_source(made).stamp(0)


@pytest.mark.parametrize("make", [tar, folder])
def test_an_edit_of_the_same_size_is_seen(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    made = make(tmp_path)
    before = open_source(made)
    stamp, content = before.stamp(0), before.content(0)
    path = Path(made) if make is tar else made / "a" / "2.png"
    data = bytearray(path.read_bytes())
    data[-1 if make is folder else 600] ^= 1
    path.write_bytes(data)
    os.utime(path, (2e9, 2e9))
    after = open_source(made)
    assert after.inputs == before.inputs
    assert after.stamp(0) != stamp
    assert after.content(0) != content


def test_a_copy_has_the_content(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    one, other = open_source(folder(tmp_path)), open_source(folder(tmp_path / "b"))
    assert one.content(0) == other.content(0)


def test_a_renamed_image_is_other_content(tmp_path: Path) -> None:
    root = folder(tmp_path)
    before = open_source(root).content(0)
    one, other = root / "a" / "0.png", root / "a" / "1.png"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert open_source(root).content(0) != before


def test_a_data_set_has_no_bytes() -> None:
    source = open_source([Image.new("RGB", (4, 4))])
    items(source)
    assert (source.stamp(0), source.content(0), source.digest_read(0)) == (None, None, None)
