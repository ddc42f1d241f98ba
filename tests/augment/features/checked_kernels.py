"""Runs the kernels of cpu_kernel.py as Python (NUMBA_DISABLE_JIT=1), every access to memory checked."""

from __future__ import annotations

import numpy as np

from fmshards.augment.features import cpu_kernel
from tests.augment.features.test_on_cpu import thetas

Floats = np.ndarray


class Checked(np.ndarray):
    """An array whose single places must be there: a negative one would count from the end."""

    def __getitem__(self, at):
        self.check(at)
        return super().__getitem__(at)

    def __setitem__(self, at, value):
        self.check(at)
        super().__setitem__(at, value)

    def check(self, at) -> None:
        assert isinstance(at, slice) or not np.isscalar(at) or 0 <= at < len(self), (at, len(self))


def eight(array: Floats, at: int) -> slice:
    assert 0 <= at <= len(array) - 8, (at, len(array))
    return slice(at, at + 8)


def copy8(to, at, source, start):
    to[eight(to, at)] = source[eight(source, start)]


def reverse8(to, at, source, start):
    to[eight(to, at)] = source[eight(source, start)][::-1]


def mix8(to, at, source, a, b, wa, wb):
    to[eight(to, at)] = wa * source[eight(source, a)] + wb * source[eight(source, b)]


def mix_fill8(to, at, source, a, b, wa, wb, fill, f, wf):
    mix8(to, at, source, a, b, wa, wb)
    to[eight(to, at)] += wf * fill[eight(fill, f)]


def transpose8(to, to_rows, at, source, rows, start):
    lines = np.stack([np.asarray(source[eight(source, row + start)]) for row in rows])
    for row, line in zip(to_rows, lines.T, strict=True):
        to[eight(to, row + at)] = line


def main() -> None:
    for function in (copy8, reverse8, mix8, mix_fill8, transpose8):
        setattr(cpu_kernel, function.__name__, function)
    rng = np.random.default_rng(0)
    shapes = [(1, 1, 1), (9, 2, 3), (8, 3, 7), (3, 8, 8), (17, 5, 9), (4, 1, 12), (2, 12, 1), (11, 7, 7)]
    for seed, (c, h, w) in enumerate(shapes):
        phi = thetas(h, w, seed).astype(np.float64)
        stored = np.flatnonzero(rng.random(c) < 0.3)
        kept = np.setdiff1d(np.arange(c), stored)
        for stride in (4.0, 4.3):
            axes = np.array([[h, 4 * h, stride, 1.5], [w, 4 * w, stride, 1.5]])
            for last in (False, True):
                tokens = 2 if last else 0
                arrays = [rng.random((6, (h * w + tokens) * k)).astype(np.float32) for k in (c, len(stored), c)]
                x, view, out = (a.view(Checked) for a in arrays)
                fill = arrays[0][0].copy().view(Checked)
                kernel = cpu_kernel.move_cells if last else cpu_kernel.move_planes
                kernel._function(x, phi, axes, fill, c if last else kept, view, stored, out)
