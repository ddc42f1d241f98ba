"""The layout rule: one sample's feature as whole blocks of 4 x 4 x 4 values.

Channels are taken in a stored order (everywhere: in maps, token grids, class tokens and vectors). A map's channels
are grouped ty * tx to a mosaic, row by row, and 4 mosaics make one layer of blocks; blocks are numbered z, y, x as
ZFP numbers those of an array [mosaics, ty * H, tx * W]. Class tokens follow as one run of values, a vector is one
run: 64 values a block, x fastest. What is missing in a block is padded as ZFP pads partial blocks (zfp 1.0,
src/template/encode.c, `pad_block`): each x line by its valid prefix, then y, then z; of 1 value p -> p p p p, of
2 -> p0 p1 p1 p0, of 3 -> p0 p1 p2 p0. A block with nothing valid is zeros.

A sample's blocks are therefore the same whether it is encoded alone or among others, and a chunk of n samples is a
matrix of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fmshards.codec.feature import FeatureSpec
from fmshards.errors import CodecError

Order = tuple[int, ...] | None
BLOCK = 64
_MOST_PLACES = 1 << 26  # of a table of places, which takes 24 bytes for each while it is made


@dataclass(frozen=True)
class Layout:
    """Where one sample's values go, as sizes. `gather_of` gives the places one by one.

    spec, order: the feature and its stored channel order (None: as they are).
    tile: (ty, tx), how many channels a mosaic holds down and across.
    map_blocks: (z, y, x), the blocks of the map; (0, 0, 0) where there is none.
    run_blocks: blocks of the class tokens or of the vector, after the map's.
    plain: the array [n * C, H, W] itself has these blocks: nothing needs to move.
    """

    spec: FeatureSpec
    order: Order
    tile: tuple[int, int]
    map_blocks: tuple[int, int, int]
    run_blocks: int
    plain: bool

    @property
    def blocks(self) -> int:
        """Blocks of one sample."""
        return math.prod(self.map_blocks) + self.run_blocks


@dataclass(frozen=True)
class Gather:
    """The places of one sample's values, both ways.

    index: int64 [blocks * 64], for each place in the blocks the value that is there, counted in the sample's own
        order; padding repeats a value.
    zeros: int64, the places of blocks with nothing valid; their `index` is 0 and means nothing.
    inverse: int64 [values], for each value its place in the blocks.
    identity: the blocks are the values as they lie.
    width: 1, 2 or 4: values that stay side by side both ways and can be moved as one. `wide_index` and
        `wide_inverse` are `index` and `inverse` counted in such groups.
    """

    index: npt.NDArray[np.int64]
    zeros: npt.NDArray[np.int64]
    inverse: npt.NDArray[np.int64]
    identity: bool
    width: int
    wide_index: npt.NDArray[np.int64]
    wide_inverse: npt.NDArray[np.int64]


@lru_cache(maxsize=256)
def layout_of(spec: FeatureSpec, order: Order = None) -> Layout:
    """The layout of a feature. `order` must be a permutation of its channels, or None."""
    c, h, w = _map_shape(spec)
    if c == 0:
        return Layout(spec, order, (1, 1), (0, 0, 0), -(-_run_values(spec) // BLOCK), False)
    tile = _tile(c, h, w)
    plain = spec.kind == "map" and order is None and tile == (1, 1) and c % 4 == 0
    return Layout(spec, order, tile, _map_blocks(c, h, w, tile), -(-_run_values(spec) // BLOCK), plain)


@lru_cache(maxsize=32)
def gather_of(layout: Layout) -> Gather:
    """The places of a layout, computed once and kept. Raises CodecError where they are more than 2^26."""
    if layout.blocks * BLOCK > _MOST_PLACES:
        raise CodecError(
            f"zfp: a feature {layout.spec.kind} {list(layout.spec.shape)} makes {layout.blocks:,} blocks of 64 values, "
            f"beyond {_MOST_PLACES // BLOCK:,}; take a cut with a smaller feature, or store it raw (fp16)"
        )
    parts = []
    if math.prod(layout.map_blocks):
        parts.append(_map_places(layout))
    if layout.run_blocks:
        parts.append(_run_places(layout))
    # In C order: `flat` must be the same memory.
    blocks = np.ascontiguousarray(np.concatenate(parts))
    flat = blocks.reshape(-1)
    valid = np.flatnonzero(flat >= 0)
    inverse = np.empty(layout.spec.values, np.int64)
    inverse[flat[valid]] = valid
    for axis in (3, 2, 1):
        _pad(blocks, axis)
    zeros = np.flatnonzero(flat < 0)
    flat[zeros] = 0
    identity = flat.size == inverse.size and bool((inverse == np.arange(inverse.size)).all())
    width = next(k for k in (4, 2, 1) if _in_groups(flat, k) and _in_groups(inverse, k))
    arrays = (flat, zeros, inverse, flat[::width] // width, inverse[::width] // width)
    for array in arrays:
        array.setflags(write=False)
    return Gather(*arrays[:3], identity, width, *arrays[3:])


def first_channel(layout: Layout, block: int) -> int:
    """The channel of the first value of a sample's block, for messages."""
    channels, in_map = layout.spec.channels, math.prod(layout.map_blocks)
    if block >= in_map:
        place = (block - in_map) * BLOCK % channels
    else:
        place = block // math.prod(layout.map_blocks[1:]) * 4 * math.prod(layout.tile)
    return place if layout.order is None else layout.order[place]


def _map_shape(spec: FeatureSpec) -> tuple[int, int, int]:
    """(C, H, W) of what is laid out as a map; C is 0 where nothing is."""
    if spec.kind == "map":
        return spec.shape[0], spec.shape[1], spec.shape[2]
    if spec.kind == "map_last":
        return spec.shape[2], spec.shape[0], spec.shape[1]
    places = spec.shape[0] - spec.class_tokens if spec.kind == "tokens" else 0
    if places == 0:
        return 0, 0, 0
    h, w = spec.grid or (1, places)
    return spec.shape[1], h, w


def _run_values(spec: FeatureSpec) -> int:
    if spec.kind == "vector":
        return spec.shape[0]
    return spec.class_tokens * spec.channels


def _tile(c: int, h: int, w: int) -> tuple[int, int]:
    downs = {1, 4 // math.gcd(h, 4)}
    acrosses = {1, 4 // math.gcd(w, 4)}
    tiles = [(ty, tx) for ty in downs for tx in acrosses]
    return min(tiles, key=lambda t: (math.prod(_map_blocks(c, h, w, t)), t[0] * t[1], t[0]))


def _map_blocks(c: int, h: int, w: int, tile: tuple[int, int]) -> tuple[int, int, int]:
    ty, tx = tile
    mosaics = -(-c // (ty * tx))
    return -(-mosaics // 4), -(-ty * h // 4), -(-tx * w // 4)


def _map_places(layout: Layout) -> npt.NDArray[np.int64]:
    """int64 [blocks, 4, 4, 4]: the value at each place of the map's blocks, -1 where nothing is valid."""
    spec, (ty, tx), (bz, by, bx) = layout.spec, layout.tile, layout.map_blocks
    c, h, w = _map_shape(spec)
    stored = np.full(bz * 4 * ty * tx, -1, np.int64)
    stored[:c] = _stored_channels(layout)
    # Strides of channel, row and column in the sample's own order; tokens start after the class tokens.
    sc, sy, sx = (h * w, w, 1) if spec.kind == "map" else (1, w * c, c)
    start = spec.class_tokens * c
    value = start + stored[:, None, None] * sc + (np.arange(h) * sy)[:, None] + np.arange(w) * sx
    value[stored < 0] = -1
    mosaics = value.reshape(bz * 4, ty, tx, h, w).transpose(0, 1, 3, 2, 4)
    places = np.full((bz * 4, by * 4, bx * 4), -1, np.int64)
    places[:, : ty * h, : tx * w] = mosaics.reshape(bz * 4, ty * h, tx * w)
    blocks: npt.NDArray[np.int64] = places.reshape(bz, 4, by, 4, bx, 4).transpose(0, 2, 4, 1, 3, 5)
    return blocks.reshape(-1, 4, 4, 4)


def _run_places(layout: Layout) -> npt.NDArray[np.int64]:
    """int64 [blocks, 4, 4, 4]: the value at each place of the run's blocks, -1 where nothing is valid."""
    spec = layout.spec
    places = np.full(layout.run_blocks * BLOCK, -1, np.int64)
    tokens = np.arange(_run_values(spec) // spec.channels)
    places[: _run_values(spec)] = (tokens[:, None] * spec.channels + _stored_channels(layout)).reshape(-1)
    return places.reshape(-1, 4, 4, 4)


def _stored_channels(layout: Layout) -> npt.NDArray[np.int64]:
    if layout.order is None:
        return np.arange(layout.spec.channels)
    return np.asarray(layout.order, np.int64)


def _in_groups(places: npt.NDArray[np.int64], width: int) -> bool:
    """Whether places come in aligned, rising groups of `width`."""
    if places.size % width:
        return False
    groups = places.reshape(-1, width)
    return bool((groups[:, 0] % width == 0).all() and (groups == groups[:, :1] + np.arange(width)).all())


def _pad(blocks: npt.NDArray[np.int64], axis: int) -> None:
    """ZFP's padding of partial blocks along one axis, in place; lines with nothing valid stay as they are."""
    line = np.moveaxis(blocks, axis, 0)
    line[1] = np.where(line[1] < 0, line[0], line[1])
    line[2] = np.where(line[2] < 0, line[1], line[2])
    line[3] = np.where(line[3] < 0, line[0], line[3])
