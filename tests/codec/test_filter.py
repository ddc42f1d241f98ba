"""The filter: rows come back whole, or one error of ours says that they do not."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fmshards.codec import FeatureSpec, codec_for, codec_from_config
from fmshards.errors import CorruptError, InputError
from fmshards.kernels import jit
from tests.codec.conftest import DATA, SPECS, features, values

MAP = FeatureSpec("map", (16, 8, 8))
RATES = [
    "dct0.3",
    "dct2",
    0.25,
    2.625,
    4,
    32,
    "int2",
    "int3",
    "int4",
    "int5",
    "int6",
    "int7",
    "int8",
    "fp32",
    "fp16",
    "bf16",
]


@given(features(), st.sampled_from(RATES), st.sampled_from(DATA), st.integers(1, 5), st.booleans())
@settings(max_examples=200, deadline=None)
def test_rows_come_back(spec, rate, name, n, numba):
    plain, codec = codec_for(rate, spec), codec_for(rate, spec, filter="zstd")
    x = values(name, (n, *spec.shape)) * np.float32(1 if name != "huge" else 1e-30)
    if rate == "fp16":  # beyond its range it refuses, with or without a filter
        x = (x * np.float32(1 if name != "tiny" else 1e20)).clip(-60_000, 60_000)
    rows = codec.encode(x)
    assert (rows == plain.encode(x)).all()
    member = codec.member(rows)
    least, most = codec.member_bytes(n)
    assert least <= len(member) <= most
    with pytest.MonkeyPatch.context() as patch:
        if not numba:
            patch.setattr(jit, "missing", lambda: "not here")
        found = codec.rows(member, n)
    assert (found == rows).all()
    assert not found.flags.writeable
    assert torch.equal(codec.decode(found), plain.decode(rows))


@pytest.mark.parametrize("rate", RATES)
def test_it_is_a_codec_like_the_others(rate):
    plain, codec = codec_for(rate, MAP), codec_for(rate, MAP, filter="zstd")
    for name in ("name", "extension", "spec", "row_bytes", "rate", "item_bytes"):
        assert getattr(codec, name) == getattr(plain, name)
    assert codec.config() == {**plain.config(), "filter": "zstd"}
    assert codec_from_config(codec.config()) == codec
    assert codec_from_config(codec.config()) != plain
    assert pickle.loads(pickle.dumps(codec)) == codec


def test_unknown_filters_say_which_are_known():
    with pytest.raises(InputError, match="zstd"):
        codec_for(4, MAP, filter="lz4")


@pytest.mark.parametrize("rate", [4, "int3", "fp16"])
def test_a_flip_of_any_bit_gives_rows_of_the_right_size_or_an_error(rate):
    codec = codec_for(rate, FeatureSpec("map", (4, 4, 4)), filter="zstd")
    member = codec.member(codec.encode(values("relu", (3, 4, 4, 4))))
    refused = 0
    for bit in range(8 * len(member)):
        changed = bytearray(member)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            assert codec.rows(bytes(changed), 3).shape == (3, codec.row_bytes)
        except CorruptError:
            refused += 1
    assert refused


def test_frames_of_another_form_are_refused_before_memory_is_taken():
    codec = codec_for("fp32", MAP, filter="zstd")
    rows = codec.encode(values("relu", (3, 16, 8, 8)))
    member = codec.member(rows)
    data = zstandard.decompress(member)
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    unstated = zstandard.ZstdCompressor(write_content_size=False).compress(data)
    two = zstandard.compress(data[:100]) + zstandard.compress(data[100:])
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + member
    for bad in (bomb, unstated, two, skippable, member + b"\0", member + member, member[:-1], member[:5], b"", data):
        with pytest.raises(CorruptError, match="zstd frame"):
            codec.rows(bad, 3)
    for n in (2, 4, 0, -1):
        with pytest.raises(CorruptError, match="zstd frame"):
            codec.rows(member, n)


def test_threads_share_a_codec_and_write_the_same_bytes():
    codec = codec_for("int5", FeatureSpec("map_last", (16, 16, 24)), filter="zstd")
    rows = [codec.encode(values("relu", (16, 16, 16, 24), seed)) for seed in range(4)]
    expected = [codec.member(part) for part in rows]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            assert list(pool.map(codec.member, rows)) == expected
            found = list(pool.map(codec.rows, expected, [16] * 4))
            assert all((a == b).all() for a, b in zip(found, rows, strict=True))


def test_sparse_features_shrink():
    x = values("sparse", (64, 16, 8, 8))
    for rate in RATES[5:]:
        codec = codec_for(rate, MAP, filter="zstd")
        rows = codec.encode(x)
        assert len(codec.member(rows)) < (0.7 if "int" in str(rate) or "p" in str(rate) else 1.0) * rows.nbytes


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_one_row_alone(spec):
    codec = codec_for("int3", spec, filter="zstd")
    rows = codec.encode(values("relu", (1, *spec.shape)))
    assert (codec.rows(codec.member(rows), 1) == rows).all()


def test_a_frame_too_short_for_what_it_states_takes_no_memory():
    codec = codec_for("fp32", FeatureSpec("map", (64, 1024, 1024)), filter="zstd")
    n = 4096  # a terabyte
    whole = zstandard.ZstdCompressor(write_content_size=True).compressobj(size=n * codec.row_bytes)
    frame = whole.compress(bytes(1000)) + whole.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    assert zstandard.frame_content_size(frame) == n * codec.row_bytes
    with pytest.raises(CorruptError, match="cannot hold so many"):
        codec.rows(frame, n)
    assert codec.member_memory(n) >= n * codec.row_bytes
    assert codec_for("fp32", codec.spec).member_memory(n) == 0
