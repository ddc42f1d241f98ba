"""Random numbers of the order: raw Philox output, which numpy keeps stable over versions, named by words."""

from __future__ import annotations

import hashlib

import numpy as np

AT_ONCE = 4
"""Numbers that Philox makes at a time: from a multiple of them on it can begin anywhere."""


def generator(*words: object, before: int = 0) -> np.random.Philox:
    """The random numbers that `words` name, after the first `before` * AT_ONCE of them."""
    digest = hashlib.blake2b("|".join(map(str, words)).encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, "<u8"), counter=before)
