"""The order in which a block's 64 coefficients stand in ZFP's stream, for every engine that reads it itself."""

from __future__ import annotations

ORDER = (
    *(0, 1, 4, 16, 20, 17, 5, 2, 8, 32, 21, 6, 18, 24, 9, 33, 36, 3, 12, 48, 22, 25, 37, 40, 34, 10, 7, 19, 28, 13, 49),
    *(52, 41, 38, 26, 23, 29, 53, 11, 35, 44, 14, 50, 56, 42, 27, 39, 45, 30, 54, 57, 60, 51, 15, 43, 46, 58, 61, 55),
    *(31, 62, 59, 47, 63),
)
"""The place x + 4 y + 16 z of the i-th coefficient: by x + y + z, then by the sum of squares (zfp 1.0,
src/template/codec3.c, `perm_3`)."""
