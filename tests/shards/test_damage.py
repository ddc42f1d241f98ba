"""Damaged shards: reading gives what was written or raises, and verify names the place."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from fmshards.errors import FmshardsError
from fmshards.shards import (
    Chunk,
    Manifest,
    ShardEntry,
    chunk_from_members,
    entry_of,
    layer_url,
    read_chunk,
    read_index,
    verify_shard,
)
from fmshards.shards.tar import BLOCK, END, INDEX_NAME, member_name, padding


def _read(url: str, entry: ShardEntry | None) -> list[Chunk]:
    index = read_index(url, entry)
    names = [name for name in index.chunks[0].members if name != "meta"]
    return [read_chunk(url, index, j, names) for j in range(len(index.chunks))]


def _same(a: list[Chunk], b: list[Chunk]) -> bool:
    return len(a) == len(b) and all(
        (x.n, x.keys, x.fields, x.members) == (y.n, y.keys, y.fields, y.members) and np.array_equal(x.theta, y.theta)
        for x, y in zip(a, b, strict=True)
    )


def _outcome(url: str, entry: ShardEntry | None, truth: list[Chunk]) -> bool:
    """True: read, and the truth. False: refused. Anything else fails the test."""
    try:
        found = _read(url, entry)
    except FmshardsError as error:
        message = str(error)
    else:
        assert _same(found, truth)
        return True
    assert url in message
    return False


def _ranges(url: str, entry: ShardEntry) -> list[tuple[str, int, int]]:
    """Every byte range of a shard, and how verify calls it."""
    index = read_index(url, entry)
    places = [
        (member_name(c.key, name), offset, length)
        for c in index.chunks
        for name, (offset, length, _) in c.members.items()
    ]
    out = []
    for name, offset, length in [*places, (INDEX_NAME, entry.index_offset, entry.index_length)]:
        out.append((f"header of {name}", offset - BLOCK, offset))
        out.append((name, offset, offset + length))
        out.append((f"padding after {name}", offset + length, offset + length + padding(length)))
    return [*out, ("end of the tar", entry.bytes - len(END), entry.bytes)]


@pytest.fixture
def victim(small_set: tuple[Path, Manifest], tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / "000000.tar"
    data = (small_set[0] / "layer2" / "000000.tar").read_bytes()
    path.write_bytes(data)
    return path, data


def test_300_bit_flips(small_set: tuple[Path, Manifest], victim: tuple[Path, bytes]) -> None:
    path, data = victim
    entry = small_set[1].shards["layer2"][0]
    truth = _read(str(path), entry)
    ranges = _ranges(str(path), entry)
    draw = random.Random(7)
    refused = 0
    for _ in range(300):
        at, bit = draw.randrange(len(data)), draw.randrange(8)
        flipped = bytearray(data)
        flipped[at] ^= 1 << bit
        path.write_bytes(flipped)
        name = next(name for name, start, end in ranges if start <= at < end)
        for known in (entry, None):
            read = _outcome(str(path), known, truth)
            member = not name.startswith(("header", "padding", "end"))
            assert not (read and member), f"a flip at {at} in {name} was not noticed"
            refused += not read
        problem = verify_shard(str(path), entry)
        assert problem is not None
        assert problem.start <= at < problem.end
        assert problem.member == name
        # What makes a shard whole is at its end; a change before it is for those who read there.
        at_the_end = name in ("__fmshards__/index.msgpack", "end of the tar")
        assert at_the_end <= (entry_of(str(path), small_set[1].plan.digest, "layer2") is None)
    assert refused > 100


def test_100_truncations(small_set: tuple[Path, Manifest], victim: tuple[Path, bytes]) -> None:
    path, data = victim
    entry = small_set[1].shards["layer2"][0]
    truth = _read(str(path), entry)
    draw = random.Random(8)
    cuts = [draw.randrange(len(data)) for _ in range(50)] + [512 * draw.randrange(len(data) // 512) for _ in range(50)]
    for cut in cuts:
        path.write_bytes(data[:cut])
        assert not _outcome(str(path), None, truth)
        whole = _outcome(str(path), entry, truth)
        assert whole == (cut >= entry.index_offset + entry.index_length)
        problem = verify_shard(str(path), entry)
        assert problem is not None
        assert problem.start <= cut <= problem.end
        assert entry_of(str(path), small_set[1].plan.digest, "layer2") is None


def test_flips_in_members_that_a_tar_reader_gave(small_set: tuple[Path, Manifest]) -> None:
    url = layer_url(str(small_set[0]), "layer2", "000000.tar")
    chunk = read_index(url).chunks[0]
    data = Path(url).read_bytes()
    members = {
        "meta.msgpack" if name == "meta" else name: data[offset : offset + length]
        for name, (offset, length, _) in chunk.members.items()
    }
    truth = chunk_from_members(members, url)
    draw = random.Random(9)
    for _ in range(200):
        name = draw.choice(list(members))
        flipped = bytearray(members[name])
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        with pytest.raises(FmshardsError, match=url):
            chunk_from_members({**members, name: bytes(flipped)}, url)
        with pytest.raises(FmshardsError, match=url):
            chunk_from_members({**members, name: members[name][: draw.randrange(len(flipped))]}, url)
    for name in members:
        with pytest.raises(FmshardsError, match=r"missing|no member"):
            chunk_from_members({k: v for k, v in members.items() if k != name}, url)
    assert _same([truth], [read_chunk(url, read_index(url), 0, [n for n in members if n != "meta.msgpack"])])


def test_another_sound_shard_in_its_place_is_named(small_set: tuple[Path, Manifest]) -> None:
    folder, manifest = small_set
    problem = verify_shard(layer_url(str(folder), "layer2", "000001.tar"), manifest.shards["layer2"][0])
    assert problem is not None
    assert "another one" in problem.what


def test_rows_of_another_size_are_named(small_set: tuple[Path, Manifest]) -> None:
    folder, manifest = small_set
    url, entry = layer_url(str(folder), "layer2", "000000.tar"), manifest.shards["layer2"][0]
    codecs = manifest.plan.layer_members("layer2")
    problem = verify_shard(
        url, entry, {**codecs, "mirror.zfp": codecs["base.zfp"].__class__(codecs["base.zfp"].spec, 512)}
    )
    assert problem is not None
    assert problem.member == "000000.mirror.zfp"
    problem = verify_shard(url, entry, {"base.zfp": codecs["base.zfp"]})
    assert problem is not None
    assert "not a member of this layer" in problem.what


WRITE = """
    import os, signal, sys
    from fmshards.shards import ShardWriter
    with ShardWriter(sys.argv[1], "0" * 64, "layer2") as writer:
        for j in range(50):
            writer.add([f"k{j}"], {"cls": [b"1"]}, None, {"base.raw": bytes(100_000)})
            if j == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", [0, 30])
def test_a_kill_while_writing_leaves_nothing_to_see(tmp_path: Path, moment: int) -> None:
    from fmshards import store

    url = str(tmp_path / "000000.tar")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(WRITE), url, str(moment)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert store.list_names(str(tmp_path)) == []
    assert entry_of(url, "0" * 64, "layer2") is None
