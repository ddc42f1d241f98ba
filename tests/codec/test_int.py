"""`int`: every bit of what is decoded, what fitting is worth, and memory that is not touched."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmshards.codec import FeatureSpec, codec_for, codec_from_config
from fmshards.codec.integer.runs import Runs
from fmshards.codec.integer.steps import StepSample, fit_steps
from fmshards.errors import CodecError, CorruptError, FormatError, InputError
from fmshards.kernels import jit
from tests.codec import reference_int
from tests.codec.conftest import DATA, SPECS, features, values

ALL_BITS = range(2, 9)
MAP = FeatureSpec("map", (16, 8, 8))


def steps_of(spec: FeatureSpec, bits: int, x: np.ndarray, filtered: bool = False):
    sample = StepSample(spec)
    sample.add(x)
    return fit_steps(sample, bits, filtered)


def codec_of(spec: FeatureSpec, bits: int, channel: bool, x: np.ndarray):
    if channel:
        return codec_for(f"int{bits}-channel", spec, steps=steps_of(spec, bits, x))
    return codec_for(f"int{bits}", spec)


@given(features(), st.sampled_from(ALL_BITS), st.booleans(), st.sampled_from(DATA), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_rows_decode_bit_for_bit_as_written_down(spec, bits, channel, name, seed):
    x = values(name, (3, *spec.shape), seed)
    codec = codec_of(spec, bits, channel, x)
    rows = codec.encode(x)
    fuzzed = np.random.default_rng(seed).integers(0, 256, rows.shape, np.uint8)
    for some in (rows, fuzzed):
        found = codec.decode(some).numpy()
        steps = codec.steps
        for i in range(3):
            expected = reference_int.decode(some[i].tobytes(), spec, bits, steps)
            same = found[i].view(np.uint32) == expected.view(np.uint32)
            assert (same | np.isnan(expected)).all()
            assert (np.isnan(found[i]) == np.isnan(expected)).all()


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("channel", [False, True])
def test_any_rows_into_any_strides(spec, bits, channel):
    x = values("normal", (7, *spec.shape), bits)
    codec = codec_of(spec, bits, channel, x)
    rows = codec.encode(x)
    expected = codec.decode(rows)
    chosen = [5, 0, 5, 3]
    assert torch.equal(codec.decode(rows[chosen]), expected[chosen])
    assert torch.equal(codec.decode(rows[::-2]), expected[[6, 4, 2, 0]])
    wide = np.zeros((7, 2 * codec.row_bytes + 1), np.uint8)[:, 1::2]
    wide[...] = rows
    assert torch.equal(codec.decode(wide), expected)
    for i in range(7):
        assert (codec.encode(x[i : i + 1]) == rows[i]).all()
    around = torch.full((9, *spec.shape), 7.0)
    codec.decode(rows, out=around[1:8])
    assert torch.equal(around[1:8], expected)
    assert (around[[0, 8]] == 7).all()
    between = torch.full((7, *spec.shape, 2), 7.0)
    codec.decode(rows, out=between[..., 0])
    assert torch.equal(between[..., 0], expected)
    assert (between[..., 1] == 7).all()
    more = torch.full((7, 3, *spec.shape), 7.0)
    codec.decode(rows, out=more[:, 1])
    assert torch.equal(more[:, 1], expected)
    assert (more[:, ::2] == 7).all()


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("name", ["normal", "relu", "sparse", "positive", "mixed", "smooth", "tiny"])
def test_no_run_is_worse_than_by_its_extremes(bits, name):
    spec = FeatureSpec("map", (32, 9, 11))
    x = values(name, (4, *spec.shape), bits)
    codec = codec_for(f"int{bits}", spec)
    back = codec.decode(codec.encode(x)).numpy()
    ours, theirs = np.zeros((4, 32)), np.zeros((4, 32))
    for i, c in np.ndindex(4, 32):
        run = x[i, c].astype(np.float64)
        ours[i, c] = np.square(back[i, c] - run).sum()
        theirs[i, c] = np.square(reference_int.min_max(x[i, c], bits) - run).sum()
    assert (ours <= theirs * 1.001).all()
    if name == "normal":
        assert ours.sum() < theirs.sum() * {2: 0.7, 3: 0.85, 4: 0.97}.get(bits, 1.0)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("channel", [False, True])
def test_zeros_of_a_relu_stay_zeros(bits, channel):
    x = values("relu", (4, 16, 8, 8))
    x[2] = 0
    x[:, 3] = 0
    codec = codec_of(MAP, bits, channel, x)
    back = codec.decode(codec.encode(x)).numpy()
    assert (back[x == 0] == 0).all()
    assert not np.signbit(back[x == 0]).any()


@pytest.mark.parametrize("bits", ALL_BITS)
def test_constant_runs_and_large_means(bits):
    spec = FeatureSpec("map", (5, 6, 7))
    x = np.broadcast_to(np.float32([0.37, -5.01, 1e-35, 1000.3, -1e-20])[:, None, None], (2, *spec.shape)).copy()
    codec = codec_for(f"int{bits}", spec)
    back = codec.decode(codec.encode(x)).numpy()
    assert np.abs(back - x).max(initial=0, where=np.abs(x) > 1e-30) < 1e-4 * 1000
    assert np.allclose(back[:, [0, 1, 3]], x[:, [0, 1, 3]], rtol=1e-4, atol=0)
    x = 1000 + values("normal", (2, *spec.shape)) / 100  # a step of bfloat16 at 1000 is 4
    error = np.abs(codec.decode(codec.encode(x)).numpy() - x).max()
    assert error <= 4.1 / (2**bits - 1)


@pytest.mark.parametrize("top", [1e37, 2.0**126, 3e38, np.finfo(np.float32).max])
@pytest.mark.parametrize("channel", [False, True])
def test_the_largest_values_decode_finite_or_are_refused(top, channel):
    signs = np.sign(values("normal", (2, 16, 8, 8))).astype(np.float32)
    for bits in ALL_BITS:
        for x in (signs * np.float32(top), np.abs(signs) * np.float32(top)):
            codec = codec_of(MAP, bits, channel, x)
            try:
                back = codec.decode(codec.encode(x)).numpy()
            except CodecError as error:
                assert "channel" in str(error)  # noqa: PT017  # either is right
                assert "infinity" in str(error)  # noqa: PT017  # not every case raises
            else:
                assert np.abs(back / np.float32(top) - x / np.float32(top)).max() < 1.01 / (2**bits - 1)


@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize("exponent", [-149, -140, -126, -110, -101, -100, -99, -95])
def test_no_error_is_larger_than_the_energy_however_small_the_values(channel, exponent):
    rng = np.random.default_rng(exponent + 150)
    x = rng.random((2, 16, 8, 8)) * 2.0**exponent
    x[:, 4:8] = np.where(rng.random((2, 4, 8, 8)) < 0.98, 0, x[:, 4:8])
    x[:, 8:12] *= -1
    x[:, 12:] -= 0.3 * 2.0**exponent
    x = x.astype(np.float32)
    for bits in (2, 4, 8):
        codec = codec_of(MAP, bits, channel, x)
        back = codec.decode(codec.encode(x)).numpy().astype(np.float64)
        error, energy = np.square(back - x).sum((0, 2, 3)), np.square(x.astype(np.float64)).sum((0, 2, 3))
        assert (error <= energy * (1 + 1e-12)).all()


def test_more_bits_give_less_error():
    for spec in SPECS:
        if len(reference_int.runs_of(spec)[0]) < 16:
            continue  # of a run of a few values chance decides
        x = values("smooth", (4, *spec.shape))
        errors = []
        for bits in ALL_BITS:
            codec = codec_for(f"int{bits}", spec)
            errors.append(float(np.square(codec.decode(codec.encode(x)).numpy() - x).sum()))
        assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_without_numba_rows_decode_the_same(spec, monkeypatch):
    if jit.missing():
        pytest.skip("numba does not work here: there is nothing to compare")
    for bits in ALL_BITS:
        for channel in (False, True):
            x = values("relu" if bits % 2 else "normal", (5, *spec.shape), bits)
            codec = codec_of(spec, bits, channel, x)
            rows, out = codec.encode(x), torch.full((5, *spec.shape), torch.nan)
            fast = codec.decode(rows)
            with monkeypatch.context() as patch:
                patch.setattr(jit, "missing", lambda: "not here")
                assert torch.equal(codec.decode(rows, out=out), fast)
                slow = codec.decode(codec.encode(x))
            # Sums have another order: another fit may win, of nearly the same error.
            fast_error, slow_error = (float((y - torch.from_numpy(x)).square().sum()) for y in (fast, slow))
            assert slow_error <= 1.02 * fast_error + 1e-12
            assert fast_error <= 1.02 * slow_error + 1e-12


@pytest.mark.skipif(sys.platform != "linux", reason="guards a page by mprotect")
@pytest.mark.parametrize("kind", ["map", "map_last", "tokens", "vector"])
def test_nothing_beside_a_row_is_read_and_nothing_beside_out_written(kind):
    """Rows that end, and an output that ends, where a page begins that may not be touched."""
    code = f"""
import ctypes, mmap, numpy as np, torch
from fmshards.codec import FeatureSpec, codec_for
PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
def guarded(size):
    pages = -(-size // PAGE) * PAGE
    area = mmap.mmap(-1, pages + PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    assert libc.mprotect(ctypes.c_void_p(start + pages), ctypes.c_size_t(PAGE), 0) == 0
    return np.frombuffer(area, np.uint8, size, pages - size)
shapes = dict(map=[(3, 5, 9), (16, 7, 7), (1, 1, 1)], map_last=[(5, 9, 3), (7, 7, 24)],
              tokens=[(17, 24), (3, 21)], vector=[(203,), (1,), (64,)])["{kind}"]
rng = np.random.default_rng(0)
for shape in shapes:
    spec = FeatureSpec("{kind}", shape)
    for bits in range(2, 9):
        for steps in (None, ((0.5,) * spec.channels, (0.25,) * spec.channels)):
            codec = codec_for(f"int{{bits}}" + ("-channel" if steps else ""), spec, steps=steps)
            rows = guarded(3 * codec.row_bytes).reshape(3, -1)
            rows[...] = rng.integers(0, 256, rows.shape)
            out = torch.from_numpy(guarded(4 * 3 * spec.values).view(np.float32).reshape(3, *shape))
            codec.decode(rows, out=out)
            codec.encode(np.zeros((3, *shape), np.float32))
print("survived")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "survived", done.stderr[-500:]


def test_steps_do_not_depend_on_batches_and_clip_what_is_rare():
    x = values("relu", (64, 16, 8, 8))
    x[5, 2, 0, 0] = 40  # one value far from all others
    whole, parts = StepSample(MAP), StepSample(MAP)
    whole.add(x)
    for part in np.array_split(x, [1, 7, 40]):
        parts.add(torch.from_numpy(part))
    for bits in ALL_BITS:
        assert fit_steps(whole, bits) == fit_steps(parts, bits)
    scale, offset = fit_steps(whole, 3)
    assert set(offset) == {0.0}
    assert scale[2] * 7 < 20
    chosen = whole.select((2, 9))
    assert fit_steps(chosen, 3) == ((scale[2], scale[9]), (0.0, 0.0))


def test_fitted_steps_beat_the_range():
    x = values("normal", (32, 16, 8, 8)) * np.linspace(0.1, 3, 16, dtype=np.float32)[:, None, None]
    low, high = x.min((0, 2, 3)), x.max((0, 2, 3))
    for bits in ALL_BITS:
        plain = (tuple(((high - low) / np.float32(2**bits - 1)).tolist()), tuple(low.tolist()))
        fitted = codec_for(f"int{bits}-channel", MAP, steps=steps_of(MAP, bits, x))
        by_range = codec_for(f"int{bits}-channel", MAP, steps=plain)
        ours, theirs = (np.square(c.decode(c.encode(x)).numpy() - x).sum() for c in (fitted, by_range))
        assert ours <= theirs * (0.8 if bits < 5 else 1.01)


def test_behind_a_filter_a_rectified_layer_has_one_step():
    x = values("relu", (32, 16, 8, 8)) * np.linspace(0.1, 3, 16, dtype=np.float32)[:, None, None]
    x[:, 4] = 0
    scale, _ = steps_of(MAP, 6, x, filtered=True)
    assert scale[4] == 0
    assert len(set(scale)) == 2
    assert max(scale) == max(steps_of(MAP, 6, x)[0])
    signed = values("normal", (32, 16, 8, 8))
    assert steps_of(MAP, 6, signed, filtered=True) == steps_of(MAP, 6, signed)


def test_a_sample_refuses_what_is_not_finite_or_empty():
    with pytest.raises(CodecError, match="empty"):
        fit_steps(StepSample(MAP), 4)
    x = values("normal", (2, 16, 8, 8))
    x[1, 7, 0, 0] = np.inf
    with pytest.raises(CodecError, match="channel 7 is not finite"):
        StepSample(MAP).add(x)


@pytest.mark.parametrize("rate", ["int1", "int9", "int", "int4-channels", "int04x", "int4-", "channel"])
def test_rates_that_are_none(rate):
    with pytest.raises(InputError, match="int2 to int8"):
        codec_for(rate, MAP)


def test_steps_where_they_belong():
    with pytest.raises(InputError, match="-channel"):
        codec_for("int4-channel", MAP)
    with pytest.raises(InputError, match="-channel"):
        codec_for("int4", MAP, steps=((1.0,) * 16, (0.0,) * 16))


def test_the_rate_counts_steps_and_whole_bytes():
    spec = FeatureSpec("map", (16, 7, 7))
    assert codec_for("int4", spec).row_bytes == 16 * (25 + 4)
    assert codec_for("int4-channel", spec, steps=((1.0,) * 16, (0.0,) * 16)).rate == 8 * 25 / 49
    assert codec_for("int3", FeatureSpec("vector", (100,))).row_bytes == 4 + 38


@pytest.mark.parametrize("channel", [False, True])
def test_a_config_says_it_all(channel):
    codec = codec_of(MAP, 5, channel, values("normal", (4, 16, 8, 8)))
    assert codec_from_config(codec.config()) == codec
    member = codec.member(codec.encode(values("normal", (3, 16, 8, 8))))
    assert codec.rows(member, 3).tobytes() == member
    for bad, n in ((member[:-1], 3), (member + b"\0", 3), (member, 2), (b"", 1), (member, -1)):
        with pytest.raises(CorruptError, match="int member of"):
            codec.rows(bad, n)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bits", 1), ("bits", 9), ("bits", 4.0), ("bits", True), ("bits", None), ("bits", "4"),
        ("order", list(range(16))), ("scale", None), ("scale", []), ("scale", [1.0] * 15), ("scale", [0.1] * 16),
        ("scale", [-1.0] * 16), ("scale", [1] * 16), ("scale", [1e39] * 16), ("scale", [float("nan")] * 16),
        ("scale", "1" * 16), ("offset", [float("inf")] * 16), ("offset", [None] * 16), ("offset", {}),
        ("more", 1), ("spec", None), ("filter", None), ("filter", "lz4"), ("filter", ["zstd"]),
    ],
    ids=str,
)  # fmt: skip
def test_hostile_configs(key, value):
    config = codec_for("int4-channel", MAP, steps=((1.0,) * 16, (0.5,) * 16)).config()
    codec_from_config(config)
    with pytest.raises(FormatError):
        codec_from_config({**config, key: value})


def test_a_list_of_steps_alone_is_refused():
    config = codec_for("int4", MAP).config()
    for key in ("scale", "offset"):
        with pytest.raises(FormatError):
            codec_from_config({**config, key: [1.0] * 16})
        with pytest.raises(FormatError):
            codec_from_config({k: v for k, v in config.items() if k != key})


def test_engines_are_told_the_same_of_a_feature():
    runs = Runs(FeatureSpec("tokens", (17, 24), (4, 4), 1), 3, None)
    assert (runs.count, runs.length, runs.turned, runs.head, runs.run_bytes) == (24, 17, True, 96, 7)
