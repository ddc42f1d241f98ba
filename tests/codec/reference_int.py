"""`int` rows a second time, bit by bit, for the tests to hold the fast ones against."""

from __future__ import annotations

import numpy as np

from fmshards.codec import FeatureSpec


def runs_of(spec: FeatureSpec) -> list[list[int]]:
    """The values of each run, as numbers of a sample's values in its own order."""
    index = np.arange(spec.values).reshape(spec.shape)
    if spec.kind == "vector":
        return [index.tolist()]
    return [np.take(index, c, spec.channel_axis).reshape(-1).tolist() for c in range(spec.channels)]


def decode(row: bytes, spec: FeatureSpec, bits: int, steps=None) -> np.ndarray:
    """float32 [*shape] of one row."""
    runs = runs_of(spec)
    at = 0 if steps else 4 * len(runs)
    out = np.empty(spec.values, np.float32)
    for r, run in enumerate(runs):
        for i, value in enumerate(run):
            code = 0
            for j in range(bits):
                bit = i * bits + j
                code |= (row[at + bit // 8] >> bit % 8 & 1) << j
            if steps:
                channel = i if spec.kind == "vector" else r
                scale, offset = (np.float32(part[channel]) for part in steps)
            else:
                scale, offset = bf16(row, 2 * r), bf16(row, 2 * (len(runs) + r))
            with np.errstate(all="ignore"):
                out[value] = np.float32(scale * np.float32(code)) + offset
        at += -(-len(run) * bits // 8)
    assert at == len(row)
    return out.reshape(spec.shape)


def bf16(row: bytes, at: int) -> np.float32:
    return np.frombuffer(bytes([0, 0, row[at], row[at + 1]]), "<f4")[0]


def min_max(x: np.ndarray, bits: int) -> np.ndarray:
    """A run with its least and largest value as the codes' ends, both steps rounded to bfloat16."""
    top = 2**bits - 1
    offset = nearest_bf16(x.min())
    scale = nearest_bf16((x.max() - x.min()) / top)
    codes = np.clip(np.rint((x - offset) / scale), 0, top) if scale else np.zeros_like(x)
    return scale * codes + offset


def nearest_bf16(value: float) -> np.float32:
    word = int(np.float32(value).view(np.uint32))
    word += 0x7FFF + (word >> 16 & 1)
    return np.uint32(word & 0xFFFF0000).view(np.float32)
