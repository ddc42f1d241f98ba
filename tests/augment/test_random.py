from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmshards.augment import draw, hash64, philox, uniforms

# Random123, tests/kat_vectors, philox4x32 with 10 rounds: counter, key (low word first), answer.
ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(w, 16) for w in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), ANSWERS)
def test_known_answers(counter: str, key: str, answer: str) -> None:
    low, high = words(key)
    got = philox(np.array([words(counter)] * 3, np.uint32), low | high << 32)
    assert got.dtype == np.uint32
    assert got.tolist() == [words(answer)] * 3


def test_uniforms_cover_the_half_open_interval() -> None:
    u = uniforms(np.array([0, 1 << 31, (1 << 32) - 1], np.uint32))
    assert u[0] == 0
    assert u[1] == 0.5
    assert u[2] < 1


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20), st.integers(0, 2**32 - 1), st.integers(0, 99))
def test_a_draw_is_its_own_whatever_stands_beside_it(streams: list[int], index: int, block: int) -> None:
    together = draw(7, np.array(streams, np.uint64), index, block)
    alone = [draw(7, np.array([s], np.uint64), index, block)[0] for s in streams]
    assert np.array_equal(together, np.stack(alone))
    assert ((together >= 0) & (together < 1)).all()


def test_every_part_of_the_counter_matters() -> None:
    base = draw(1, [5], 0, 0)
    others = [
        draw(2, [5], 0, 0),
        draw(1, [6], 0, 0),
        draw(1, [5 + 2**40], 0, 0),
        draw(1, [5], 1, 0),
        draw(1, [5], 0, 1),
    ]
    assert not any(np.array_equal(base, other) for other in others)


def test_draws_look_uniform_and_unrelated() -> None:
    u = draw(3, np.arange(50_000), 0, 0)
    counts = np.stack([np.histogram(u[:, k], bins=20, range=(0, 1))[0] for k in range(4)])
    chi = ((counts - 2500) ** 2 / 2500).sum(axis=1)
    assert (chi < 50).all()  # 19 degrees of freedom: 50 is one in ten thousand
    after = draw(3, np.arange(50_000), 1, 0)
    assert np.abs(np.corrcoef(np.concatenate([u, after], axis=1).T) - np.eye(8)).max() < 0.02


def test_hash_is_the_same_everywhere_and_keeps_parts_apart() -> None:
    assert hash64("shard", "clé", 3) == 17179677755763635310
    assert hash64("ab", "c") != hash64("a", "bc") != hash64("abc")
    assert hash64() == int.from_bytes(bytes.fromhex("e4a6a0577479b2b4"), "little")  # BLAKE2b-64 of nothing
