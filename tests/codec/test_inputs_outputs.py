"""Types, strides and devices in and out; raw rows; what a spec says of itself."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from fmshards.codec import FeatureSpec, codec_for
from tests.codec.conftest import SPECS, values

RATES = [4, "int3", "int8", "dct0.3", "dct2", "fp32", "fp16", "bf16"]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("rate", RATES)
def test_every_floating_type_and_stride_goes_in(spec, rate):
    codec = codec_for(rate, spec)
    x = torch.from_numpy(values("relu", (3, *spec.shape))).bfloat16().float()  # exact in every type
    rows = codec.encode(x)
    strided = torch.empty(3, *spec.shape, 2)[..., 0].copy_(x)
    turned = x.movedim(0, -1).contiguous().movedim(-1, 0)
    for given in (x.bfloat16(), x.double(), strided, turned, x.clone().requires_grad_()):
        assert (codec.encode(given) == rows).all()
    array = x.numpy().copy()
    array.setflags(write=False)
    for given in (array, array.astype(np.float64), np.asfortranarray(array)):
        assert (codec.encode(given) == rows).all()


def test_float16_goes_in_as_float32():
    spec = SPECS[1]
    x = torch.from_numpy(values("relu", (3, *spec.shape))).half()
    for rate in RATES:
        codec = codec_for(rate, spec)
        assert (codec.encode(x) == codec.encode(x.float())).all()
        assert (codec.encode(x.numpy()) == codec.encode(x.float())).all()


def test_channels_last_memory_goes_in_and_out():
    spec = FeatureSpec("map", (16, 14, 14))
    x = torch.from_numpy(values("relu", (3, *spec.shape)))
    codec = codec_for(4, spec)
    rows = codec.encode(x.to(memory_format=torch.channels_last))
    assert (rows == codec.encode(x)).all()
    out = torch.empty(3, *spec.shape, memory_format=torch.channels_last)
    assert codec.decode(rows, out=out) is not None
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, codec.decode(rows))


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("rate", RATES)
def test_out_of_any_type_and_stride_is_filled(spec, rate):
    codec = codec_for(rate, spec)
    rows = codec.encode(values("relu", (4, *spec.shape)))
    expected = codec.decode(rows)
    assert expected.dtype == torch.float32
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        nan = float("nan")
        outs = [
            torch.full((4, *spec.shape), nan, dtype=dtype),
            torch.full((4, *spec.shape, 2), nan, dtype=dtype)[..., 1],
            torch.full((8, *spec.shape), nan, dtype=dtype)[::2],
            torch.full((9, *spec.shape), nan, dtype=dtype)[5:],
        ]
        for out in outs:
            back = codec.decode(rows, out=out)
            assert back is out
            assert torch.equal(out, expected.to(dtype))
        assert torch.equal(codec.decode(rows, dtype=dtype), expected.to(dtype))


def test_nothing_is_written_beside_out():
    spec = FeatureSpec("map", (16, 7, 7))
    codec = codec_for(4, spec)
    rows = codec.encode(values("relu", (4, *spec.shape)))
    around = torch.full((6, *spec.shape), 7.0)
    codec.decode(rows, out=around[1:5])
    assert (around[0] == 7).all()
    assert (around[5] == 7).all()


def test_rows_are_not_written_to_and_may_be_read_only():
    for rate in RATES:
        codec = codec_for(rate, SPECS[3])
        member = codec.member(codec.encode(values("relu", (4, *SPECS[3].shape))))
        rows = codec.rows(member, 4)
        before = rows.tobytes()
        codec.decode(rows)
        assert rows.tobytes() == before
        assert codec.rows(memoryview(b"x" + member)[1:], 4).tobytes() == before


def test_raw_rows_are_the_values_little_endian():
    spec = FeatureSpec("map_last", (2, 3, 5))
    x = values("normal", (4, *spec.shape))
    rows = codec_for("fp32", spec).encode(x)
    assert rows.tobytes() == x.astype("<f4").tobytes()
    assert codec_for("fp16", spec).encode(x).tobytes() == x.astype("<f2").tobytes()
    bf16 = torch.from_numpy(x).bfloat16().view(torch.int16).numpy()
    assert codec_for("bf16", spec).encode(x).tobytes() == bf16.astype("<i2").tobytes()
    assert torch.equal(codec_for("fp32", spec).decode(rows), torch.from_numpy(x))
    assert [codec_for(r, spec).rate for r in ("fp32", "fp16", "bf16")] == [32, 16, 16]


def test_threads_share_a_codec():
    spec = FeatureSpec("tokens", (50, 48), (7, 7), 1)
    codec = codec_for(4, spec)
    x = [values("relu", (8, *spec.shape), seed) for seed in range(4)]
    expected = [codec.decode(codec.encode(part)) for part in x]
    wrong = []

    def work(i: int) -> None:
        for _ in range(20):
            if not torch.equal(codec.decode(codec.encode(x[i])), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("rate", [2, 4, 8, 16])
def test_more_bits_give_less_error(rate):
    for spec in SPECS:
        x = torch.from_numpy(values("smooth", (4, *spec.shape)))
        error = [(codec_for(r, spec).decode(codec_for(r, spec).encode(x)) - x).norm() for r in (rate, 2 * rate)]
        assert error[1] < error[0] or error[0] == 0


def test_a_spec_says_where_channels_and_places_are():
    cases = [
        (FeatureSpec("map", (5, 2, 3)), 0, (2, 3)),
        (FeatureSpec("map_last", (2, 3, 5)), 2, (2, 3)),
        (FeatureSpec("tokens", (7, 5), (2, 3), 1), 1, (2, 3)),
        (FeatureSpec("tokens", (7, 5), None, 1), 1, None),
        (FeatureSpec("vector", (5,)), 0, None),
    ]
    for spec, axis, spatial in cases:
        assert (spec.channels, spec.channel_axis, spec.spatial) == (5, axis, spatial)
        assert spec.select(2).channels == 2
        assert spec.select(2).spatial == spatial
        assert spec.select(5) == spec
        assert FeatureSpec.from_json(spec.to_json()) == spec


def test_the_room_imports_without_torch():
    import subprocess
    import sys

    code = "import sys, fmshards.codec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
