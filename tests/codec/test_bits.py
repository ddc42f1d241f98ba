"""The bytes are zfpy's, to the last bit: on each sample alone, on the chunk, and on the plain array where it fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmshards.codec import FeatureSpec, codec_for, codec_from_config
from fmshards.codec.zfp.layout import gather_of, layout_of
from tests.codec import reference
from tests.codec.conftest import BITS, DATA, SPECS, features, orders, values


def bits_of(codec) -> int:
    return codec.config()["block_bits"]


def check_against_zfpy(spec: FeatureSpec, bits: int, order, x: np.ndarray, pick: list[int]) -> None:
    codec = codec_for(bits / 64, spec, order)
    assert bits_of(codec) == bits
    rows = codec.encode(x)
    blocks = reference.blocks_of(x, spec, order)
    n, per_sample = blocks.shape[:2]

    assert rows.dtype == np.uint8
    assert rows.shape == (n, codec.row_bytes)
    assert codec.row_bytes == per_sample * bits // 8
    assert codec.rate == 8 * codec.row_bytes / spec.values
    for i in range(n):
        alone = reference.compress(blocks[i].reshape(-1, 4, 4), bits)
        assert rows[i].tobytes() == alone[: codec.row_bytes]
        assert not any(alone[codec.row_bytes :])
    assert codec.member(rows) == reference.compress(blocks.reshape(-1, 4, 4), bits)

    decoded = reference.decompress(codec.member(rows), (n * per_sample * 4, 4, 4), bits)
    expected = reference.values_of(decoded.reshape(n, per_sample, 4, 4, 4), spec, order)
    assert codec.decode(rows).numpy().tobytes() == expected.tobytes()
    assert codec.decode(rows[pick]).numpy().tobytes() == expected[pick].tobytes()


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("data", DATA)
def test_rows_are_zfpys_for_every_sort_of_data(spec, data):
    for bits in (16, 152, 256):
        x = values(data, (3, *spec.shape), seed=bits)
        check_against_zfpy(spec, bits, None, x, [2, 0, 2])


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_rows_are_zfpys_for_any_feature_rate_and_order(data):
    spec = data.draw(features())
    order = data.draw(orders(spec.channels))
    bits = data.draw(st.sampled_from(BITS) | st.integers(2, 256).map(lambda k: 8 * k))
    n = data.draw(st.integers(1, 4))
    x = values(data.draw(st.sampled_from(DATA)), (n, *spec.shape), data.draw(st.integers(0, 99)))
    pick = data.draw(st.lists(st.integers(0, n - 1), max_size=6))
    check_against_zfpy(spec, bits, order, x, pick)


@pytest.mark.parametrize("shape", [(8, 8, 8), (4, 4, 12), (32, 16, 16), (12, 28, 4)])
@pytest.mark.parametrize("bits", [16, 88, 256, 2048])
def test_a_map_with_sides_of_4_is_the_plain_array(shape, bits):
    x = values("relu", (5, *shape))
    codec = codec_for(bits / 64, FeatureSpec("map", shape))
    rows = codec.encode(x)
    stream = reference.compress(x.reshape(-1, *shape[1:]), bits)
    assert codec.member(rows) == stream
    plain = reference.decompress(stream, (5 * shape[0], *shape[1:]), bits)
    assert codec.decode(rows).numpy().tobytes() == plain.tobytes()


@pytest.mark.parametrize("shape", [(4, 5, 9), (8, 9, 5), (4, 6, 8)])
def test_a_map_of_4k_untiled_channels_is_the_plain_array_too(shape):
    assert layout_of(FeatureSpec("map", shape)).tile == (1, 1)
    x = values("normal", (3, *shape))
    codec = codec_for(4, FeatureSpec("map", shape))
    assert codec.member(codec.encode(x)) == reference.compress(x.reshape(-1, *shape[1:]), 256)


@pytest.mark.parametrize(("c", "side", "tile"), [(16, 14, 2), (64, 7, 4), (32, 14, 2), (28, 14, 2), (176, 7, 4)])
def test_tiled_maps_are_mosaics_padded_by_zfpy_itself(c, side, tile):
    x = values("normal", (2, c, side, side))
    mosaics = x.reshape(2, c // tile**2, tile, tile, side, side).transpose(0, 1, 2, 4, 3, 5)
    mosaics = mosaics.reshape(2, c // tile**2, tile * side, tile * side)
    spec = FeatureSpec("map", (c, side, side))
    assert layout_of(spec).tile == (tile, tile)
    codec = codec_for(4, spec)
    for row, sample in zip(codec.encode(x), mosaics, strict=True):
        assert row.tobytes() == reference.compress(sample, 256)[: codec.row_bytes]


def test_blocks_with_nothing_valid_are_zeros():
    for spec in (FeatureSpec("map", (65, 1, 6)), FeatureSpec("map_last", (2, 5, 66))):
        places = gather_of(layout_of(spec)).zeros
        assert len(places)
        rows = codec_for(4, spec).encode(np.full((2, *spec.shape), 7, np.float32)).reshape(2, -1, 32)
        assert not rows[:, np.unique(places // 64)].any()


def test_tiles_waste_nothing_where_channels_divide():
    assert codec_for(4, FeatureSpec("map", (256, 14, 14))).rate == 4
    assert codec_for(4, FeatureSpec("map", (512, 7, 7))).rate == 4
    assert codec_for(4, FeatureSpec("map_last", (7, 7, 64))).rate == 4


def test_a_vector_is_runs_of_64_padded_by_zfpy_itself():
    x = values("normal", (2, 64 + 16 * 3))
    codec = codec_for(8, FeatureSpec("vector", (x.shape[1],)))
    for row, sample in zip(codec.encode(x), x, strict=True):
        assert row.tobytes() == reference.compress(sample.reshape(-1, 4, 4), 512)[: codec.row_bytes]


def test_class_tokens_follow_the_map():
    spec = FeatureSpec("tokens", (18, 32), (4, 4), 2)
    x = values("normal", (3, 18, 32))
    rows = codec_for(4, spec).encode(x)
    grid = codec_for(4, FeatureSpec("map_last", (4, 4, 32))).encode(x[:, 2:].reshape(3, 4, 4, 32))
    cls = codec_for(4, FeatureSpec("vector", (64,))).encode(x[:, :2].reshape(3, 64))
    assert (rows == np.concatenate([grid, cls], 1)).all()


def test_an_order_is_a_permutation_before_the_layout():
    spec = FeatureSpec("map", (24, 7, 7))
    order = list(np.random.default_rng(0).permutation(24))
    x = values("normal", (2, 24, 7, 7))
    ordered, plain = codec_for(4, spec, order), codec_for(4, spec)
    assert (ordered.encode(x) == plain.encode(x[:, order])).all()
    assert torch.equal(ordered.decode(ordered.encode(x))[:, order], plain.decode(plain.encode(x[:, order])))


def test_an_identity_order_is_no_order():
    spec = FeatureSpec("map", (8, 8, 8))
    assert codec_for(4, spec, range(8)) == codec_for(4, spec)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("rate", [4, "fp32", "fp16", "bf16"])
def test_rows_gathered_from_several_chunks_decode_in_one_call(spec, rate):
    codec = codec_for(rate, spec)
    chunks = [codec.rows(codec.member(codec.encode(values("relu", (n, *spec.shape), n))), n) for n in (3, 1, 5)]
    whole = [codec.decode(chunk) for chunk in chunks]
    picks = [(2, 4), (0, 1), (1, 0), (2, 0), (0, 1)]
    rows = np.stack([chunks[c][i] for c, i in picks])
    expected = torch.stack([whole[c][i] for c, i in picks])
    assert torch.equal(codec.decode(rows), expected)
    assert torch.equal(codec.decode(torch.from_numpy(rows)), expected)
    spaced = np.zeros((2 * len(rows), codec.row_bytes + 3), np.uint8)[::2, 1:-2]
    spaced[...] = rows
    assert torch.equal(codec.decode(spaced), expected)


@pytest.mark.parametrize("rate", [0.25, 4, 32, "fp16"])
def test_no_samples(rate):
    for spec in SPECS:
        codec = codec_for(rate, spec)
        rows = codec.encode(torch.empty(0, *spec.shape))
        assert rows.shape == (0, codec.row_bytes)
        assert codec.decode(rows).shape == (0, *spec.shape)
        assert codec.member(rows) == b""
        assert codec.rows(b"", 0).shape == (0, codec.row_bytes)


def test_a_batch_of_many_slabs_equals_its_samples():
    spec = FeatureSpec("map", (64, 56, 56))
    codec = codec_for(2, spec)
    x = torch.from_numpy(values("relu", (9, *spec.shape)))
    rows = codec.encode(x)
    assert all((codec.encode(x[i : i + 1]) == rows[i]).all() for i in range(9))
    assert codec.member(rows) == reference.compress(x.reshape(-1, 56, 56).numpy(), 128)
    assert torch.equal(codec.decode(rows)[7], codec.decode(rows[7:8])[0])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_bytes_decode_to_something(data):
    spec = data.draw(st.sampled_from(SPECS))
    codec = codec_for(data.draw(st.sampled_from(BITS)) / 64, spec)
    rng = np.random.default_rng(data.draw(st.integers(0, 9999)))
    rows = rng.integers(0, 256, (data.draw(st.integers(0, 3)), codec.row_bytes), np.uint8)
    first = codec.decode(rows)
    assert first.shape == (len(rows), *spec.shape)
    assert first.numpy().tobytes() == codec.decode(rows).numpy().tobytes()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_config_gives_the_codec_again(data):
    import json

    spec = data.draw(features())
    rate = data.draw(st.floats(0.25, 32) | st.sampled_from(["fp32", "fp16", "bf16", "2.5"]))
    codec = codec_for(rate, spec, data.draw(orders(spec.channels)))
    again = codec_from_config(json.loads(json.dumps(codec.config())))
    assert again == codec
    assert again.row_bytes == codec.row_bytes
