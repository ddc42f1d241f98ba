"""What `dct` is fitted to: codes of events, what levels mean, channels' gains. As a config has it, and for engines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fmshards.codec.dct import events
from fmshards.codec.dct.blocks import Blocks
from fmshards.codec.dct.events import BASE, CLASSES, Code, Codes
from fmshards.codec.feature import is_int
from fmshards.errors import FormatError

Floats = npt.NDArray[np.float32]

MOST_GAIN, MOST_MEAN, MOST_OFFSET = 2.0**16, 1.0, 2.0**64
KINDS = 3
"""Magnitudes 1, 2, and 3 or more are brought back each by its own shift."""


@dataclass(frozen=True)
class Tables:
    """What rows say, and what that means. All floats are exactly float32.

    transformed: whether blocks of the grid are. codes: of every state, see events.py. shifts: [16][3], for each place
    of the scan and magnitudes of 1, 2, and 3 or more: a level of magnitude m means m - shift steps. Of each channel,
    gains: its values are divided by it before they are transformed, and multiplied after; means: in steps, the first
    coefficient of a block whose level there is 0, and where blocks are not transformed every one. offsets: what is
    taken from values first, and added last, in the order of `Blocks.offsets`. nonnegative: values under 0 become 0.
    """

    transformed: bool

    codes: Codes
    shifts: tuple[tuple[float, ...], ...]
    gains: tuple[float, ...]
    means: tuple[float, ...]
    offsets: tuple[float, ...]
    nonnegative: bool

    def to_json(self) -> dict[str, Any]:
        """`codes`: of each state eight lists, the events with codes of 1 to 8 bits."""
        lists = [
            [[event for event, length in code if length == bits] for bits in range(1, events.BITS + 1)]
            for code in self.codes
        ]
        return {
            "transformed": self.transformed,
            "codes": lists,
            "shifts": [list(each) for each in self.shifts],
            "gains": list(self.gains),
            "means": list(self.means),
            "offsets": list(self.offsets),
            "nonnegative": self.nonnegative,
        }

    @staticmethod
    def from_json(config: Mapping[str, Any], blocks: Blocks) -> Tables:
        """Raises FormatError on anything that `to_json` cannot give."""
        shifts, nonnegative = config["shifts"], config["nonnegative"]
        transformed = config.get("transformed", blocks.sides is not None)
        if not _is_list(shifts, 16) or not all(_is_list(each, KINDS) for each in shifts):
            raise FormatError(f"codec dct: expected 16 times {KINDS} numbers as shifts, found {str(shifts)[:80]}")
        if not all(_is_float32(value) and abs(value) <= 0.5 for each in shifts for value in each):
            raise FormatError(f"codec dct: expected float32 numbers of -0.5 to 0.5 as shifts, found {str(shifts)[:80]}")
        for key, value in (("nonnegative", nonnegative), ("transformed", transformed)):
            if not isinstance(value, bool):
                raise FormatError(f"codec dct: expected true or false as {key}, found {str(value)[:40]}")
        if transformed and not blocks.sides:
            raise FormatError("codec dct: expected false as transformed, as the feature has no grid of places")
        channels = blocks.spec.channels
        gains = _numbers(config, "gains", channels, 1 / MOST_GAIN, MOST_GAIN)
        means = _numbers(config, "means", channels, -MOST_MEAN, MOST_MEAN)
        offsets = _numbers(config, "offsets", blocks.offsets, -MOST_OFFSET, MOST_OFFSET)
        codes = _codes(config["codes"])
        return Tables(transformed, codes, tuple(tuple(each) for each in shifts), gains, means, offsets, nonnegative)


@dataclass(frozen=True, eq=False)
class Arrays:
    """Tables as engines take them; equal to themselves alone, which is how copies on devices are kept.

    decode, quick, lengths, bits, sizes: see events.py. levels: float32 [16 * 32], what the least
    magnitude of each class means at each place of the scan, in steps; 0 for class 0. gains, means, offsets: float32
    [C]. run_offsets: of each value of the runs. plain: see `Blocks.plain`. least: what is below it becomes 0.
    transformed: as the tables have it.
    """

    decode: npt.NDArray[np.uint32]
    quick: npt.NDArray[np.uint32]
    lengths: npt.NDArray[np.uint8]
    bits: npt.NDArray[np.uint32]
    sizes: npt.NDArray[np.uint8]
    levels: Floats
    gains: Floats
    means: Floats
    offsets: Floats
    run_offsets: Floats
    plain: int
    least: float
    transformed: bool


def arrays(tables: Tables, blocks: Blocks) -> Arrays:
    # What an offset is taken from has both signs.
    plain = blocks.plain(tables.nonnegative and not any(tables.offsets), tables.transformed)
    lengths, bits = events.encode_tables(tables.codes, plain)
    shift = np.array(tables.shifts, np.float32)
    levels = np.zeros((16, 32), np.float32)
    base = BASE[1:].astype(np.float32)
    levels[:, 1 : CLASSES + 1] = base - shift[:, np.minimum(BASE[1:], KINDS) - 1]
    offsets = np.array(tables.offsets, np.float32)
    return Arrays(
        events.decode_table(tables.codes, plain),
        events.quick_table(tables.codes, plain, levels),
        lengths,
        bits,
        events.sizes(lengths, plain),
        levels.reshape(-1),
        np.array(tables.gains, np.float32),
        np.array(tables.means, np.float32),
        offsets[: blocks.spec.channels],
        _run_offsets(offsets, blocks),
        plain,
        0.0 if tables.nonnegative else -math.inf,
        tables.transformed,
    )


def _run_offsets(offsets: Floats, blocks: Blocks) -> Floats:
    """float32 [run_values]: behind a grid each value has its own, else each channel."""
    if blocks.sides:
        return offsets[blocks.spec.channels :]
    places = blocks.spec.values // blocks.spec.channels
    return np.tile(offsets, places) if blocks.turned else np.repeat(offsets, places)


def code_of(counts: npt.NDArray[np.float64], state: int) -> Code:
    """The Huffman code of at most 8 bits of a state's events, counted: float64 [EVENTS], those that can come there.

    What is so rare that the bits of an escape cost less than a code of 8 bits costs all others has none, and is said by
    the escape, which always has one. At most three quarters of the codes that there may be are given.
    """
    total = counts.sum()
    rare = counts < max(total / 2 ** (events.BITS + 3), 1e-30)
    rare[np.argsort(-counts, kind="stable")[3 * 2 ** (events.BITS - 2) :]] = True
    rare[events.ESCAPE] = False
    if state < events.STARTS:
        rare[1] = False
    kept = np.flatnonzero(~rare)
    weight = np.maximum(counts[kept], total / 2 ** (events.BITS + 1))
    weight[kept == events.ESCAPE] += counts[rare].sum()
    lengths = _lengths(weight.tolist())
    return tuple(sorted(zip(kept.tolist(), lengths, strict=True), key=lambda pair: (pair[1], pair[0])))


def _lengths(weights: list[float]) -> list[int]:
    """Lengths of at most 8 bits of a complete prefix code with the least sum of weight times length (package-merge:
    Larmore, Hirschberg 1990). Equal weights keep their order, so that the code depends on the weights alone."""
    if len(weights) == 1:
        raise ValueError("a code of one event")
    order = sorted(range(len(weights)), key=lambda i: (weights[i], i))
    singles = [(weights[i], (i,)) for i in order]
    packages: list[tuple[float, tuple[int, ...]]] = []
    for _ in range(events.BITS):
        merged = sorted([*singles, *packages], key=lambda package: package[0])
        packages = [
            (merged[i][0] + merged[i + 1][0], merged[i][1] + merged[i + 1][1]) for i in range(0, len(merged) - 1, 2)
        ]
    lengths = [0] * len(weights)
    for _, members in packages[: len(weights) - 1]:
        for i in members:
            lengths[i] += 1
    return lengths


@lru_cache(maxsize=1)
def usual_counts() -> npt.NDArray[np.float64]:
    """float64 [STATES, EVENTS]: how often events come where nothing is known, of 1 in each state. What fits begin with,
    and what they see more often than that."""
    found = np.zeros((events.STATES, events.EVENTS))
    for state in range(events.STATES):
        at = events.place(state)
        found[state, events.ESCAPE] = 0.01
        # How much less often each larger magnitude comes than the one before it.
        less = 0.6 if state >= events.STARTS and (state - events.STARTS) % 2 == 1 else 0.3
        first = less
        if state < events.STARTS:
            first = (0.5, 0.5, 0.75)[state]
            empty = (0.6, 0.4, 0.2)[state]
            found[state, 1 : len(events.SKIPS) + 1] = empty * 0.5 ** np.arange(1, len(events.SKIPS) + 1)
        for run in range(16 - at):
            ends = 0.2 + 0.8 * ((at + run) / 15) ** 6
            ratio = less if at + run else first
            for each in range(1, 12):
                size = 0.4 * 0.6**run * (1 - ratio) * ratio ** (each - 1)
                found[state, events.level(run, each, 1)] = size * ends
                if at + run < 15:
                    found[state, events.level(run, each, 0)] = size * (1 - ends)
    total: npt.NDArray[np.float64] = found / found.sum(1, keepdims=True)
    return total


def usual(blocks: Blocks) -> Tables:
    """Tables that are fitted to nothing, for values of both signs."""
    channels = blocks.spec.channels
    shifts = ((0.0,) * KINDS,) * 16
    ones, zeros = (1.0,) * channels, (0.0,) * channels
    return Tables(blocks.sides is not None, _usual_codes(), shifts, ones, zeros, (0.0,) * blocks.offsets, False)


@lru_cache(maxsize=1)
def _usual_codes() -> Codes:
    return tuple(code_of(counts, state) for state, counts in enumerate(usual_counts()))


def _codes(lists: Any) -> Codes:
    good = _is_list(lists, events.STATES) and all(_is_list(code, events.BITS) for code in lists)
    if good:
        flat = [event for code in lists for each in code if isinstance(each, list) for event in each]
        good = all(isinstance(each, list) and len(each) <= 256 for code in lists for each in code)
        good = good and all(is_int(event) and 0 <= event < events.EVENTS for event in flat)
    if not good:
        raise FormatError(
            f"codec dct: expected {events.STATES} times {events.BITS} lists of events under {events.EVENTS} as codes, "
            f"found {str(lists)[:80]}"
        )
    codes = tuple(tuple((event, bits) for bits, each in enumerate(code, 1) for event in each) for code in lists)
    wrong = events.check(codes)
    if wrong:
        raise FormatError(f"codec dct: codes: {wrong}")
    return codes


def _numbers(config: Mapping[str, Any], key: str, count: int, least: float, most: float) -> tuple[float, ...]:
    numbers = config[key]
    if not _is_list(numbers, count) or not all(_is_float32(value) and least <= value <= most for value in numbers):
        raise FormatError(
            f"codec dct: expected {count} float32 numbers of {least:g} to {most:g} as {key}, found {str(numbers)[:80]}"
        )
    return tuple(numbers)


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def _is_float32(value: Any) -> bool:
    return type(value) is float and math.isfinite(value) and float(np.float32(value)) == value
