"""Holds the engine of this process against zfpy, in a process of its own: the engine is chosen once, by environment.

    python -m tests.codec.sweep bits|layouts|fuzz [most]

Prints what it compared as JSON, and ends with an error where anything differs.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import mmap
import sys
from dataclasses import replace

import numpy as np
import torch

from fmshards.codec import FeatureSpec, codec_for
from fmshards.codec.zfp.codec import ZfpCodec
from fmshards.codec.zfp.engine import engine
from fmshards.codec.zfp.on_zfpy import decode_rows as zfpy_decode
from fmshards.codec.zfp.on_zfpy import encode_rows as zfpy_encode
from tests.codec.conftest import DATA, SPECS, values

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def expected(codec: ZfpCodec, rows: np.ndarray) -> torch.Tensor:
    out = np.empty((len(rows), *codec.spec.shape), np.float32)
    zfpy_decode(rows, codec.layout, codec.block_bits, out, "torch.float32")
    return torch.from_numpy(out)


def same(found: torch.Tensor, wanted: torch.Tensor, *what: object) -> None:
    assert found.dtype == wanted.dtype
    words = torch.int32 if found.element_size() == 4 else torch.int16
    equal = torch.equal(found.contiguous().view(words), wanted.contiguous().view(words))
    assert equal, what


def bits(most: int) -> int:
    """Every number of bits a block: each sort of data encoded and decoded, and rows of any bytes decoded."""
    spec, count = FeatureSpec("map", (8, 8, 8)), 0
    rng = np.random.default_rng(0)
    for block_bits in range(16, min(most, 2048) + 1, 8):
        codec = ZfpCodec(spec, block_bits)
        x = np.concatenate([values(name, (1, *spec.shape), block_bits) for name in DATA if name != "huge"])
        rows = np.empty((len(x), codec.row_bytes), np.uint8)
        zfpy_encode(x.reshape(len(x), -1), codec.layout, block_bits, rows)
        assert np.array_equal(codec.encode(x), rows), block_bits
        rows = np.concatenate([rows, rng.integers(0, 256, (8, codec.row_bytes), np.uint8)])
        rows[-1] = 255
        same(codec.decode(rows), expected(codec, rows), block_bits)
        count += len(rows)
    return count


def layouts(most: int) -> int:
    """Every layout, in stored order and another, to every type and to strides of any sort; subsets of rows."""
    count = 0
    rng = np.random.default_rng(1)
    for spec in SPECS:
        for order in (None, [int(c) for c in rng.permutation(spec.channels)]):
            for rate in (0.5, 4, 17):
                codec = codec_for(rate, spec, order)
                assert isinstance(codec, ZfpCodec)
                x = values("relu", (5, *spec.shape), 3)
                rows = np.empty((len(x), codec.row_bytes), np.uint8)
                zfpy_encode(x.reshape(len(x), -1), codec.layout, codec.block_bits, rows)
                assert np.array_equal(codec.encode(x), rows), (spec, rate)
                wide = np.zeros((9, codec.row_bytes + 5), np.uint8)
                wide[::2, 3 : 3 + codec.row_bytes] = rows
                for some in (rows, rows[::-1], rows[[4, 0, 0]], wide[::2, 3 : 3 + codec.row_bytes], rows[:0]):
                    for dtype in DTYPES:
                        wanted = expected(codec, some).to(dtype)
                        for out in outputs(wanted):
                            same(codec.decode(some, out), wanted, spec, order, rate, dtype, out.stride())
                            count += 1
    return count


def outputs(like: torch.Tensor) -> list[torch.Tensor]:
    """Contiguous; channels last; every other item of a larger tensor."""
    outs = [torch.full_like(like, float("nan"))]
    if like.dim() == 4:
        outs.append(torch.full_like(like, float("nan")).contiguous(memory_format=torch.channels_last))
    large = torch.full([2 * side for side in like.shape], float("nan"), dtype=like.dtype)
    outs.append(large[tuple(slice(None, None, 2) for _ in like.shape)])
    return outs


def fuzz(most: int) -> int:
    """Rows of any bytes at the end of readable memory, to the end of writable: a step beyond kills the process."""
    engine()
    rng = np.random.default_rng(2)
    specs = [
        FeatureSpec("map", (4, 4, 4)),
        FeatureSpec("map", (3, 5, 9)),
        FeatureSpec("map_last", (7, 7, 16)),
        FeatureSpec("tokens", (5, 12), (2, 2), 1),
        FeatureSpec("vector", (70,)),
    ]
    count = 0
    while count < most:
        spec = specs[int(rng.integers(len(specs)))]
        codec = ZfpCodec(spec, 8 * int(rng.choice([2, 3, 5, 8, 16, 32, 33, 64, 250, 256])))
        n = int(rng.integers(1, 40))
        rows = guarded(n * codec.row_bytes).reshape(n, codec.row_bytes)
        rows[:] = rng.integers(0, 256, rows.shape, np.uint8)
        if rng.random() < 0.5:  # plausible beginnings: a block of zeros, of one plane, of all
            rows[:, 0] = rng.choice([0, 1, 255], n)
        dtype = DTYPES[int(rng.integers(3))]
        size = n * spec.values * torch.empty(0, dtype=dtype).element_size()
        out = torch.from_numpy(guarded(size)).view(dtype).view(n, *spec.shape)
        codec.decode(rows, out)
        same(out, expected(codec, rows.copy()).to(dtype), spec, codec.block_bits)
        count += n
    return count


def dct(most: int) -> int:
    """As `fuzz`, of `dct`: also samples that end where their memory does."""
    rng = np.random.default_rng(3)
    count, specs = 0, itertools.cycle(SPECS)
    while count < most:
        spec = next(specs)
        codec = codec_for(f"dct{rng.choice([0.1, 0.5, 1, 2, 4])}", spec)
        if codec.tables.transformed and rng.random() < 0.5:
            codec = replace(codec, tables=replace(codec.tables, transformed=False))
        n = int(rng.integers(1, 8))
        x = guarded(4 * n * spec.values).view(np.float32).reshape(n, *spec.shape)
        x[:] = values("mixed", x.shape, count)
        rows = guarded(n * codec.row_bytes).reshape(n, codec.row_bytes)
        rows[:] = codec.encode(x)
        for _ in range(4):
            out = torch.from_numpy(guarded(4 * n * spec.values)).view(torch.float32).view(n, *spec.shape)
            codec.decode(rows, out)
            assert torch.equal(out, codec.decode(rows.copy()))
            rows[:] = rng.integers(0, 256, rows.shape, np.uint8)
            rows[:, 3::7] = 255
            count += n
    return count


_kept: list[mmap.mmap] = []


def guarded(size: int) -> np.ndarray:
    """uint8 [size] that ends where a page begins that may not be touched."""
    page = mmap.PAGESIZE
    whole = -(-size // page) * page
    memory = mmap.mmap(-1, whole + page)
    _kept[:] = [*_kept[-3:], memory]
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address + whole), ctypes.c_size_t(page), 0) == 0
    return np.frombuffer(memory, np.uint8, size, whole - size)


if __name__ == "__main__":
    torch.set_num_threads(1)
    checked = {"bits": bits, "layouts": layouts, "fuzz": fuzz, "dct": dct}[sys.argv[1]](int([*sys.argv, "100000"][2]))
    print(json.dumps({"engine": engine().name, "why": engine().why, "checked": checked}))
