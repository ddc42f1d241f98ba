"""Theta: an affine map of the base image, in plain numpy.

`theta` float[..., 2, 3] says where an output point comes from: `out(p) = in(theta p)`, with p = (x, y) in normalised
coordinates, -1 and 1 at the image's outer edges (torch's `affine_grid` with `align_corners=False`). Pixel i of W lies
at (2i + 1) / W - 1. Applying A to an image and then B to the result is one theta, `compose(A, B)`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Theta = npt.NDArray[np.float64]

FLIP: Theta = np.array([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
FLIP.setflags(write=False)


def identity_theta(n: int) -> npt.NDArray[np.float32]:
    """float32[n, 2, 3] of thetas that change nothing."""
    return np.tile(np.eye(2, 3, dtype=np.float32), (n, 1, 1))


def compose(first: npt.ArrayLike, then: npt.ArrayLike) -> Theta:
    """The theta of moving by `first` and moving the result by `then`: the matrix product first . then.

    out(p) = mid(then p) = in(first (then p)). Leading axes broadcast.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(then, dtype=np.float64)
    # Written out, since matmul takes its time for each of many small matrices.
    out: Theta = a[..., :, 0:1] * b[..., 0:1, :] + a[..., :, 1:2] * b[..., 1:2, :]
    out[..., 2] += a[..., 2]
    return out


def invert(theta: npt.ArrayLike) -> Theta:
    """The theta that undoes `theta` (which must not be singular)."""
    t = np.asarray(theta, dtype=np.float64)
    linear = np.linalg.inv(t[..., :2])
    return np.concatenate([linear, -linear @ t[..., 2:]], axis=-1)


def translate(dx: npt.ArrayLike, dy: npt.ArrayLike, size: tuple[int, int]) -> Theta:
    """Output pixel (x, y) shows input pixel (x + dx, y + dy); `size` is (H, W). float64[..., 2, 3]."""
    return _axes(1.0, 2 * np.asarray(dx, np.float64) / size[1], 1.0, 2 * np.asarray(dy, np.float64) / size[0])


def crop_box(
    left: npt.ArrayLike, top: npt.ArrayLike, width: npt.ArrayLike, height: npt.ArrayLike, size: tuple[int, int]
) -> Theta:
    """The output shows this box of the image, its pixels from `left` to `left + width`; `size` is (H, W)."""
    left, top, width, height = (np.asarray(v, np.float64) for v in (left, top, width, height))
    return _axes(width / size[1], (2 * left + width) / size[1] - 1, height / size[0], (2 * top + height) / size[0] - 1)


def phi_of(theta: npt.ArrayLike, mirrored: npt.ArrayLike) -> Theta:
    """What is left to do to the reference: `theta` for the base, F . theta for the mirror (theta = F . phi there)."""
    t = np.asarray(theta, dtype=np.float64)
    return np.where(np.asarray(mirrored, bool)[..., None, None], compose(FLIP, t), t)


def _axes(sx: npt.ArrayLike, tx: npt.ArrayLike, sy: npt.ArrayLike, ty: npt.ArrayLike) -> Theta:
    theta = np.zeros((*np.broadcast(sx, tx, sy, ty).shape, 2, 3))
    theta[..., 0, 0], theta[..., 0, 2], theta[..., 1, 1], theta[..., 1, 2] = sx, tx, sy, ty
    return theta
