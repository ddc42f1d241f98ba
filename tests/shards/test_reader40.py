"""The 40-line reader, written from FORMAT.md alone, reads what the library wrote."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmshards.codec import FeatureSpec, codec_for, fit, sample_for
from fmshards.codec.integer.codec import IntCodec
from fmshards.codec.integer.steps import StepSample, fit_steps
from fmshards.shards import Manifest, layer_url, read_chunk, read_index
from tests.sets import build_set
from tests.shards import dct40, layout40, reader40
from tests.shards.build import SHAPES, features, small_plan, write_set

ALLOWED = {"json", "math", "pathlib", "struct", "zlib", "msgpack", "numpy", "zfpy", "zstandard"}


def test_it_is_40_lines_on_five_packages() -> None:
    others = ((layout40, 16, {"math", "numpy"}), (dct40, 72, {"math", "numpy"}))
    for module, lines, imported in ((reader40, 43, ALLOWED), *others):
        text = Path(module.__file__).read_text()
        assert sum(bool(line.strip()) for line in text.splitlines()) <= lines
        tree = list(ast.walk(ast.parse(text)))
        assert {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names} == imported
        beside = {node.module for node in tree if isinstance(node, ast.ImportFrom)}
        assert beside <= {"tests.shards.layout40", "tests.shards.dct40"}


@pytest.mark.parametrize("layer", SHAPES)
@pytest.mark.parametrize("stream", ["base", "mirror"])
def test_it_reads_a_set(small_set: tuple[Path, Manifest], layer: str, stream: str) -> None:
    folder, manifest = small_set
    chunks = iter(reader40.read(folder, layer, stream))
    for entry in manifest.shards[layer]:
        url = layer_url(str(folder), layer, entry.name)
        index = read_index(url, entry)
        for j in range(len(index.chunks)):
            name = f"{stream}.zfp"
            chunk = read_chunk(url, index, j, [name])
            codec = manifest.plan.layer_members(layer)[name]
            keys, fields, x = next(chunks)
            assert (keys, fields) == (chunk.keys, chunk.fields)
            assert np.array_equal(x, codec.decode(codec.rows(chunk.members[name], chunk.n)).numpy())
    assert next(chunks, None) is None


@pytest.mark.parametrize("rate", ["int4", "fp16", "2"])
def test_it_reads_a_mirror_that_is_stored_in_part(tmp_path: Path, rate: str) -> None:
    built = build_set(tmp_path / "set", layers={"a": "4"}, recipe="flip", mirror=f"stored(0.3, rest=flip, rate={rate})")
    codec = built.plan.layer("a").own_mirror_codec
    assert codec is not None
    found = np.concatenate([x for _, _, x in reader40.read(built.path, "a", "mirror")])
    assert found.shape == (73, 3, 8, 8)
    assert np.array_equal(found, codec.decode(codec.encode(built.features["a"]["mirror"])).numpy())


def test_it_notices_a_flip(tmp_path: Path) -> None:
    manifest = write_set(tmp_path, small_plan())
    path = tmp_path / "head" / manifest.shards["head"][1].name
    data = bytearray(path.read_bytes())
    offset, length, _ = read_index(str(path)).chunks[1].members["base.zfp"]
    data[offset + length // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(AssertionError):
        list(reader40.read(tmp_path, "head"))


@st.composite
def specs(draw: st.DrawFn) -> FeatureSpec:
    kind = draw(st.sampled_from(["map", "map_last", "tokens", "vector"]))
    c, h, w = draw(st.integers(1, 40)), draw(st.integers(1, 15)), draw(st.integers(1, 15))
    if kind == "map":
        return FeatureSpec(kind, (c, h, w))
    if kind == "map_last":
        return FeatureSpec(kind, (h, w, c))
    if kind == "vector":
        return FeatureSpec(kind, (c * h,))
    k, grid = draw(st.integers(0, 2)), draw(st.booleans())
    return FeatureSpec(kind, (k + h * w, c), (h, w) if grid else None, k)


RATES = [0.25, 2, 4, 2.625, 32, "fp32", "fp16", "bf16", *(f"int{b}" for b in range(2, 9))]
RATES += [*(f"int{b}-channel" for b in (2, 3, 5, 8)), "dct0.3", "dct1.5"]


@given(specs(), st.sampled_from(RATES), st.sampled_from([None, "zstd"]), st.integers(1, 4), st.randoms())
@settings(max_examples=300, deadline=None)
def test_it_decodes_every_kind_and_rate(spec: FeatureSpec, rate: Any, filter: str | None, n: int, random: Any) -> None:
    order = list(range(spec.channels))
    random.shuffle(order)
    x = features(n, spec.shape, random.randrange(1000))
    sample = StepSample(spec)
    sample.add(x)
    bits, of_channels = IntCodec.setting(rate) or (0, False)
    steps = fit_steps(sample, bits, filter is not None) if of_channels else None
    codec = codec_for(rate, spec, order if isinstance(rate, (int, float)) else None, steps, filter)
    if codec.name == "dct" and n > 1:  # else its usual tables
        fitted = sample_for(rate, spec, "auto", n)
        fitted.add(x)
        codec = fit(rate, spec, fitted, None, filter)
    if codec.name == "dct" and codec.blocks.grid and random.random() < 0.5:
        codec = replace(codec, tables=replace(codec.tables, transformed=not codec.tables.transformed))
    rows = codec.encode(x)
    found = reader40.decode(codec.config(), codec.member(rows), n)
    assert np.array_equal(found, codec.decode(rows).numpy())


@pytest.mark.parametrize("spec", [FeatureSpec("vector", (143,)), FeatureSpec("tokens", (50, 16), (7, 7), 1)], ids=str)
def test_dct_of_values_above_zero_about_offsets(spec: FeatureSpec) -> None:
    """Signs are left out where values are above zero, unless levels are about an offset: then they fall below it."""
    signs = set()
    for seed in range(40):
        x = features(2, spec.shape, seed)
        fitted = sample_for("dct0.3", spec, "auto", 2)
        fitted.add(x)
        codec = fit("dct0.3", spec, fitted, None, None)
        config, rows = codec.config(), codec.encode(x)
        signs.add((config["nonnegative"], any(config["offsets"])))
        assert np.array_equal(reader40.decode(config, codec.member(rows), 2), codec.decode(rows).numpy())
    assert {(True, True), (True, False)} <= signs
