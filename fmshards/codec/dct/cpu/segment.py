"""A row's events counted and written, as compiled kernels do. Imported only where numba works.

Addresses are plain integers: whoever calls answers for the memory behind them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fmshards.codec.dct.cpu.vectors import negative, quantise
from fmshards.codec.dct.events import LARGEST, STARTS
from fmshards.codec.dct.search import DEADZONE
from fmshards.kernels import jit
from fmshards.kernels.bits import count_leading_zeros, count_trailing_zeros, load8, load32, store64
from fmshards.kernels.llvm import address

_HALF, _MOST, _ONE = np.float32(DEADZONE), np.float32(LARGEST), np.float32(1)


@jit.inner
def _class(known: Any, magnitude: Any) -> Any:
    """The class of a magnitude of 1 or more. known: the address of small ones'."""
    if magnitude < 64:
        return load8(known + magnitude)
    # Two classes an octave: the magnitudes less one begin with 10 or 11 in binary.
    extra = 62 - count_leading_zeros(magnitude - 1)
    return 2 * extra + 1 + (((magnitude - 1) >> extra) & 1) + 2


@jit.inner
def _skip(lengths: Any, skips: Any, state: Any, empty: Any) -> Any:
    """Which of the skips comes next: the largest with a code."""
    j = len(skips) - 1
    while skips[j] > empty or lengths[((state * 16 + j) * 32) * 2] == 0:
        j -= 1
    return j


@jit.inner
def _skipped(lengths: Any, skips: Any, state: Any, empty: Any) -> Any:
    """Bits that so many empty blocks take."""
    bits = 0
    while empty:
        j = _skip(lengths, skips, state, empty)
        bits += lengths[((state * 16 + j) * 32) * 2]
        empty -= skips[j]
        state = 0
    return bits


@jit.inner
def _levels(source: Any, inverse: Any, plain: Any, found: Any) -> Any:
    """A block's magnitudes to `found`, int32 [16]; the bits of those that are not 0."""
    mask = quantise(source, inverse, _HALF, _MOST, address(found))
    if plain:
        mask &= ~(negative(source) & ((1 << plain) - 1))
    return mask


@jit.called
def count_bits(
    source: Any,
    peaks: Any,
    first: Any,
    last: Any,
    inverse: Any,
    plain: Any,
    lengths: Any,
    sizes: Any,
    known: Any,
    skips: Any,
    found: Any,
) -> Any:
    """Bits of a segment of the blocks first to last; 0 where it has no level."""
    bits, state, empty, some = 0, 0, 0, False
    levels = address(found)
    for block in range(first, last):
        if peaks[block] * inverse + _HALF < _ONE:
            empty += 1
            continue
        mask = _levels(source + 64 * block, inverse, plain, found)
        if mask == 0:
            empty += 1
            continue
        some = True
        if empty:
            bits += _skipped(lengths, skips, state, empty)
            state, empty = 0, 0
        before, large = -1, 0
        while mask:
            place = count_trailing_zeros(mask)
            mask &= mask - 1
            magnitude = load32(levels + 4 * place)
            end = 1 if mask == 0 else 0
            which = ((state * 16 + place - before - 1) * 32 + _class(known, magnitude)) * 2 + end
            bits += load8(sizes + which)
            large |= 1 if magnitude >= 3 else 0
            state = 1 + large if end else STARTS + 2 * place + large
            before = place
    if not some:
        return 0
    if empty:
        bits += _skipped(lengths, skips, state, empty)
    return bits


@jit.called
def write_bits(
    source: Any,
    peaks: Any,
    first: Any,
    last: Any,
    inverse: Any,
    plain: Any,
    lengths: Any,
    codes: Any,
    known: Any,
    base: Any,
    extra: Any,
    skips: Any,
    found: Any,
    target: Any,
) -> Any:
    """The bytes of a segment to address `target`, up to 8 more are written; how many they are."""
    levels = address(found)
    begin, held, bits, state, empty, some = target, np.int64(0), 0, 0, 0, False
    for block in range(first, last + 1):
        mask = 0
        if block < last and not peaks[block] * inverse + _HALF < _ONE:
            mask = _levels(source + 64 * block, inverse, plain, found)
        if mask == 0 and block < last:
            empty += 1
            continue
        while empty:
            j = _skip(lengths, skips, state, empty)
            which = ((state * 16 + j) * 32) * 2
            held |= np.int64(codes[which]) << bits
            bits += lengths[which]
            empty -= skips[j]
            state = 0
            store64(target, held)
            target += bits >> 3
            held >>= bits & 56
            bits &= 7
        below = negative(source + 64 * block) if mask else 0
        some = some or mask != 0
        before, large = -1, 0
        while mask:
            place = count_trailing_zeros(mask)
            mask &= mask - 1
            magnitude = load32(levels + 4 * place)
            kind = _class(known, magnitude)
            end = 1 if mask == 0 else 0
            which = ((state * 16 + place - before - 1) * 32 + kind) * 2 + end
            width = extra[kind]
            data = (magnitude - base[kind]) | (((below >> place) & 1) << width)
            held |= (np.int64(codes[which]) | (data << np.int64(lengths[which]))) << bits
            bits += lengths[which] + width + (1 if place >= plain else 0)
            large |= 1 if magnitude >= 3 else 0
            state = 1 + large if end else STARTS + 2 * place + large
            before = place
            store64(target, held)
            target += bits >> 3
            held >>= bits & 56
            bits &= 7
    if not some:
        return 0
    return target - begin + (1 if bits else 0)
