"""The one pass of float32 features on a CPU: what the torch path gives, and no access outside its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmshards.augment import FLIP, LayerMove, compose, crop_box, move, replace, translate
from fmshards.augment.features import on_cpu
from fmshards.codec import FeatureSpec
from fmshards.errors import InputError
from fmshards.kernels import jit
from fmshards.shards import Grid

pytestmark = pytest.mark.skipif(jit.missing() is not None, reason="needs numba")

NO_FLIPS = np.zeros(6, bool)


def specs(c: int, h: int, w: int) -> list[FeatureSpec]:
    return [
        FeatureSpec("map", (c, h, w)),
        FeatureSpec("map_last", (h, w, c)),
        FeatureSpec("tokens", (2 + h * w, c), grid=(h, w), class_tokens=2),
    ]


def draw(spec: FeatureSpec, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *spec.shape, generator=torch.Generator().manual_seed(seed))


def by_torch(*arguments, **named) -> torch.Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_cpu, "fits", lambda x: False)
        return move(*arguments, **named)


def thetas(h: int, w: int, seed: int) -> np.ndarray:
    """Copies and others: flips, whole shifts, shifts, boxes smaller and larger than the image."""
    rng = np.random.default_rng(seed)
    size = (4 * h, 4 * w)
    a, b = (int(v) for v in rng.integers(-2, 3, 2))
    box = crop_box(rng.uniform(-h, 2 * h), rng.uniform(-w, 2 * w), rng.uniform(1, 6 * h), rng.uniform(1, 6 * w), size)
    shift = translate(rng.uniform(-5, 5), rng.uniform(-5, 5), size)
    whole = translate(4 * a, 4 * b, size)
    made = [FLIP, whole, compose(FLIP, whole), compose(FLIP, shift), box, compose(np.diag([1.0, -1, 1])[:2], shift)]
    return np.stack(made).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 20), st.integers(1, 18), st.integers(1, 18), st.integers(0, 2**16), st.sampled_from([0, 1, 2]),
    st.booleans(), st.booleans(), st.data(),
)  # fmt: skip
def test_any_shape_is_moved_as_the_torch_path_moves_it(c, h, w, seed, kind, with_view, centred, data) -> None:
    spec, size = specs(c, h, w)[kind], (4 * h, 4 * w)
    x, fill, theta = draw(spec, 6, seed), draw(spec, 1, seed + 1)[0], thetas(h, w, seed)
    grid = Grid((4.0, 4.0), (1.5, 1.5)) if centred else Grid((4.2, 3.9), (0.3, -1.0))
    view, sensitive = None, []
    if with_view:
        sensitive = sorted(data.draw(st.sets(st.integers(0, c - 1), min_size=1)))
        view = draw(spec.select(len(sensitive)), 6, seed + 2)
    before = x.clone()
    got = move(x, theta, NO_FLIPS, LayerMove(spec, size, grid, fill, tuple(sensitive)), view)
    wanted = by_torch(x, theta, NO_FLIPS, LayerMove(spec, size, grid, fill))
    if view is not None:
        wanted = replace(wanted, view, sensitive, spec)
    assert torch.allclose(got, wanted, atol=4e-6)
    if centred:
        assert torch.equal(got[:3], wanted[:3])
    assert torch.equal(x, before)
    assert got.is_contiguous()


def test_copies_keep_every_bit() -> None:
    """Values that no sum leaves alone: infinities, NaN, minus zero."""
    spec, size = FeatureSpec("map", (3, 8, 8)), (32, 32)
    x, fill = draw(spec, 1), draw(spec, 1, 1)[0]
    x[0, :, 3, 2:6] = torch.tensor([float("inf"), float("nan"), -0.0, float("-inf")])
    moved = move(
        x,
        compose(FLIP, translate(4, -4, size))[None].astype(np.float32),
        NO_FLIPS[:1],
        LayerMove(spec, size, None, fill),
    )
    wanted = fill[None].clone()
    wanted[:, :, 1:, :-1] = x.flip(-1)[:, :, :-1, 1:]
    assert np.array_equal(moved.numpy().view(np.uint32), wanted.numpy().view(np.uint32))


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = FeatureSpec("map", (9, 7, 7))
    x, theta = draw(spec, 6), thetas(7, 7, 3)
    one = move(x, theta, NO_FLIPS, LayerMove(spec, (28, 28)))
    monkeypatch.setattr(on_cpu, "_PART_BYTES", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert torch.equal(move(x, theta, NO_FLIPS, LayerMove(spec, (28, 28))), one)


def test_a_rotated_sample_leaves_the_others_as_they_are() -> None:
    spec, size = FeatureSpec("map", (5, 8, 8)), (32, 32)
    x, theta = draw(spec, 6), thetas(8, 8, 5)
    view = draw(spec.select(2), 6, 7)
    plain = move(x, theta, NO_FLIPS, LayerMove(spec, size, sensitive=(1, 4)), view)
    theta[2] = [[0.8, 0.6, 0.1], [-0.6, 0.8, 0]]
    mixed = move(x, theta, NO_FLIPS, LayerMove(spec, size, sensitive=(1, 4)), view)
    keep = [0, 1, 3, 4, 5]
    assert torch.equal(mixed[keep], plain[keep])
    alone = by_torch(x[2:3], theta[2:3], NO_FLIPS[:1], LayerMove(spec, size))
    assert torch.equal(mixed[2:3], replace(alone, view[2:3], [1, 4], spec))


def test_a_view_of_other_channels_is_refused() -> None:
    spec = FeatureSpec("map", (5, 8, 8))
    layer = LayerMove(spec, (32, 32), sensitive=(1,))
    with pytest.raises(InputError, match="1 channels"):
        move(draw(spec, 6), thetas(8, 8, 0), NO_FLIPS, layer, draw(spec.select(2), 6))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_positions_that_are_no_places_are_outside(bad: float) -> None:
    spec = FeatureSpec("map", (5, 8, 8))
    theta = np.tile(np.eye(2, 3, dtype=np.float32), (6, 1, 1))
    theta[:, 0, 2] = bad
    fill = draw(spec, 1, 1)[0]
    assert torch.equal(
        move(draw(spec, 6), theta, NO_FLIPS, LayerMove(spec, (32, 32), None, fill)), fill.expand(6, -1, -1, -1)
    )


def test_nothing_outside_the_arrays_is_touched() -> None:
    """The kernels as plain Python, their vectors as slices that are looked at."""
    root = Path(__file__).resolve().parents[3]
    code = "from tests.augment.features import checked_kernels; checked_kernels.main()"
    env = dict(os.environ, NUMBA_DISABLE_JIT="1", PYTHONPATH=str(root))
    subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=root, timeout=300)
