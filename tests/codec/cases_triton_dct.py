"""The kernels of `dct` against its CPU's. Run by test_triton.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmshards.codec import FeatureSpec, codec_for
from fmshards.codec.dct.blocks import Blocks
from fmshards.codec.dct.codec import DctCodec
from fmshards.codec.dct.gpu import kernel
from fmshards.kernels import cuda
from tests.codec.conftest import values
from tests.codec.sweep import guarded, same
from tests.codec.test_dct import fitted, otherwise
from tests.triton_here import DEVICE

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SPECS = [
    FeatureSpec("map", (40, 13, 14)),  # 640 blocks: two segments
    FeatureSpec("map", (24, 5, 6)),
    FeatureSpec("map", (1, 4, 3)),
    FeatureSpec("map", (65, 1, 6)),  # runs alone, as of the last two
    FeatureSpec("map_last", (5, 9, 11)),
    FeatureSpec("tokens", (51, 20), (7, 7), 2),
    FeatureSpec("tokens", (11, 12), None, 1),
    FeatureSpec("vector", (203,)),
]


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    """The interpreter takes little longer for more lanes, and the same for each program."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(kernel, "LINES", 4096)
        monkeypatch.setattr(kernel, "SEGMENTS", 64)


def codec_of(spec: FeatureSpec, rate: str, signed: bool, transformed: bool = True) -> DctCodec:
    """Fitted to values of both signs, or of one; blocks transformed or not, where there is a grid."""
    codec = fitted(rate, spec, values("normal" if signed else "relu", (3, *spec.shape)))
    assert codec.tables.nonnegative != signed
    return codec if codec.tables.transformed == (transformed and codec.blocks.grid > 0) else otherwise(codec)


def rows_of(codec: DctCodec, most: int = 40) -> np.ndarray:
    """Two that were written, one with levels that only an escape can say; then bytes that nobody wrote: a row's
    segments of any bytes, `most` of them, with lengths as they were; all bytes so; ones alone; a row cut by zeros."""
    x = values("relu" if codec.tables.nonnegative else "normal", (2, *codec.spec.shape), 1)
    x[1].reshape(-1)[5] = 3e4
    good = codec.encode(x)
    bad = np.repeat(good[:1], 4, 0)
    rng, head = np.random.default_rng(2), codec.blocks.head
    bad[0, head:] = rng.integers(0, 256, bad.shape[1] - head, np.uint8)
    bad[1] = rng.integers(0, 256, bad.shape[1], np.uint8)
    bad[2] = 255
    bad[3, 2:head] = 255
    bad[3, (head + bad.shape[1]) // 2 :] = 0
    bad[1:, head + most :] = 0
    return np.concatenate([good, bad])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("number", "spec", "transformed"),
    [(i, spec, how) for i, spec in enumerate(SPECS) for how in (True, False) if how or Blocks(spec).grid],
    ids=str,
)
def test_every_value_is_the_cpus_and_in_its_place(number, spec, transformed, signed):
    codec = codec_of(spec, "dct0.3" if spec.values < 2000 else "dct0.12", signed, transformed)
    rows, dtype = rows_of(codec), DTYPES[number % 3]
    formats = [torch.contiguous_format] + [torch.channels_last] * (spec.kind == "map" and signed)
    out = torch.empty((len(rows), *spec.shape), dtype=dtype, device=DEVICE, memory_format=formats[-1]).fill_(torch.nan)
    kernel.decode(torch.from_numpy(rows).to(DEVICE), codec.blocks, codec.arrays, out)
    same(out.cpu(), codec.decode(rows, dtype=dtype), spec)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="the pages are the host's")
@pytest.mark.parametrize("spec", [FeatureSpec("map", (90, 11, 5)), FeatureSpec("vector", (90,))], ids=str)
def test_no_bytes_lead_out_of_their_memory(spec):
    """Rows, coefficients and values that end at a page that may not be touched: the process would die."""
    codec = codec_of(spec, "dct0.1", signed=True)
    kept = rows_of(codec)
    for some in (kept[1:], np.random.default_rng(3).integers(0, 256, (3, codec.row_bytes), np.uint8)):
        rows = guarded(some.size).reshape(some.shape)
        rows[:] = some
        found = torch.from_numpy(guarded(64 * len(some) * codec.blocks.count)).view(torch.float32)
        out = torch.from_numpy(guarded(4 * len(some) * spec.values)).view(torch.float32).view(-1, *spec.shape)
        kernel.decode_slab(torch.from_numpy(rows), codec.blocks, codec.arrays, found, out)
        same(out, codec.decode(some), spec)


def test_slabs_and_programs_are_one(monkeypatch):
    codec = codec_of(SPECS[5], "dct0.3", signed=False)
    rows = torch.from_numpy(rows_of(codec)).to(DEVICE)
    monkeypatch.setattr(kernel, "AT_ONCE", 4 * 16 * codec.blocks.count)
    monkeypatch.setattr(kernel, "LINES", 512)
    monkeypatch.setattr(kernel, "SEGMENTS", 2)
    out = torch.full((len(rows), *codec.spec.shape), torch.nan, device=DEVICE)
    kernel.decode(rows, codec.blocks, codec.arrays, out)
    same(out.cpu(), codec.decode(rows.cpu()))


def test_a_codec_takes_rows_on_a_device(monkeypatch):
    monkeypatch.setattr(cuda, "usable", lambda device, *_: device.type == DEVICE.type)
    codec = codec_for("dct0.5", FeatureSpec("map", (8, 6, 6)))
    rows = codec.encode(values("normal", (3, 8, 6, 6)))
    expected = codec.decode(rows)
    spaced = torch.full((6, codec.row_bytes + 3), 255, dtype=torch.uint8, device=DEVICE)[::2, 1:-2]
    spaced.copy_(torch.from_numpy(rows))
    called = []
    real = kernel.decode
    monkeypatch.setattr(kernel, "decode", lambda *given: called.append(1) or real(*given))
    turned = torch.full((6, 6, 8, 3), torch.nan, device=DEVICE).permute(3, 2, 1, 0)  # places of no one step
    assert codec.decode(spaced, out=turned) is turned
    same(turned.cpu(), expected)
    got = codec.decode(spaced, dtype=torch.float64)
    assert torch.equal(got.cpu(), expected.double())
    assert got.device.type == DEVICE.type
    assert codec.decode(spaced[:0]).shape == (0, 8, 6, 6)
    assert len(called) == 3
