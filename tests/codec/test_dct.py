"""`dct`: rows of exactly a stated size, the same bytes from every engine, and what fits to a sample."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmshards.codec import FeatureSpec, codec_for, codec_from_config, fit, row_bytes_at, sample_for
from fmshards.codec.dct import on_numpy
from fmshards.codec.dct.blocks import Blocks, parts, steps, transforms
from fmshards.codec.dct.codec import DctCodec
from fmshards.codec.dct.events import BASE, LARGEST, check, class_of
from fmshards.errors import CodecError, FormatError, InputError
from tests.codec.conftest import DATA, SPECS, features, values
from tests.shards import reader40

ROOT = Path(__file__).parent.parent.parent
MAP = FeatureSpec("map", (24, 11, 14))
RATES = ["dct0.1", "dct0.5", "dct1.25", "dct4"]


def data(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """As `values`, under 2^64."""
    return values(name, shape, seed) * np.float32(1e-20 if name == "huge" else 1)


def fitted(rate: str, spec: FeatureSpec, x: np.ndarray):
    sample = sample_for(rate, spec, "auto", len(x))
    sample.add(torch.from_numpy(x))
    return fit(rate, spec, sample)


def otherwise(codec: DctCodec) -> DctCodec:
    """With the blocks of its grid transformed where they were not, and the other way round."""
    transformed = codec.blocks.sides is not None and not codec.tables.transformed
    return replace(codec, tables=replace(codec.tables, transformed=transformed))


@given(features(), st.sampled_from(RATES), st.sampled_from(DATA), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_numpy_and_the_kernels_write_and_read_the_same(spec, rate, name, fits, other_way, seed):
    codec = fitted(rate, spec, data(name, (3, *spec.shape), seed + 1)) if fits else codec_for(rate, spec)
    codec = otherwise(codec) if other_way else codec
    assert check(codec.tables.codes) is None
    assert codec_from_config(codec.config()) == codec
    x = data(name, (2, *spec.shape), seed)
    rows = codec.encode(x)
    head = 2 + 2 * codec.blocks.segments
    assert rows.shape == (2, max(math.ceil(Fraction(rate[3:]) * spec.values / 8), head))
    assert row_bytes_at(rate, spec) == rows.shape[1]
    other = np.empty_like(rows)
    on_numpy.encode(x.reshape(2, -1), codec.blocks, codec.arrays, other)
    assert (rows == other).all()
    anything = np.random.default_rng(seed).integers(0, 256, rows.shape, np.uint8)
    for some in (rows, anything):
        back = codec.decode(some).numpy()
        assert np.array_equal(back.reshape(2, -1), on_numpy.decode(some, codec.blocks, codec.arrays))
        assert np.isfinite(back).all()
    assert (codec.encode(x[1:]) == rows[1:]).all()


@pytest.mark.parametrize("spec", [FeatureSpec("map", (96, 28, 27)), FeatureSpec("tokens", (197, 130), (14, 14), 1)])
def test_so_do_rows_of_many_segments(spec):
    x = data("smooth", (3, *spec.shape))
    x = x * (np.arange(spec.channels) % 5 == 0).reshape([-1 if s == spec.channels else 1 for s in spec.shape])
    chosen = [fitted(rate, spec, x.astype(np.float32)) for rate in ("dct0.25", "dct1")]
    for codec in (*chosen, otherwise(chosen[0])):
        rows = codec.encode(x.astype(np.float32))
        other = np.empty_like(rows)
        on_numpy.encode(x.astype(np.float32).reshape(3, -1), codec.blocks, codec.arrays, other)
        assert (rows == other).all()
        assert (codec.decode(rows).numpy().reshape(3, -1) == on_numpy.decode(rows, codec.blocks, codec.arrays)).all()


def test_any_bytes_stay_inside_their_memory():
    done = subprocess.run(
        [sys.executable, "-m", "tests.codec.sweep", "dct", "1500"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def digest() -> str:
    found = hashlib.sha256()
    for spec in (MAP, *SPECS[3::6]):
        for name in ("smooth", "relu", "mixed"):
            codec = fitted("dct1", spec, data(name, (4, *spec.shape)))
            rows = codec.encode(data(name, (6, *spec.shape), 1))
            found.update(rows.tobytes() + codec.decode(rows).numpy().tobytes())
            found.update(otherwise(codec).encode(data(name, (6, *spec.shape), 1)).tobytes())
    return found.hexdigest()


@pytest.mark.slow
def test_another_processor_writes_the_same_bytes(tmp_path):
    """Compiled for one without vectors beyond SSE2."""
    machine = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "FMSHARDS_CACHE_DIR": str(tmp_path)}
    code = "from tests.codec.test_dct import digest; print(digest())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **machine}, capture_output=True, text=True
    )
    assert done.stdout.strip() == digest(), done.stderr[-2000:]


@pytest.mark.parametrize("name", ["relu", "sparse", "smooth", "positive"])
@pytest.mark.parametrize(
    "spec", [MAP, FeatureSpec("tokens", (50, 64), (7, 7), 1), FeatureSpec("vector", (4096,))], ids=str
)
def test_more_bits_give_less_error_and_a_fit_less_still(spec, name):
    x, other = data(name, (8, *spec.shape)), data(name, (8, *spec.shape), 1)
    before = np.inf
    for rate in ("dct0.5", "dct1", "dct2", "dct4"):
        plain, codec = codec_for(rate, spec), fitted(rate, spec, other)
        errors = [float(((c.decode(c.encode(x)).numpy() - x) ** 2).sum()) for c in (plain, codec)]
        assert errors[1] < 1.02 * errors[0]
        # No level is over 2^15 steps: of a peak of 2.5, an error of 2^-15 is all that there can be.
        assert errors[1] < before or errors[1] < x.size * 2.0**-32
        before = errors[1]


@pytest.mark.parametrize(("name", "transformed"), [("smooth", True), ("sparse", False)])
def test_blocks_are_transformed_where_that_serves(name, transformed):
    """Neighbours that are alike come back better; what is zero here and there comes back better by itself."""
    x = data(name, (8, *MAP.shape))
    codec = fitted("dct1", MAP, x)
    assert codec.tables.transformed == transformed
    errors = [float(((c.decode(c.encode(x)).numpy() - x) ** 2).sum()) for c in (codec, otherwise(codec))]
    assert errors[0] < errors[1]


def test_zeros_are_zeros_and_what_was_not_below_0_is_not():
    x = data("sparse", (6, *MAP.shape))
    codec = fitted("dct0.5", MAP, x)
    assert float(codec.decode(codec.encode(x)).min()) == 0
    signed = fitted("dct2", MAP, x - 1)
    assert float(signed.decode(signed.encode(x - 1)).min()) < -0.5
    # What a fit never saw: written as well as may be, never below 0.
    assert float(codec.decode(codec.encode(x - 1)).min()) == 0
    for rate in RATES:
        plain = codec_for(rate, MAP)
        assert not plain.decode(plain.encode(np.zeros((2, *MAP.shape), np.float32))).any()


def test_one_value_that_is_larger_by_far_is_kept():
    x = data("normal", (2, *MAP.shape))
    x[0, 3, 5, 5] = 1e4
    codec = codec_for("dct2", MAP)
    back = codec.decode(codec.encode(x)).numpy()
    assert abs(back[0, 3, 5, 5] - 1e4) < 2
    assert np.array_equal(back[1:], codec.decode(codec.encode(x[1:])).numpy())  # the others are none the worse for it


def test_tables_fitted_to_nothing_serve_normal_values():
    x, codec = data("normal", (2, *MAP.shape)), codec_for("dct2", MAP)
    assert ((codec.decode(codec.encode(x)).numpy() - x)[1] ** 2).mean() < 0.2


def test_values_that_are_too_large_are_refused():
    x = data("normal", (3, *MAP.shape))
    x[1, 7, 0, 0] = -(2.0**64)
    with pytest.raises(CodecError, match=r"sample 1 of the batch, channel 7.*2\^64"):
        codec_for("dct1", MAP).encode(x)
    x[1, 7, 0, 0] = 2.0**63
    codec = codec_for("dct1", MAP)
    assert np.isfinite(codec.decode(codec.encode(x)).numpy()).all()


@pytest.mark.parametrize("rate", ["dct0.05", "dct4.1", "dct", "dct-1", "dct1e0", "dct.5", "dctx"])
def test_rates_beyond_the_range_say_the_range(rate):
    with pytest.raises(InputError, match=r"dct0\.1 to dct4"):
        codec_for(rate, MAP)


def test_a_part_of_the_channels_has_tables_of_its_own():
    x = data("relu", (9, *MAP.shape))
    chosen = [1, 5, 6, 23]
    sample = sample_for("dct1", MAP, "auto", 9)
    sample.add(torch.from_numpy(x[:4]))
    sample.add(torch.from_numpy(x[4:]))
    part = MAP.select(4)
    assert fit("dct1", part, sample, chosen) == fitted("dct1", part, np.ascontiguousarray(x[:, chosen]))


def test_a_sample_is_bounded_and_spread():
    spec = FeatureSpec("map", (64, 64, 128))
    sample = sample_for("dct1", spec, "auto", 100)
    for i in range(20):
        sample.add(torch.full((5, *spec.shape), float(i)))
    kept = sample.features(None)
    assert len(kept) == 8
    assert (np.diff(kept[:, 0, 0, 0]) > 0).all()
    with pytest.raises(CodecError, match="sample is empty"):
        sample_for("dct1", spec, "auto", 3).features(None)
    with pytest.raises(CodecError, match="not finite"):
        sample_for("dct1", MAP, "auto", 1).add(torch.full((1, *MAP.shape), torch.inf))


def test_a_config_comes_back_and_a_bad_one_is_refused():
    codec = fitted("dct1", MAP, data("relu", (4, *MAP.shape)))
    config = codec.config()
    assert codec_from_config(config) == codec
    bad: list[tuple[tuple, object]] = [(("row_bytes",), value) for value in (0, 1, 10**9, 1.0, True, None, "a")]
    bad += [((key,), value) for key in ("nonnegative", "transformed") for value in (0, None, "yes")]
    for key in ("gains", "means", "offsets"):
        bad += [((key,), value) for value in (None, [], [1.0] * 23, {}, 1.0)]
        bad += [((key, 2), value) for value in (1, True, 0.1, float("nan"), float("inf"), 1e30, "a", None, -(2.0**65))]
    bad += [(("gains", 0), value) for value in (0.0, -1.0, 2.0**-17)]
    bad += [(("shifts",), []), (("shifts", 0), [0.0]), (("shifts", 0, 0), 0.75), (("shifts", 15, 2), 0)]
    twice = config["codes"][0][6][1]
    bad += [(("codes",), None), (("codes",), [[]] * 33), (("codes", 0), []), (("codes", 0, 7), None)]
    bad += [(("codes", 0, 6, 0), value) for value in (-1, 2000, 15, True, 1.0, "a", twice)]
    bad += [(("codes", 3), config["codes"][0]), (("codes", 32), config["codes"][3]), (("codes", 1, 0), [0] * 10**4)]
    for path, value in bad:
        changed = copy.deepcopy(config)
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value
        with pytest.raises(FormatError, match="codec dct"):
            codec_from_config(changed)
    vector = codec_for("dct1", FeatureSpec("vector", (64,))).config()
    with pytest.raises(FormatError, match="expected false as transformed"):
        codec_from_config({**vector, "transformed": True})


@pytest.mark.parametrize("spec", [MAP, FeatureSpec("vector", (64,))], ids=str)
def test_a_config_from_before_it_said_whether_to_transform(spec):
    """Then blocks of a grid always were."""
    codec = codec_for("dct1", spec)
    config = {key: value for key, value in codec.config().items() if key != "transformed"}
    assert codec_from_config(config) == codec
    x = data("normal", (2, *spec.shape))
    found = reader40.decode(config, codec.member(codec.encode(x)), 2)
    assert np.array_equal(found, codec.decode(codec.encode(x)).numpy())
    with pytest.raises(FormatError, match="codec dct: expected"):
        codec_from_config({key: value for key, value in config.items() if key != "offsets"})


def test_a_config_of_a_huge_feature_takes_no_memory():
    config = codec_for("dct1", MAP).config()
    spec = FeatureSpec("map", (1, 3, 2**29))
    with pytest.raises(FormatError, match="expected 1 float32 numbers"):
        codec_from_config({**config, "spec": spec.to_json(), "row_bytes": 2**20})


def test_what_the_format_says_of_its_tables():
    assert [parts(n) for n in (3, 4, 5, 6, 7, 13)] == [(3,), (4,), (3, 2), (3, 3), (4, 3), (4, 3, 3, 3)]
    assert all(sum(parts(n)) == n and len(parts(n)) == -(-n // 4) for n in range(3, 200))
    assert (class_of(BASE) == np.arange(31)).all()
    assert class_of(np.array([LARGEST]))[0] == 30
    assert steps()[126 * 32] == 1
    for n in (2, 3, 4):
        some = transforms()[n].astype(np.float64)
        assert np.abs(some @ some.T - np.diag([1.0] * n + [0.0] * (4 - n))).max() < 1e-6
        assert (transforms(False)[n] == np.diag([1.0] * n + [0.0] * (4 - n))).all()
    for rate in RATES:
        assert check(codec_for(rate, MAP).tables.codes) is None
    assert Blocks(FeatureSpec("map", (8, 2, 9))).grid == 0
    assert Blocks(FeatureSpec("tokens", (51, 20), (7, 7), 2)).count == 20 * 4 + 3
