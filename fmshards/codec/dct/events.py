"""What a row of `dct` says, event by event, and the prefix codes by which it says it.

A segment of a row is a sequence of events over its blocks' levels (quantised coefficients, in scan order): a level
that is not 0, after a run of zeros in its block, with whether it is the block's last; or a number of empty blocks.
Which code an event has depends on a *state*: where in its block the next level may be, and what was seen before it. So
a decoder looks one byte up in the state's table, and has the level, the place of the next and the next state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fmshards.codec.dct.blocks import CELLS

STATES = 33
"""0: at a block's start, after an empty block or at the segment's; 1, 2: at a block's start, after one without or with
a level of 3 or more; 3 + 2 (f - 1) + a: at place f = 1 to 15 of a block, a = 1 where it had a level of 3 or more."""
STARTS = 3
BITS = 8
"""The longest code."""

ESCAPE = 0
SKIPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Events 1 to 12: so many empty blocks."""
CLASSES = 30
"""Magnitudes of levels, from 1 on: classes 1 to 4 of one magnitude, then two classes each of 2, 4, 8, ... 8192."""
FIRST_LEVEL = 16
"""Event 16 + 2 (30 run + class - 1) + last: a level."""
EVENTS = FIRST_LEVEL + 2 * 16 * CLASSES
LARGEST = 32768
"""The largest magnitude."""
ESCAPED = 10
"""Bits that follow an escape: run (4), last (1), class (5)."""

EXTRA = np.array([0] * 5 + [1 + i // 2 for i in range(CLASSES - 4)], np.int64)
"""Of each class (0: none), how many bits say which of its magnitudes."""
BASE = np.concatenate([[0], 1 + np.cumsum([0, *2 ** EXTRA[1:-1]])])
"""Of each class, its least magnitude."""

Code = tuple[tuple[int, int], ...]
"""(event, length of its code in bits) of a state, by length, then by event: the codes are canonical."""
Codes = tuple[Code, ...]
"""Of every state."""


def class_of(magnitudes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The classes of magnitudes, 0 to 32768."""
    return np.searchsorted(BASE, magnitudes, "right") - 1


def level(run: int, magnitude_class: int, last: int) -> int:
    """The number of an event."""
    return FIRST_LEVEL + 2 * (CLASSES * run + magnitude_class - 1) + last


def parts(event: int) -> tuple[int, int, int]:
    """run, class and last of a level's event."""
    rest, last = divmod(event - FIRST_LEVEL, 2)
    return rest // CLASSES, rest % CLASSES + 1, last


def place(state: int) -> int:
    """Where in its block the next level may be, from 0."""
    return 0 if state < STARTS else (state - STARTS) // 2 + 1


def next_state(state: int, event: int) -> int:
    """The state after an event that is a skip or a level."""
    if event < FIRST_LEVEL:
        return 0
    run, magnitude_class, last = parts(event)
    large = int(magnitude_class >= 3 or (state >= STARTS and (state - STARTS) % 2 == 1))
    return 1 + large if last else STARTS + 2 * (place(state) + run) + large


def allowed(state: int, event: int) -> bool:
    """Whether an event may come in a state: blocks are skipped at a block's start, and levels stay in their block."""
    if event == ESCAPE:
        return True
    if event < FIRST_LEVEL:
        return event <= len(SKIPS) and state < STARTS
    if event >= EVENTS:
        return False
    run, _, last = parts(event)
    at = place(state) + run
    return at < 15 or (at == 15 and last == 1)


def check(codes: Sequence[Sequence[tuple[int, int]]]) -> str | None:
    """What is wrong with codes; None where nothing is: then every table is full, and everything can be said."""
    if len(codes) != STATES:
        return f"{len(codes)} states, expected {STATES}"
    for state, code in enumerate(codes):
        events = [event for event, _ in code]
        if not all(1 <= length <= BITS for _, length in code) or sum(2 ** (BITS - length) for _, length in code) != 256:
            return f"state {state}: expected lengths of 1 to {BITS} bits of a complete prefix code"
        if sorted(set(events)) != sorted(events) or not all(allowed(state, event) for event in events):
            return f"state {state}: expected different events, of those that can come there"
        if ESCAPE not in events or (state < STARTS and 1 not in events):
            return f"state {state}: expected the escape" + (" and a block skipped" if state < STARTS else "")
        if list(code) != sorted(code, key=lambda pair: (pair[1], pair[0])):
            return f"state {state}: expected codes by length, then by event"
    return None


def canonical(code: Code) -> list[tuple[int, int, int]]:
    """(event, length, bits) of a state's codes; the first bit of a code is the least significant one.

    Codes count up from 0 as binary numbers, the first bit the most significant, and grow by zeros on the right.
    """
    found, number, before = [], 0, 0
    for event, length in code:
        number <<= length - before
        found.append((event, length, int(f"{number:0{length}b}"[::-1], 2)))
        number, before = number + 1, length
    return found


def decode_table(codes: Codes, plain: int) -> npt.NDArray[np.uint32]:
    """uint32 [STATES * 256]: what the next byte says in each state.

    plain: the places of a block, from 0 on, whose levels have no sign. Of an entry, from its least significant bit on:
    5 bits, all that the event takes (of an escape: its code); 4, its code; 5, class (0: blocks skipped, 31: an escape);
    4, run; 1, last; 6, empty blocks less one; 6, the next state.
    """
    table = np.zeros((STATES, 256), np.uint32)
    for state, code in enumerate(codes):
        for event, length, bits in canonical(code):
            if event == ESCAPE:
                entry = length | length << 5 | 31 << 9
            elif event < FIRST_LEVEL:
                entry = length | length << 5 | 1 << 18 | (SKIPS[event - 1] - 1) << 19
            else:
                run, magnitude_class, last = parts(event)
                signed = int(place(state) + run >= plain)
                taken = length + int(EXTRA[magnitude_class]) + signed
                entry = taken | length << 5 | magnitude_class << 9 | run << 14 | last << 18
                entry |= next_state(state, event) << 25
            table[state, bits :: 1 << length] = entry
    return table.reshape(-1)


WINDOW = 9
"""Bits by which `quick_table` is looked up."""
QUICK_LEVELS = 1024
"""How many different levels it knows, of all places."""
QUICK_SKIP = 63
"""The most blocks that it passes."""


def quick_table(codes: Codes, plain: int, levels: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """uint32 [STATES * 2^WINDOW + QUICK_LEVELS]: most events, sign and all, in one look, and what levels mean.

    Of an entry, from the least significant bit on: 6 bits, all that the event takes, 0 where this table does not know
    it (an escape, or more bits than the window has); 6, how many blocks are passed; 4, the coefficient's cell (see
    `CELLS`); 10, which level; 6, the next state. Skips are level 0, of 0, at the block's start. Behind the entries are
    binary32: what each level means, from `levels`, [16, 32], and its sign.
    """
    table = np.zeros((STATES, 1 << WINDOW), np.uint32)
    known: dict[float, int] = {0.0: 0}
    for state, code in enumerate(codes):
        for event, length, bits in canonical(code):
            if event == ESCAPE:
                continue
            following = next_state(state, event) << 26
            if event < FIRST_LEVEL:
                if SKIPS[event - 1] <= QUICK_SKIP:
                    table[state, bits :: 1 << length] = length | SKIPS[event - 1] << 6 | following
                continue
            run, magnitude_class, last = parts(event)
            at = place(state) + run
            width, signed = int(EXTRA[magnitude_class]), int(at >= plain)
            taken = length + width + signed
            for said in range(1 << width + signed if taken <= WINDOW else 0):
                size = float(levels[at, magnitude_class] + np.float32(said & (1 << width) - 1))
                number = known.setdefault(-size if said >> width else size, len(known))
                if number < QUICK_LEVELS:
                    entry = taken | last << 6 | CELLS[at] << 12 | number << 16 | following
                    table[state, bits | said << length :: 1 << taken] = entry
    means = np.zeros(QUICK_LEVELS, np.float32)
    means[: len(known)] = list(known)[:QUICK_LEVELS]
    return np.concatenate([table.reshape(-1), means.view(np.uint32)])


def encode_tables(codes: Codes, plain: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """length uint8 and bits uint32, [STATES, 16 runs, 32 classes, 2], flat: how a level is said, but for its magnitude
    and sign. Class 0 of run j is the skip of SKIPS[j] blocks, of length 0 where it has no code."""
    length = np.zeros((STATES, 16, 32, 2), np.uint8)
    bits = np.zeros((STATES, 16, 32, 2), np.uint32)
    for state, code in enumerate(codes):
        said = canonical(code)
        _, escape_length, escape = next(each for each in said if each[0] == ESCAPE)
        run, last, magnitude_class = np.ogrid[:16, :2, 1:31]
        length[state, :, 1:31] = escape_length + ESCAPED
        follows = (run | last << 4 | magnitude_class << 5) << escape_length | escape
        bits[state, :, 1:31] = follows.transpose(0, 2, 1)
        for event, taken, code_bits in said:
            if event == ESCAPE:
                continue
            where = (event - 1, 0, 0) if event < FIRST_LEVEL else parts(event)
            length[(state, *where)], bits[(state, *where)] = taken, code_bits
    return length.reshape(-1), bits.reshape(-1)


def sizes(lengths: npt.NDArray[np.uint8], plain: int) -> npt.NDArray[np.uint8]:
    """Bits that an event takes with magnitude and sign, indexed as `encode_tables` gives lengths."""
    each = lengths.reshape(STATES, 16, 32, 2).astype(np.int64)
    at = np.array([place(state) for state in range(STATES)])[:, None] + np.arange(16)
    more = EXTRA[None, None, 1:] + (at >= plain)[..., None]
    each[:, :, 1:31] += more[..., None]
    return each.astype(np.uint8).reshape(-1)
