"""The kernels against zfpy and against numpy. Run by test_triton.py."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import pytest
import torch

from fmshards.codec import FeatureSpec, codec_for
from fmshards.codec.dct import on_cuda as dct_on_cuda
from fmshards.codec.dct.gpu import kernel as dct_kernel
from fmshards.codec.integer import on_cuda as int_on_cuda
from fmshards.codec.integer.gpu import kernel as int_kernel
from fmshards.codec.zfp import on_cuda as zfp_on_cuda
from fmshards.codec.zfp.gpu import kernel as zfp_kernel
from fmshards.errors import CodecError
from fmshards.kernels import cuda
from tests.codec import reference
from tests.codec.conftest import BITS, DATA, SPECS, values
from tests.triton_here import DEVICE

BLOCK = FeatureSpec("map", (4, 4, 4))
LANES = 64 if DEVICE.type == "cpu" else zfp_kernel.LANES  # the interpreter takes little longer for more lanes
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def few(cases: list, *chosen: int) -> list:
    """All cases in the interpreter; on a device, where a kernel takes tens of seconds to compile, those chosen."""
    return cases if DEVICE.type == "cpu" else [cases[i] for i in chosen]


LAYOUTS = [
    FeatureSpec("map", (8, 8, 12)),
    FeatureSpec("map", (5, 14, 14)),
    FeatureSpec("map", (17, 7, 7)),
    FeatureSpec("map", (3, 5, 9)),
    FeatureSpec("map", (8, 6, 6)),
    FeatureSpec("map_last", (7, 7, 24)),
    FeatureSpec("map_last", (2, 5, 66)),
    FeatureSpec("tokens", (51, 20), (7, 7), 2),
    FeatureSpec("tokens", (11, 12), None, 1),
    FeatureSpec("vector", (203,)),
]


def rows_of(codec, n: int, seed: int) -> np.ndarray:
    return codec.encode(values("normal", (n, *codec.spec.shape), seed))


def decoded(rows: np.ndarray, codec, dtype=torch.float32, lanes: int = LANES, **format_) -> torch.Tensor:
    """By the kernel, into what was NaN."""
    out = torch.empty((len(rows), *codec.spec.shape), dtype=dtype, device=DEVICE, **format_).fill_(torch.nan)
    zfp_kernel.decode(torch.from_numpy(rows).to(DEVICE), codec.layout, codec.block_bits, out, lanes)
    return out.cpu()


def hostile(bits: int) -> np.ndarray:
    """Blocks of every sort of data, then blocks that nobody wrote: dense, sparse, all ones, zeros."""
    codec = codec_for(bits / 64, BLOCK)
    written = [codec.encode(values(name, (2, 4, 4, 4), seed=bits)) for name in DATA]
    rng = np.random.default_rng(bits)
    random = rng.integers(0, 256, (4, 5, codec.row_bytes), dtype=np.uint8)
    made = [random[0], random[1] & random[2] & random[3], random[1] | random[2] | random[3]]
    for part in made:
        part[:, 0] |= 1  # or the block is zeros, whatever follows
    # Sparse and dense bits only after an exponent in range, as most of them would be far out of it.
    for part in made[1:]:
        part[:, :2] = [0x01, 0x01]
    flat = [np.full((1, codec.row_bytes), byte, np.uint8) for byte in (0, 255)]
    return np.concatenate([*written, *made, *flat])


def check_hostile(bits: int) -> None:
    rows = hostile(bits)
    expected = reference.decompress(rows.tobytes(), (len(rows) * 4, 4, 4), bits)
    assert decoded(rows, codec_for(bits / 64, BLOCK)).numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("bits", few([16, 24, 64, 256, 1000, 2048], 3))
def test_any_block_is_what_zfpy_makes_of_it(bits):
    check_hostile(bits)


@pytest.mark.slow
@pytest.mark.parametrize("bits", range(16, 2049, 8 if DEVICE.type == "cuda" else 168))
def test_any_block_of_any_size_is_what_zfpy_makes_of_it(bits):
    check_hostile(bits)


def test_tiny_scales_are_denormal_and_then_zero():
    codec = codec_for(4, BLOCK)
    rows = np.repeat(rows_of(codec, 1, 0), 20, 0)
    head = rows[:, :2].copy().view("<u2")
    rows[:, :2] = ((head & ~np.uint16(0x1FE)) | (np.arange(20, dtype=np.uint16) << 1)[:, None]).view(np.uint8)
    expected = reference.decompress(rows.tobytes(), (80, 4, 4), 256)
    assert not expected[:32].any()
    assert expected[32:36].any()  # of a scale of 2^-149
    assert decoded(rows, codec).numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("spec", "dtype"), few([(spec, DTYPES[i % 3]) for i, spec in enumerate(LAYOUTS)], 1, 7), ids=str
)
def test_every_value_goes_to_its_place(spec, dtype):
    order = np.random.default_rng(1).permutation(spec.channels) if spec.channels % 2 == 0 else None
    codec = codec_for(2, spec, order)
    rows = rows_of(codec, 2, 1)
    assert torch.equal(decoded(rows, codec, dtype), codec.decode(rows, dtype=dtype))


@pytest.mark.slow
@pytest.mark.parametrize("bits", BITS if DEVICE.type == "cuda" else [40])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("spec", SPECS if DEVICE.type == "cuda" else SPECS[::3], ids=str)
def test_every_value_of_every_layout_goes_to_its_place(spec, ordered, bits):
    order = np.random.default_rng(2).permutation(spec.channels) if ordered else None
    codec = codec_for(bits / 64, spec, order)
    rows = rows_of(codec, 2, bits)
    for dtype in DTYPES[: 1 if bits > 100 else 3]:
        assert torch.equal(decoded(rows, codec, dtype), codec.decode(rows, dtype=dtype))


@pytest.mark.parametrize("dtype", few(DTYPES, 2))
def test_channels_last_memory_is_filled(dtype):
    codec = codec_for(4, FeatureSpec("map", (16, 8, 8)))
    rows = rows_of(codec, 2, 3)
    out = decoded(rows, codec, dtype, memory_format=torch.channels_last)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, codec.decode(rows, dtype=dtype))


@pytest.mark.skipif(DEVICE.type != "cpu", reason="there every launch is of several programs")
def test_several_programs_are_one():
    codec = codec_for(0.25, FeatureSpec("map", (20, 8, 8)))
    rows = rows_of(codec, 3, 4)
    assert torch.equal(decoded(rows, codec, lanes=32), codec.decode(rows))


@pytest.mark.parametrize(("bits", "start", "gap"), few([(64, 1, 3), (64, 2, 2), (80, 0, 0), (72, 4, 4)], 0))
def test_rows_may_lie_anywhere(bits, start, gap):
    codec = codec_for(bits / 64, FeatureSpec("map", (8, 8, 4)))
    rows = rows_of(codec, 3, 5)
    memory = torch.full((3, start + codec.row_bytes + gap), 255, dtype=torch.uint8)
    memory[:, start : start + codec.row_bytes] = torch.from_numpy(rows)
    out = torch.full((3, *codec.spec.shape), torch.nan, device=DEVICE)
    view = memory.to(DEVICE)[:, start : start + codec.row_bytes]
    zfp_kernel.decode(view, codec.layout, codec.block_bits, out, LANES)
    assert torch.equal(out.cpu(), codec.decode(rows))


@pytest.mark.skipif(DEVICE.type != "cpu", reason="the pages are the host's")
@pytest.mark.parametrize("bits", [72, 80, 96])
def test_nothing_is_read_beyond_the_rows(bits):
    """Rows between two pages that may not be touched: the process would die."""
    codec = codec_for(bits / 64, BLOCK)
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 3 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for guard in (address, address + 2 * page):
        assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
    n = 5
    for offset in (page, 2 * page - n * codec.row_bytes):
        rows = torch.frombuffer(memory, dtype=torch.uint8, count=n * codec.row_bytes, offset=offset)
        rows = rows.view(n, codec.row_bytes)
        rows.copy_(torch.from_numpy(np.random.default_rng(6).integers(0, 256, rows.shape, dtype=np.uint8)))
        kept = rows.numpy().copy()
        out = torch.full((n, 4, 4, 4), torch.nan)
        zfp_kernel.decode(rows, codec.layout, bits, out, LANES)
        assert out.numpy().tobytes() == reference.decompress(kept.tobytes(), (n * 4, 4, 4), bits).tobytes()


INT_SPECS = [
    FeatureSpec("map", (5, 7, 9)),
    FeatureSpec("map", (1, 40, 30)),
    FeatureSpec("map_last", (4, 5, 33)),
    FeatureSpec("tokens", (18, 32), (4, 4), 2),
    FeatureSpec("vector", (1500,)),
]


def int_reference(rows: np.ndarray, spec: FeatureSpec, bits: int, steps) -> np.ndarray:
    """`int` as FORMAT.md has it, in numpy: float32 [B, *shape]."""
    vector, n = spec.kind == "vector", len(rows)
    runs, each = (1, spec.values) if vector else (spec.channels, spec.values // spec.channels)
    if steps is None:
        head = rows[:, : 4 * runs].copy().view("<u2").astype(np.uint32) << 16
        scale, offset = np.split(head.view(np.float32)[..., None], 2, axis=1)
        rows = rows[:, 4 * runs :]
    else:
        scale, offset = (s.reshape(1, *((1, -1) if vector else (-1, 1))) for s in steps)
    unpacked = np.unpackbits(rows.reshape(n, runs, -1), axis=2, bitorder="little")[:, :, : each * bits]
    number = (unpacked.reshape(n, runs, each, bits) << np.arange(bits)).sum(-1).astype(np.float32)
    value = number * scale + offset
    channels_first = spec.kind in ("map", "vector")
    return (value if channels_first else value.transpose(0, 2, 1)).reshape(n, *spec.shape)


INT_SORTS = [(bits, in_rows) for bits in range(2, 9) for in_rows in (True, False)]


@pytest.mark.parametrize(("bits", "in_rows"), few(INT_SORTS[::3], 0, 3))
@pytest.mark.parametrize("spec", INT_SPECS, ids=str)
def test_int_is_what_the_format_says(spec, bits, in_rows):
    runs = 1 if spec.kind == "vector" else spec.channels
    rng = np.random.default_rng(bits)
    packed = runs * -(-spec.values // runs * bits // 8)
    rows = rng.integers(0, 256, (3, 4 * runs * in_rows + packed), dtype=np.uint8)
    # Scales of ordinary size; of many bits where they are not stored as bfloat16, or a fused sum would go unseen.
    if in_rows:
        head = torch.from_numpy(rng.standard_normal((3, 2 * runs))).bfloat16()
        rows[:, : 4 * runs] = head.view(torch.uint8).numpy()
    steps = None if in_rows else rng.standard_normal((2, spec.channels)).astype(np.float32)
    expected = torch.from_numpy(int_reference(rows, spec, bits, steps))
    scale, offset = (None, None) if steps is None else torch.from_numpy(steps).to(DEVICE)
    formats = [torch.contiguous_format] + [torch.channels_last] * (spec.kind == "map")
    for dtype, format_ in [(d, formats[0]) for d in DTYPES] + [(torch.bfloat16, formats[-1])]:
        out = torch.empty(expected.shape, dtype=dtype, device=DEVICE, memory_format=format_).fill_(torch.nan)
        int_kernel.decode(torch.from_numpy(rows).to(DEVICE), spec, bits, scale, offset, out)
        assert torch.equal(out.cpu(), expected.to(dtype))


@pytest.fixture
def _here(monkeypatch):
    """The interpreter's tensors count as a device's."""
    monkeypatch.setattr(cuda, "usable", lambda device, *_: device.type == DEVICE.type)
    monkeypatch.setattr(zfp_kernel, "LANES", LANES)


@pytest.mark.usefixtures("_here")
def test_a_codec_takes_rows_on_a_device(monkeypatch):
    codec = codec_for(2, FeatureSpec("map", (8, 6, 6)))
    rows = rows_of(codec, 3, 7)
    on = torch.from_numpy(rows).to(DEVICE)
    expected = codec.decode(rows)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        got = codec.decode(on, dtype=dtype)
        assert got.dtype == dtype
        assert got.device.type == DEVICE.type
        assert torch.equal(got.cpu(), expected.to(dtype))
    spaced = torch.zeros(6, codec.row_bytes, 2, dtype=torch.uint8, device=DEVICE)[::2, :, 1]
    spaced.copy_(on)
    assert torch.equal(codec.decode(spaced).cpu(), expected)
    turned = torch.full((6, 6, 8, 3), torch.nan, device=DEVICE).permute(3, 2, 1, 0)
    assert codec.decode(on, out=turned) is turned
    assert torch.equal(turned.cpu(), expected)
    assert codec.decode(on[:0]).shape == (0, 8, 6, 6)
    with pytest.raises(CodecError, match="expected out"):
        codec.decode(on, out=turned[:, 1:])
    for bad in (on[:, 1:], on.int(), on[0]):
        with pytest.raises(CodecError, match=rf"expected rows uint8 \[B, {codec.row_bytes}\]"):
            codec.decode(bad)


@pytest.mark.usefixtures("_here")
def test_int_takes_rows_on_a_device():
    spec, steps = FeatureSpec("map", (5, 4, 6)), ((0.5, 1.0, 2.0, 3.0, 0.1), (0.0, 1.0, -1.0, 0.25, 7.0))
    codec = codec_for("int4-channel", spec, steps=steps)
    rows = np.random.default_rng(8).integers(0, 256, (4, 5 * 12), dtype=np.uint8)
    expected = torch.from_numpy(int_reference(rows, spec, 4, np.array(steps, np.float32)))
    on = torch.from_numpy(rows).to(DEVICE)
    assert torch.equal(codec.decode(on).cpu(), expected)
    turned = torch.full((4, 5, 6, 4), torch.nan, device=DEVICE).transpose(2, 3)  # places of no one step
    assert codec.decode(on, out=turned) is turned
    assert torch.equal(turned.cpu(), expected)


@pytest.mark.parametrize(
    ("room", "kernel"), [(zfp_on_cuda, zfp_kernel), (int_on_cuda, int_kernel), (dct_on_cuda, dct_kernel)]
)
def test_a_trial_finds_kernels_that_are_unsound(room, kernel, monkeypatch):
    real = kernel.decode
    assert cuda.tried(DEVICE, "rows are decoded on the CPU", room.trial)
    for broken in (lambda *given: real(*given) or given[-1].mul_(2), lambda *given: 1 / 0):
        cuda.tried.cache_clear()
        monkeypatch.setattr(kernel, "decode", broken)
        with pytest.warns(UserWarning, match="decoded on the CPU.*please report it"):
            assert not cuda.tried(DEVICE, "rows are decoded on the CPU", room.trial)
    cuda.tried.cache_clear()
