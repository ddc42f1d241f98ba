"""A counter-based generator: a draw is a pure function of (key, counter), so order and batching cannot change it.

Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), vectorised in
numpy. Its known answers (Random123's `kat_vectors`) are in the tests.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)

Counters = npt.NDArray[np.uint32]


def philox(counter: Counters, key: int) -> Counters:
    """Philox4x32-10. counter uint32[..., 4] -> uint32[..., 4]; `key` is 64 bits, the low word first."""
    counter = np.asarray(counter, dtype=np.uint32)
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0), p1 & _LOW
        c2, c3 = (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def uniforms(words: Counters) -> npt.NDArray[np.float64]:
    """uint32 words as float64 in [0, 1): word / 2**32, exactly."""
    return np.asarray(words, dtype=np.uint32).astype(np.float64) * 2.0**-32


def draw(key: int, stream: npt.ArrayLike, index: int | npt.ArrayLike, block: int) -> npt.NDArray[np.float64]:
    """Four uniforms for each element of `stream`: float64[B, 4].

    `stream` [B] is 64 bits (a sample's number, or a hash), `index` 32 bits (an epoch or a view; one or [B]), `block`
    the number of the draw within the sample. Together they are the counter.
    """
    wide = np.atleast_1d(np.asarray(stream)).astype(np.uint64)
    counter = np.empty((len(wide), 4), dtype=np.uint32)
    counter[:, 0] = (wide & _LOW).astype(np.uint32)
    counter[:, 1] = (wide >> _SHIFT).astype(np.uint32)
    counter[:, 2] = np.asarray(index).astype(np.uint64).astype(np.uint32)
    counter[:, 3] = block
    return uniforms(philox(counter, key))


def hash64(*parts: str | int) -> int:
    """A 64-bit hash, the same on every machine and in every process: BLAKE2b over the parts, each with its length."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = str(part).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return int.from_bytes(digest.digest(), "little")
