"""The kernels of on_cpu.py: features moved along the axes in one pass, a view's stored channels put in on the way.

An axis-aligned theta (flips, shifts, boxes) gives each output row two source rows and each output column two source
columns, for all channels alike; these are found once for a sample. Where all of them are whole cells the sample is
copied. Else, in this order, every product and every sum rounded to float32:

    line[x] = wy0 * source[y0, x] + wy1 * source[y1, x]
    out[i, j] = (wx0 * line[x0] + wx1 * line[x1]) + outside * fill[i, j]

with weights 0 for cells outside and outside = 1 - (wy0 + wy1) * (wx0 + wx1); what is inside is not added to. A result
does not depend on what else is in the batch, nor on the feature's kind.

Values are mixed eight channels at a time. Where channels come last they lie like that; the planes of a map are
transposed on the way in and out (within the registers; see vectors.py), so that rows of any length run at full speed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fmshards.kernels import jit

if jit.missing() is None:
    from fmshards.augment.features.vectors import copy8, mix8, mix_fill8, reverse8, transpose8

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Tables = tuple[Ints, Ints, Floats, Floats]

SNAP = 1e-3
"""How near to a whole cell a position is taken as that cell."""


@jit.inner
def _axis(
    scale: float, shift: float, axis: Doubles, first: Ints, second: Ints, weights: Floats, inside: Floats, cells: Ints
) -> tuple[bool, bool]:
    """The sources of one axis: whether all are whole cells, and whether all are inside.

    axis float64[4]: cells, pixels, stride, offset. first, second int64: the two cells, clamped. weights float32[2, n],
    0 for cells outside. inside float32: the weight inside. cells int64: the one cell where all are whole, else -1.
    """
    n, pixels, stride, offset = np.int64(axis[0]), axis[1], axis[2], axis[3]
    whole, within = True, True
    for i in range(n):
        place = (2 * (i * stride + offset) + 1) / pixels - 1
        at = (((scale * place + shift + 1) * pixels - 1) / 2 - offset) / stride
        if not (at > -2.0):  # far outside, or no number at all
            at = -2.0
        if at > n + 1:
            at = n + 1.0
        near = np.floor(at + 0.5)
        if abs(at - near) <= SNAP:
            at = near
        low = np.floor(at)
        part = np.float32(at - low)
        a = np.int64(low)
        b = a + 1 if part > 0 else a
        a_in, b_in = 0 <= a < n, 0 <= b < n
        first[i] = min(max(a, 0), n - 1)
        second[i] = min(max(b, 0), n - 1)
        weights[0, i] = np.float32(1) - part if a_in else np.float32(0)
        weights[1, i] = part if b_in else np.float32(0)
        inside[i] = np.float32(1) if a_in and b_in else weights[0, i] + weights[1, i]
        cells[i] = a if a_in else -1
        whole = whole and part == 0
        within = within and a_in and b_in
    return whole, within


@jit.inner
def _step(cells: Ints) -> tuple[int, int, int]:
    """Where the columns inside begin and end, and their step: 1, -1, or 0 where they do not lie side by side."""
    begin, end = 0, len(cells)
    while begin < end and cells[begin] < 0:
        begin += 1
    while end > begin and cells[end - 1] < 0:
        end -= 1
    step = 1 if end - begin < 2 else cells[begin + 1] - cells[begin]
    for j in range(begin + 1, end):
        if cells[j] - cells[j - 1] != step or cells[j] < 0:
            return begin, end, 0
    return begin, end, step if abs(step) == 1 else 0


@jit.inner
def _copy(to: Floats, at: int, source: Floats, start: int, n: int) -> None:
    """n values forward. The last eight may overlap those before."""
    if n < 8:
        for i in range(n):
            to[at + i] = source[start + i]
        return
    for i in range(0, n - 7, 8):
        copy8(to, at + i, source, start + i)
    copy8(to, at + n - 8, source, start + n - 8)


@jit.inner
def _copy_planes(to: Floats, source: Floats, fill: Floats, kept: Ints, ys: Ints, xs: Ints) -> None:
    """A sample's channels `kept` at whole cells: ys, xs are the source's rows and columns, -1 outside."""
    h, w = len(ys), len(xs)
    (top, bottom, down), (begin, end, step) = _step(ys), _step(xs)
    if top == bottom or begin == end:
        top = bottom = h
    patched = begin > 0 or end < w
    # Reversed rows are written from their first column on, eight values at a time, over the row's end: that is
    # overwritten by the next rows. Where it would leave the rows inside or the sample, value by value.
    last = (end - begin + 7) // 8 * 8
    for channel in kept:
        at = channel * h * w
        if top > 0:
            _copy(to, at, fill, at, top * w)
        if bottom < h:
            _copy(to, at + bottom * w, fill, at + bottom * w, (h - bottom) * w)
        if top == bottom:
            continue
        if down == 1 and step == 1:  # one run; what it puts outside the columns is painted over
            first = at + ys[top] * w + xs[begin]
            _copy(to, at + top * w + begin, source, first, (bottom - top - 1) * w + end - begin)
        elif step == -1:
            for i in range(top, bottom):
                row, high = at + i * w + begin, at + ys[i] * w + xs[begin]
                if i * w + begin + last <= bottom * w and high - last + 1 >= 0:
                    for j in range(0, last, 8):
                        reverse8(to, row + j, source, high - j - 7)
                else:
                    for j in range(end - begin):
                        to[row + j] = source[high - j]
        else:
            for i in range(top, bottom):
                row, y = at + i * w, at + ys[i] * w
                for j in range(begin, end):
                    to[row + j] = source[y + xs[j]] if ys[i] >= 0 and xs[j] >= 0 else fill[row + j]
        if patched:
            for row in range(at + top * w, at + bottom * w, w):
                for j in range(row, row + begin):
                    to[j] = fill[j]
                for j in range(row + end, row + w):
                    to[j] = fill[j]


@jit.inner
def _copy_cells(to: Floats, source: Floats, start: int, fill: Floats, run: int, ys: Ints, xs: Ints) -> None:
    """A sample's cells of `run` channels side by side, at whole cells, from value `start` on in all three."""
    h, w = len(ys), len(xs)
    for i in range(h):
        for j in range(w):
            at = start + (i * w + j) * run
            if ys[i] >= 0 and xs[j] >= 0:
                _copy(to, at, source, start + (ys[i] * w + xs[j]) * run, run)
            else:
                _copy(to, at, fill, at, run)


@jit.inner
def _mix(to: Floats, at: int, source: Floats, a: int, b: int, wa: float, wb: float, n: int) -> None:
    """to[at + i] = wa * source[a + i] + wb * source[b + i]. The last eight may overlap those before."""
    if n < 8:
        for i in range(n):
            to[at + i] = wa * source[a + i] + wb * source[b + i]
        return
    for i in range(0, n - 7, 8):
        mix8(to, at + i, source, a + i, b + i, wa, wb)
    if n % 8:
        mix8(to, at + n - 8, source, a + n - 8, b + n - 8, wa, wb)


@jit.inner
def _mix_fill(
    to: Floats, at: int, source: Floats, a: int, b: int, wa: float, wb: float, fill: Floats, f: int, wf: float, n: int
) -> None:
    """to[at + i] = (wa * source[a + i] + wb * source[b + i]) + wf * fill[f + i]."""
    if n < 8:
        for i in range(n):
            to[at + i] = (wa * source[a + i] + wb * source[b + i]) + wf * fill[f + i]
        return
    for i in range(0, n - 7, 8):
        mix_fill8(to, at + i, source, a + i, b + i, wa, wb, fill, f + i, wf)
    if n % 8:
        mix_fill8(to, at + n - 8, source, a + n - 8, b + n - 8, wa, wb, fill, f + n - 8, wf)


@jit.inner
def _mix_cells(
    to: Floats,
    source: Floats,
    start: int,
    line: Floats,
    fill: Floats,
    blank: int,
    run: int,
    tables: Tables,
    h: int,
    w: int,
) -> None:
    """Cells of `run` channels side by side, from value `start` on in to and source, `blank` in fill.

    tables: first, second, weights, inside as `_axis` gives them, of the rows, then of the columns.

    line float32[w * run] is room for one row.
    """
    first, second, weights, inside = tables
    for i in range(h):
        above, below = start + first[i] * w * run, start + second[i] * w * run
        _mix(line, 0, source, above, below, weights[0, i], weights[1, i], w * run)
        for j in range(w):
            a, b, wa, wb = first[h + j] * run, second[h + j] * run, weights[0, h + j], weights[1, h + j]
            cell = (i * w + j) * run
            outside = np.float32(1) - inside[i] * inside[h + j]
            if outside > 0:
                _mix_fill(to, start + cell, line, a, b, wa, wb, fill, blank + cell, outside, run)
            else:
                _mix(to, start + cell, line, a, b, wa, wb, run)


@jit.inner
def _mix_eights(
    to: Floats, source: Floats, line: Floats, fill: Floats, blank: int, tables: Tables, h: int, w: int
) -> None:
    """`_mix_cells` of eight channels: faster without the loops for any number of them."""
    first, second, weights, inside = tables
    for i in range(h):
        above, below, wa, wb = 8 * first[i] * w, 8 * second[i] * w, weights[0, i], weights[1, i]
        for k in range(0, 8 * w, 8):
            mix8(line, k, source, above + k, below + k, wa, wb)
        for j in range(w):
            a, b, cell = 8 * first[h + j], 8 * second[h + j], 8 * (i * w + j)
            outside = np.float32(1) - inside[i] * inside[h + j]
            if outside > 0:
                va, vb = weights[0, h + j], weights[1, h + j]
                mix_fill8(to, cell, line, a, b, va, vb, fill, blank + cell, outside)
            else:
                mix8(to, cell, line, a, b, weights[0, h + j], weights[1, h + j])


@jit.inner
def _turn(to: Floats, at: int, source: Floats, rows: Ints, lanes: Ints, n: int) -> None:
    """n cells of the eight planes at source[rows[l]] as cells of eight channels at to[at]; lanes: 0, 8, ..., 56."""
    if n < 8:
        for k in range(n):
            for i in range(8):
                to[at + 8 * k + i] = source[rows[i] + k]
        return
    for k in range(0, n - 7, 8):
        transpose8(to, lanes, at + 8 * k, source, rows, k)
    transpose8(to, lanes, at + 8 * (n - 8), source, rows, n - 8)


@jit.inner
def _turn_back(to: Floats, rows: Ints, source: Floats, lanes: Ints, n: int) -> None:
    """The inverse of `_turn`: source [n, 8] to the eight planes at to[rows[l]]."""
    if n < 8:
        for k in range(n):
            for i in range(8):
                to[rows[i] + k] = source[8 * k + i]
        return
    for k in range(0, n - 7, 8):
        transpose8(to, rows, k, source, lanes, 8 * k)
    transpose8(to, rows, n - 8, source, lanes, 8 * (n - 8))


@jit.kernel("void(f4[:,::1], f8[:,:,::1], f8[:,::1], f4[::1], i8[::1], f4[:,::1], i8[::1], f4[:,::1])")
def move_planes(
    x: Floats, phi: Doubles, axes: Doubles, fill: Floats, kept: Ints, view: Floats, stored: Ints, out: Floats
) -> None:
    """Maps: x, out [B, C*h*w]; fill [C*h*w]; view [B, len(stored)*h*w]. `kept` channels move, `stored` are put in."""
    h, w = np.int64(axes[0, 0]), np.int64(axes[1, 0])
    cells, groups = h * w, (len(kept) + 7) // 8
    # Tables of the rows, then of the columns.
    first, second, where = np.empty(h + w, np.int64), np.empty(h + w, np.int64), np.empty(h + w, np.int64)
    weights, inside = np.empty((2, h + w), np.float32), np.empty(h + w, np.float32)
    tables = (first, second, weights, inside)
    line, source, target = np.empty(8 * w, np.float32), np.empty(8 * cells, np.float32), np.empty(8 * cells, np.float32)
    lanes = 8 * np.arange(8)
    rows = np.empty((groups, 8), np.int64)
    for g in range(groups):
        for i in range(8):  # a last group of fewer than eight takes its last channel again
            rows[g, i] = kept[min(8 * g + i, len(kept) - 1)] * cells
    turned = np.empty(groups * 8 * cells, np.float32)  # the fill, once it is needed
    ready = False
    for s in range(len(x)):
        own, to, p = x[s], out[s], phi[s]
        y_whole, y_in = _axis(p[1, 1], p[1, 2], axes[0], first[:h], second[:h], weights[:, :h], inside[:h], where[:h])
        x_whole, x_in = _axis(p[0, 0], p[0, 2], axes[1], first[h:], second[h:], weights[:, h:], inside[h:], where[h:])
        for i in range(len(stored)):
            _copy(to, stored[i] * cells, view[s], i * cells, cells)
        if y_whole and x_whole:
            _copy_planes(to, own, fill, kept, where[:h], where[h:])
            continue
        if not ready and not (y_in and x_in):
            for g in range(groups):
                _turn(turned, g * 8 * cells, fill, rows[g], lanes, cells)
            ready = True
        for g in range(groups):
            _turn(source, 0, own, rows[g], lanes, cells)
            _mix_eights(target, source, line, turned, g * 8 * cells, tables, h, w)
            _turn_back(to, rows[g], target, lanes, cells)


@jit.kernel("void(f4[:,::1], f8[:,:,::1], f8[:,::1], f4[::1], i8, f4[:,::1], i8[::1], f4[:,::1])")
def move_cells(
    x: Floats, phi: Doubles, axes: Doubles, fill: Floats, run: int, view: Floats, stored: Ints, out: Floats
) -> None:
    """Channels last: x, out [B, T*run], fill [T*run], view [B, T*len(stored)]; the last h*w of T tokens move."""
    h, w = np.int64(axes[0, 0]), np.int64(axes[1, 0])
    start, some = x.shape[1] - h * w * run, len(stored)
    first, second, where = np.empty(h + w, np.int64), np.empty(h + w, np.int64), np.empty(h + w, np.int64)
    weights, inside = np.empty((2, h + w), np.float32), np.empty(h + w, np.float32)
    tables = (first, second, weights, inside)
    line = np.empty(w * run, np.float32)
    for s in range(len(x)):
        own, to, p = x[s], out[s], phi[s]
        y_whole, _ = _axis(p[1, 1], p[1, 2], axes[0], first[:h], second[:h], weights[:, :h], inside[:h], where[:h])
        x_whole, _ = _axis(p[0, 0], p[0, 2], axes[1], first[h:], second[h:], weights[:, h:], inside[h:], where[h:])
        _copy(to, 0, own, 0, start)
        if y_whole and x_whole:
            _copy_cells(to, own, start, fill, run, where[:h], where[h:])
        else:
            _mix_cells(to, own, start, line, fill, start, run, tables, h, w)
        for t in range(x.shape[1] // run if some else 0):
            for i in range(some):
                to[t * run + stored[i]] = view[s, t * some + i]
