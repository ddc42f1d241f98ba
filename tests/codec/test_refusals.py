"""What is refused: values that a row cannot hold, rates, shapes, configs. Always one error of ours that says what."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from fmshards.codec import FeatureSpec, codec_for, codec_from_config
from fmshards.codec.zfp.layout import gather_of, layout_of
from fmshards.errors import CodecError, CorruptError, FormatError, InputError
from tests.codec import reference
from tests.codec.conftest import SPECS, values

MAP = FeatureSpec("map", (16, 8, 8))


@pytest.mark.parametrize("rate", [4, "int4", "fp32", "fp16", "bf16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("spec", "place", "channel"),
    [
        (MAP, (11, 3, 4), 11),
        (FeatureSpec("map_last", (7, 7, 24)), (6, 6, 23), 23),
        (FeatureSpec("tokens", (17, 24), (4, 4), 1), (0, 5), 5),
        (FeatureSpec("vector", (203,)), (202,), 202),
    ],
)
def test_what_is_not_finite_is_refused_by_sample_and_channel(rate, bad, spec, place, channel):
    x = values("normal", (5, *spec.shape))
    x[(3, *place)] = bad
    for given in (x, torch.from_numpy(x), torch.from_numpy(x).to(torch.bfloat16)):
        with pytest.raises(CodecError, match=rf"sample 3 of the batch, channel {channel}, is not finite"):
            codec_for(rate, spec).encode(given)


def test_the_sample_is_counted_over_the_whole_batch():
    spec = FeatureSpec("map", (64, 56, 56))  # several slabs
    x = torch.zeros(9, *spec.shape)
    x[8, 60, 55, 55] = torch.nan
    with pytest.raises(CodecError, match="sample 8 of the batch, channel 60"):
        codec_for(4, spec).encode(x)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("magnitude", [1e-31, 3e-30, 1e-38, 1e-45])
def test_blocks_below_the_useful_range_are_stored_as_zeros(spec, magnitude):
    codec = codec_for(4, spec)
    x = np.stack([np.zeros(spec.shape), np.full(spec.shape, magnitude), values("relu", spec.shape)]).astype(np.float32)
    rows = codec.encode(x)
    assert not rows[:2].any()
    assert (rows[2] == codec.encode(x[2:])[0]).all()


def test_a_dead_channel_in_blocks_of_its_own_does_not_stop_the_others():
    x = values("normal", (3, 16, 8, 8))
    x[:, 4:8] *= np.float32(1e-33)
    back = codec_for(16, MAP).decode(codec_for(16, MAP).encode(x)).numpy()
    assert not back[:, 4:8].any()
    live = [c for c in range(16) if c not in range(4, 8)]
    assert np.abs(back - x)[:, live].max() < 0.01


def test_the_range_ends_where_zfpy_ends():
    codec = codec_for(32, MAP)
    edge = np.full((1, 16, 8, 8), 2.0**-98, np.float32)
    assert torch.equal(codec.decode(codec.encode(edge)), torch.from_numpy(edge))
    below = np.nextafter(edge, np.float32(0))
    stream = reference.compress(below.reshape(-1, 8, 8), 2048)
    assert not np.allclose(reference.decompress(stream, (16, 8, 8), 2048), below, rtol=0.5, atol=0)
    assert not codec.decode(codec.encode(below)).any()


def test_tiny_values_beside_larger_ones_and_zero_blocks_are_fine():
    x = np.zeros((2, 16, 8, 8), np.float32)
    x[1, 0] = 1e-35
    x[1, 0, ::4, ::4] = 1
    codec = codec_for(8, MAP)
    back = codec.decode(codec.encode(x)).numpy()
    assert not back[0].any()
    assert np.abs(back - x).max() < 0.5


def test_minus_zero_becomes_zero():
    x = np.full((1, 16, 8, 8), -0.0, np.float32)
    back = codec_for(4, MAP).decode(codec_for(4, MAP).encode(x)).numpy()
    assert not np.signbit(back).any()


@pytest.mark.parametrize("rate", [0.25, 1, 4, 32])
@pytest.mark.parametrize("top", [2.0**125, 2.0**126, 1e38, 2.0**127, np.finfo(np.float32).max])
def test_the_largest_values_decode_finite_or_are_refused(rate, top):
    codec = codec_for(rate, MAP)
    for sign in (np.sign(values("normal", (1, 16, 8, 8))), np.ones((1, 16, 8, 8))):
        x = (sign * top).astype(np.float32)
        stream = reference.compress(x.reshape(-1, 8, 8), codec.config()["block_bits"])
        if np.isfinite(reference.decompress(stream, (16, 8, 8), codec.config()["block_bits"])).all():
            assert torch.isfinite(codec.decode(codec.encode(x))).all()
        else:
            with pytest.raises(CodecError, match=r"sample 1 of the batch, at channel \d+, .* decodes to infinity"):
                codec.encode(np.concatenate([np.ones_like(x), x]))


def test_float64_is_taken_unless_it_overflows():
    x = values("normal", (2, 16, 8, 8)).astype(np.float64)
    codec = codec_for(4, MAP)
    assert (codec.encode(x) == codec.encode(x.astype(np.float32))).all()
    x[1, 5, 0, 0] = 1e39
    for given in (x, torch.from_numpy(x)):
        with pytest.raises(CodecError, match=r"1e\+39 in sample 1 of the batch, channel 5, is too large for float32"):
            codec.encode(given)


@pytest.mark.parametrize(("rate", "top"), [("fp16", 65504.0), ("bf16", 3.38953139e38)])
def test_raw_refuses_what_its_type_cannot_hold(rate, top):
    codec = codec_for(rate, MAP)
    x = torch.ones(3, 16, 8, 8)
    x[2, 7, 1, 1] = top
    assert torch.isfinite(codec.decode(codec.encode(x))).all()
    x[2, 7, 1, 1] = -min(top * 1.01, torch.finfo(torch.float32).max)
    with pytest.raises(CodecError, match=rf"sample 2 of the batch, channel 7, is too large for {rate}"):
        codec.encode(x)


@pytest.mark.parametrize(("rate", "vanishes"), [("fp16", 2.0**-25), ("bf16", 2.0**-134)])
def test_raw_refuses_a_sample_of_which_nothing_would_be_left(rate, vanishes):
    codec = codec_for(rate, MAP)
    x = torch.zeros(3, 16, 8, 8)
    x[2, 7, 1, 1] = -vanishes
    x[2, 3, 0, 0] = vanishes / 2
    with pytest.raises(CodecError, match=rf"all of sample 2 of the batch .* channel 7, is too small for {rate}"):
        codec.encode(x)
    x[2, 5, 0, 0] = vanishes * 1.25  # one value that is left: the others are its error
    back = codec.decode(codec.encode(x))
    assert torch.equal(back.nonzero(), torch.tensor([[2, 5, 0, 0]]))


@pytest.mark.parametrize("rate", [4, "int4", "fp32", "bf16"])
def test_doubles_of_which_nothing_is_left_in_float32_are_refused(rate):
    x = np.zeros((3, 16, 8, 8))
    x[1, 9] = 1e-60
    with pytest.raises(CodecError, match=r"all of sample 1 of the batch .* channel 9, is too small for float32"):
        codec_for(rate, MAP).encode(x)
    x[1, 0, 0, 0] = 1
    assert codec_for(rate, MAP).decode(codec_for(rate, MAP).encode(x))[1, 0, 0, 0] > 0.5


@pytest.mark.parametrize(
    "rate", [0, 0.2, 32.5, -4, "33", "many", "", None, True, float("nan"), float("inf"), [4], "fp8"]
)
def test_rates_out_of_range_say_the_range(rate):
    with pytest.raises(InputError, match=r"0\.25 to 32 .*fp32, fp16, bf16"):
        codec_for(rate, MAP)


@pytest.mark.parametrize("order", [[0, 1], list(range(1, 17)), [0] * 16, [*range(15), -1]])
def test_an_order_must_be_a_permutation(order):
    with pytest.raises(InputError, match="permutation of 16 channels"):
        codec_for(4, MAP, order)
    config = {**codec_for(4, MAP).config(), "order": order}
    with pytest.raises(FormatError, match="order of 16 channels"):
        codec_from_config(config)


@pytest.mark.parametrize("rate", [4, "int4", "fp16"])
@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(16, 8, 8),
        torch.zeros(1, 8, 16, 8),
        torch.zeros(1, 16, 8, 9),
        torch.zeros(1, 16, 8, 8, dtype=torch.int32),
        torch.zeros(1, 16, 8, 8, dtype=torch.complex64),
        np.zeros((1, 16, 8, 8), bool),
        [[1.0]],
        None,
    ],
    ids=str,
)
def test_values_of_another_shape_or_type(rate, x):
    with pytest.raises(CodecError, match="expected"):
        codec_for(rate, MAP).encode(x)


@pytest.mark.parametrize("rate", [0.25, 4, "int3", "fp16"])
def test_rows_and_outputs_of_another_shape_or_type(rate):
    codec = codec_for(rate, MAP)
    rows = codec.encode(values("normal", (3, 16, 8, 8)))
    for bad in (rows[:, :-1], rows[0], rows.astype(np.int8), np.concatenate([rows, rows], 1), torch.zeros(3, 4), [b""]):
        with pytest.raises(CodecError, match="expected rows"):
            codec.decode(bad)
    for out in (torch.empty(2, 16, 8, 8), torch.empty(3, 16, 64), torch.empty(3, 16, 8, 8, dtype=torch.uint8)):
        with pytest.raises(CodecError, match="expected out"):
            codec.decode(rows, out=out)


@pytest.mark.parametrize("rate", [0.375, 4, "bf16"])
def test_members_of_a_wrong_length(rate):
    codec = codec_for(rate, FeatureSpec("vector", (150,)))
    member = codec.member(codec.encode(values("normal", (3, 150))))
    for bad, n in ((member[:-1], 3), (member + b"\0", 3), (member, 2), (member, 30), (b"", 1), (member, -1)):
        with pytest.raises(CorruptError, match="member of"):
            codec.rows(bad, n)
    assert not codec.rows(member, 3).flags.writeable


HOSTILE = [
    ("codec", "zip"),
    ("codec", None),
    ("codec", ["zfp"]),
    ("block_bits", 8),
    ("block_bits", 17),
    ("block_bits", 2056),
    ("block_bits", -16),
    ("block_bits", 256.0),
    ("block_bits", True),
    ("block_bits", "256"),
    ("block_bits", 10**30),
    ("order", "0123"),
    ("order", {}),
    ("order", [True] * 16),
    ("order", [0.0] * 16),
    ("order", [[]] * 16),
    ("spec", None),
    ("spec", []),
    ("extra", 1),
    ("kind", "maps"),
    ("kind", None),
    ("kind", ["map"]),
    ("kind", "vector"),
    ("shape", [16, 8]),
    ("shape", [16, 8, 0]),
    ("shape", [16, 8, -8]),
    ("shape", [16, 8, 8.0]),
    ("shape", [16, 8, True]),
    ("shape", [16, 8, None]),
    ("shape", "888"),
    ("shape", [65536, 65536, 1]),
    ("shape", [2**40, 1, 1]),
    ("shape", [10**40, 10**40, 10**40]),
    ("grid", [8, 8]),
    ("grid", 8),
    ("class_tokens", 1),
    ("class_tokens", -1),
    ("class_tokens", "x"),
    ("more", {}),
]


@pytest.mark.parametrize(("key", "value"), HOSTILE, ids=str)
def test_hostile_configs(key, value):
    config = copy.deepcopy(codec_for(4, MAP).config())
    (config if key in ("codec", "block_bits", "order", "spec", "extra") else config["spec"])[key] = value
    with pytest.raises(FormatError):
        codec_from_config(config)


@pytest.mark.parametrize("config", [None, [], "zfp", {}, {"codec": "zfp"}, {"codec": "raw", 1: 2}])
def test_configs_of_another_form(config):
    with pytest.raises(FormatError, match="codec"):
        codec_from_config(config)


@pytest.mark.parametrize("missing", ["codec", "spec", "order", "dtype"])
def test_raw_configs_are_checked_too(missing):
    config = codec_for("fp16", MAP).config()
    assert codec_from_config(config) == codec_for("fp16", MAP)
    for bad in ({**config, missing: "fp64"}, {k: v for k, v in config.items() if k != missing}):
        with pytest.raises(FormatError):
            codec_from_config(bad)


def test_a_huge_feature_in_a_config_allocates_nothing():
    for shape in ([1, 46340, 46340], [2**31 - 1, 1, 1], [3, 3, 2**27]):
        spec = {"kind": "map", "shape": shape, "grid": None, "class_tokens": 0}
        codec = codec_from_config({"codec": "zfp", "spec": spec, "order": None, "block_bits": 256})
        with pytest.raises(CorruptError):
            codec.rows(b"short", 1)


def test_a_layout_of_too_many_places_is_refused_before_tables_are_made():
    spec = FeatureSpec("map", (3, 9000, 9000))
    with pytest.raises(CodecError, match=r"map \[3, 9000, 9000\] makes 5,062,500 blocks"):
        gather_of(layout_of(spec))


def test_memory_that_is_not_there_is_said(monkeypatch):
    codec = codec_for("int4", MAP)
    rows = codec.encode(values("normal", (3, 16, 8, 8)))

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("fmshards.codec.integer.engine.encode_rows", full)
    monkeypatch.setattr("fmshards.codec.integer.engine.decode_rows", full)
    for work in (lambda: codec.encode(values("normal", (3, 16, 8, 8))), lambda: codec.decode(rows)):
        with pytest.raises(CodecError, match=r"not enough memory for 3 features map \[16, 8, 8\]"):
            work()


@pytest.mark.parametrize(
    ("kind", "shape", "grid", "k"),
    [
        ("tokens", (17, 8), (4, 4), 0),
        ("tokens", (17, 8), (4, 4), 2),
        ("tokens", (2, 8), None, 3),
        ("tokens", (16, 8), (0, 16), 0),
        ("tokens", (16, 8), (-4, -4), 0),
        ("tokens", (16, 8), (16,), 0),
        ("map", (3, 4, 4), (4, 4), 0),
        ("vector", (3, 4), None, 0),
        ("vector", (), None, 0),
    ],
)
def test_features_that_do_not_fit_together(kind, shape, grid, k):
    with pytest.raises(CodecError, match="feature"):
        FeatureSpec(kind, shape, grid, k)


def test_errors_and_codecs_pickle():
    for rate in (4, "int4", "fp16"):
        codec = codec_for(rate, MAP, list(range(16))[::-1])
        rows = codec.encode(values("normal", (2, 16, 8, 8)))
        again = pickle.loads(pickle.dumps(codec))
        assert again == codec
        assert torch.equal(again.decode(rows), codec.decode(rows))
        with pytest.raises(CodecError) as caught:
            codec.decode(rows[:, 1:])
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
