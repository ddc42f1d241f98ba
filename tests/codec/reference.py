"""The layout rule written a second time, value by value, for the tests to hold the fast one against."""

from __future__ import annotations

import itertools

import numpy as np
import zfpy

from fmshards.codec import FeatureSpec

FLOAT = zfpy.dtype_to_ztype(np.dtype(np.float32))


def pad_line(line):
    """ZFP's padding: the valid prefix of four (None: missing) made four."""
    valid = [v for v in line if v is not None]
    assert line[: len(valid)] == valid, "what is valid is a prefix"
    if len(valid) == 0:
        return [None] * 4
    if len(valid) == 1:
        return [valid[0]] * 4
    if len(valid) == 2:
        return [valid[0], valid[1], valid[1], valid[0]]
    if len(valid) == 3:
        return [valid[0], valid[1], valid[2], valid[0]]
    return valid


def pad_block(block):
    """block[z][y][x], None where missing -> the same, padded along x, then y, then z."""
    block = [[pad_line(line) for line in plane] for plane in block]
    for plane in block:
        for x in range(4):
            column = pad_line([plane[y][x] for y in range(4)])
            for y in range(4):
                plane[y][x] = column[y]
    for y, x in itertools.product(range(4), range(4)):
        depth = pad_line([block[z][y][x] for z in range(4)])
        for z in range(4):
            block[z][y][x] = depth[z]
    return block


def sides(c, h, w, ty, tx):
    mosaics = -(-c // (ty * tx))
    return -(-mosaics // 4), -(-ty * h // 4), -(-tx * w // 4)


def tile_of(c, h, w):
    best = None
    for ty, tx in itertools.product((1, 2, 4), (1, 2, 4)):
        if ty not in (1, 4 // np.gcd(h, 4)) or tx not in (1, 4 // np.gcd(w, 4)):
            continue
        bz, by, bx = sides(c, h, w, ty, tx)
        key = (bz * by * bx, ty * tx, ty)
        if best is None or key < best[0]:
            best = (key, (ty, tx))
    return best[1]


def map_blocks(channels):
    """channels: [C][H][W] of anything -> padded blocks, z-major, then y, then x."""
    c, h, w = len(channels), len(channels[0]), len(channels[0][0])
    ty, tx = tile_of(c, h, w)
    bz, by, bx = sides(c, h, w, ty, tx)

    def at(mosaic, y, x):
        if y >= ty * h or x >= tx * w:
            return None
        channel = mosaic * ty * tx + (y // h) * tx + x // w
        return channels[channel][y % h][x % w] if channel < c else None

    return [
        [[[at(4 * z + k, 4 * y + j, 4 * x + i) for i in range(4)] for j in range(4)] for k in range(4)]
        for z in range(bz)
        for y in range(by)
        for x in range(bx)
    ]


def run_blocks(values):
    blocks = []
    for start in range(0, len(values), 64):
        run = values[start : start + 64] + [None] * (64 - len(values[start : start + 64]))
        blocks.append([[run[16 * z + 4 * y : 16 * z + 4 * y + 4] for y in range(4)] for z in range(4)])
    return blocks


def unpadded_blocks(spec: FeatureSpec, order=None):
    """The blocks of one sample as indices of its values, None where nothing is."""
    index = np.arange(spec.values).reshape(spec.shape)
    order = list(range(spec.channels)) if order is None else list(order)
    if spec.kind == "map":
        return map_blocks(index[order].tolist())
    if spec.kind == "map_last":
        return map_blocks(index.transpose(2, 0, 1)[order].tolist())
    if spec.kind == "vector":
        return run_blocks(index[order].tolist())
    k = spec.class_tokens
    blocks = []
    if spec.shape[0] > k:
        h, w = spec.grid or (1, spec.shape[0] - k)
        blocks += map_blocks(index[k:].T[order].reshape(-1, h, w).tolist())
    return blocks + run_blocks(index[:k][:, order].reshape(-1).tolist())


def blocks_of(x: np.ndarray, spec: FeatureSpec, order=None) -> np.ndarray:
    """x [n, *shape] -> float32 [n, blocks, 4, 4, 4]."""
    padded = [pad_block(block) for block in unpadded_blocks(spec, order)]
    flat = np.concatenate([x.reshape(len(x), -1), np.zeros((len(x), 1))], 1).astype(np.float32)
    index = np.array([[-1 if v is None else v for p in b for line in p for v in line] for b in padded])
    return flat[:, index].reshape(len(x), len(padded), 4, 4, 4)


def values_of(blocks: np.ndarray, spec: FeatureSpec, order=None) -> np.ndarray:
    """float32 [n, blocks, 4, 4, 4] -> [n, *shape]."""
    out = np.full((len(blocks), spec.values), np.nan, np.float32)
    flat = blocks.reshape(len(blocks), -1)
    places = [v for block in unpadded_blocks(spec, order) for plane in block for line in plane for v in line]
    for place, value in enumerate(places):
        if value is not None:
            out[:, value] = flat[:, place]
    return out.reshape(-1, *spec.shape)


def compress(array: np.ndarray, block_bits: int) -> bytes:
    return zfpy.compress_numpy(np.ascontiguousarray(array, np.float32), rate=block_bits / 64, write_header=False)


def decompress(stream: bytes, shape, block_bits: int) -> np.ndarray:
    out = np.empty(shape, np.float32)
    zfpy._decompress(stream + bytes(8), FLOAT, shape, out=out, rate=block_bits / 64)
    return out
