"""What is written is what is read, twice the same bytes, and other people's tools can look at it."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st

from fmshards.errors import InputError, MismatchError
from fmshards.shards import (
    Manifest,
    ShardEntry,
    ShardWriter,
    check_index,
    chunk_from_members,
    chunk_sizes,
    entry_of,
    layer_url,
    read_chunk,
    read_index,
    read_manifest,
    read_plan,
    verify_shard,
)
from fmshards.shards.envelope import seal, unseal
from tests.shards.build import CHUNK, SAMPLES, chunk_args, small_plan, write_shard


def test_every_chunk_comes_back(small_set: tuple[Path, Manifest]) -> None:
    folder, manifest = small_set
    assert read_manifest(str(folder)) == manifest
    assert read_plan(str(folder)) == manifest.plan
    for layer, entries in manifest.shards.items():
        for s, entry in enumerate(entries):
            url = layer_url(str(folder), layer, entry.name)
            index = read_index(url, entry)
            assert index == read_index(url)
            check_index(index, manifest.plan, layer, url)
            assert [c.n for c in index.chunks] == chunk_sizes(SAMPLES[s], CHUNK)
            for j, place in enumerate(index.chunks):
                wrote = chunk_args(manifest.plan, layer, s, j * CHUNK, place.n)
                names = list(wrote["members"])
                for wanted in ([], names, names[:1], names[2:], names[::-1]):
                    chunk = read_chunk(url, index, j, wanted)
                    assert chunk.keys == wrote["keys"]
                    assert chunk.fields == wrote["fields"]
                    assert np.array_equal(chunk.theta, wrote["theta"])
                    assert chunk.members == {name: wrote["members"][name] for name in wanted}


def test_equal_calls_write_equal_bytes(small_set: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = small_set
    for layer in manifest.shards:
        again = write_shard(str(tmp_path / layer / "000000.tar"), small_plan(), layer, 0)
        assert again == manifest.shards[layer][0]
        assert (tmp_path / layer / "000000.tar").read_bytes() == (folder / layer / "000000.tar").read_bytes()


def test_a_finished_shard_is_recognised(small_set: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, manifest = small_set
    url = layer_url(str(folder), "layer2", "000001.tar")
    digest = manifest.plan.digest
    assert entry_of(url, digest, "layer2") == manifest.shards["layer2"][1]
    assert entry_of(url, digest, "head") is None
    assert entry_of(url, "0" * 64, "layer2") is None
    assert entry_of(str(tmp_path / "none.tar"), digest, "layer2") is None
    moved = tmp_path / "000000.tar"
    moved.write_bytes(Path(url).read_bytes())
    assert entry_of(str(moved), digest, "layer2") is None
    moved.write_bytes(b"")
    assert entry_of(str(moved), digest, "layer2") is None


def test_plain_webdataset_sees_chunks_as_samples(small_set: tuple[Path, Manifest]) -> None:
    folder, manifest = small_set
    url = layer_url(str(folder), "layer2", "000000.tar")
    samples = list(wds.WebDataset(url, shardshuffle=False))
    assert [s["__key__"] for s in samples] == ["000000", "000001", "000002"]
    members = list(manifest.plan.layer_members("layer2"))
    for j, sample in enumerate(samples):
        extensions = {name for name in sample if not name.startswith("__")}
        assert extensions == {"meta.msgpack", *members}
        chunk = chunk_from_members(sample, url, manifest.plan.digest, "layer2")
        assert chunk.members == read_chunk(url, read_index(url), j, members).members
    with pytest.raises(MismatchError, match="another set"):
        chunk_from_members(samples[0], url, "0" * 64)
    with pytest.raises(MismatchError, match="expected layer head"):
        chunk_from_members(samples[0], url, None, "head")


def test_tar_lists_and_extracts(small_set: tuple[Path, Manifest], tmp_path: Path) -> None:
    path = small_set[0] / "layer2" / "000000.tar"
    listing = subprocess.run(["tar", "tvf", path], capture_output=True, text=True, check=True, env={"TZ": "UTC"})
    assert listing.stderr == ""
    lines = listing.stdout.splitlines()
    assert lines[0].split() == ["-rw-r--r--", "0/0", lines[0].split()[2], "1970-01-01", "00:00", "000000.meta.msgpack"]
    assert [line.split()[-1] for line in lines[1:4]] == ["000000.base.zfp", "000000.mirror.zfp", "000000.view1.zfp"]
    assert lines[-1].endswith("__fmshards__/index.msgpack")
    with tarfile.open(path) as tar:
        index = read_index(str(path))
        for chunk in index.chunks:
            for name, (offset, length, _) in chunk.members.items():
                info = tar.getmember(f"{chunk.key}.{name if name != 'meta' else 'meta.msgpack'}")
                assert (info.offset_data, info.size) == (offset, length)


def test_verify_finds_a_sound_shard_sound(small_set: tuple[Path, Manifest]) -> None:
    folder, manifest = small_set
    for layer, entries in manifest.shards.items():
        codecs = manifest.plan.layer_members(layer)
        for entry in entries:
            assert verify_shard(layer_url(str(folder), layer, entry.name), entry, codecs) is None


def test_an_index_larger_than_the_first_look_is_found(tmp_path: Path) -> None:
    url = str(tmp_path / "000000.tar")
    with ShardWriter(url, "0" * 64, "layer2") as writer:
        for j in range(4000):
            writer.add([f"k{j}"], {}, None, {"base.raw": b"1234"})
        entry = writer.close()
    assert entry.index_length > 64 * 1024
    assert read_index(url) == read_index(url, entry)


def test_a_shard_without_samples_is_a_shard(tmp_path: Path) -> None:
    url = str(tmp_path / "000000.tar")
    with ShardWriter(url, "0" * 64, "layer2") as writer:
        pass
    assert writer.entry is not None
    assert writer.entry.samples == 0
    assert read_index(url).chunks == ()
    assert verify_shard(url, writer.entry) is None


def test_a_shard_behind_a_url(small_set: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, manifest = small_set
    url, entry = "memory://fmshards-test/layer2/000000.tar", manifest.shards["layer2"][0]
    assert write_shard(url, manifest.plan, "layer2", 0) == entry
    assert entry_of(url, manifest.plan.digest, "layer2") == entry
    assert verify_shard(url, entry) is None
    local = layer_url(str(folder), "layer2", entry.name)
    assert read_index(url) == read_index(local)
    assert (
        read_chunk(url, read_index(url), 1, ["view1.zfp"]).members
        == read_chunk(local, read_index(local), 1, ["view1.zfp"]).members
    )


def test_a_shard_under_another_name_is_refused(small_set: tuple[Path, Manifest]) -> None:
    folder, manifest = small_set
    first, second = manifest.shards["layer2"]
    again = {**first.__dict__, "name": second.name}
    with pytest.raises(MismatchError, match=r"of shard 000000; the manifest says 20 samples of 000001.tar"):
        read_index(layer_url(str(folder), "layer2", first.name), ShardEntry(**again))
    index = read_index(layer_url(str(folder), "layer2", first.name), first)
    with pytest.raises(MismatchError, match="layer layer2, expected layer head"):
        check_index(index, manifest.plan, "head", "here")
    other = small_plan(options={"batch": 65})
    with pytest.raises(MismatchError, match="another set"):
        check_index(index, other, "layer2", "here")


def test_a_member_or_chunk_that_is_not_there(small_set: tuple[Path, Manifest]) -> None:
    url = layer_url(str(small_set[0]), "layer2", "000000.tar")
    index = read_index(url)
    with pytest.raises(InputError, match=r"no member 'view9.zfp'; a chunk has meta, base.zfp"):
        read_chunk(url, index, 0, ["view9.zfp"])
    for j in (-1, 3):
        with pytest.raises(InputError, match="it has 3"):
            read_chunk(url, index, j, [])


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSONISH, max_size=5))
@settings(max_examples=100, deadline=None)
def test_envelopes_hold_whatever_fields_hold(content: dict) -> None:  # type: ignore[type-arg]  # hypothesis' own shape
    assert unseal(seal(content), "here") == content
