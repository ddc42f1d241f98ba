"""The transforms as vectors.py takes them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fmshards.codec.dct.blocks import transforms


@lru_cache(maxsize=2)
def matrices(transformed: bool) -> npt.NDArray[np.float32]:
    """float32 [5, 96]: for each size the 64 factors `down` and the 32 `across` that take values to coefficients."""
    found = np.zeros((5, 96), np.float32)
    for size, rows in enumerate(transforms(transformed)):  # [made, from]
        down = rows.reshape(2, 2, 4).transpose(0, 2, 1)[..., None].repeat(4, 3)  # [pair, from, of the pair, 4 times]
        across = rows.T[:, None].repeat(2, 1)  # [from, twice, made]
        found[size] = np.concatenate([down.ravel(), across.ravel()])
    return found
