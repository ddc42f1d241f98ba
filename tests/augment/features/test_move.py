from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmshards.augment import FLIP, LayerMove, compose, crop_box, identity_theta, move, phi_of, translate
from fmshards.augment.features import on_torch
from fmshards.codec import FeatureSpec
from fmshards.errors import InputError
from fmshards.shards import Grid
from tests.augment.conftest import slow_move

MAP = FeatureSpec("map", (5, 8, 6))
SIZE = (32, 24)  # stride 4
IDENTITY = identity_theta(1)[0]
CENTRED = Grid((4.0, 4.0), (1.5, 1.5))
CORNER = Grid((4.0, 4.0), (0.0, 0.0))
NONE = np.zeros(4, bool)


def features(spec: FeatureSpec, n: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *spec.shape, generator=torch.Generator().manual_seed(seed))


def same(theta: np.ndarray, n: int = 4) -> np.ndarray:
    return np.tile(np.asarray(theta, np.float32), (n, 1, 1))


def kinds(c: int, h: int, w: int) -> list[FeatureSpec]:
    return [
        FeatureSpec("map", (c, h, w)),
        FeatureSpec("map_last", (h, w, c)),
        FeatureSpec("tokens", (2 + h * w, c), grid=(h, w), class_tokens=2),
        FeatureSpec("tokens", (h * w, c), grid=(h, w)),
    ]


def as_kind(places: torch.Tensor, spec: FeatureSpec, extra: torch.Tensor | None = None) -> torch.Tensor:
    """A map [B, C, h, w] as another kind; `extra` the class tokens."""
    if spec.kind == "map":
        return places
    last = places.permute(0, 2, 3, 1)
    if spec.kind == "map_last":
        return last.contiguous()
    return torch.cat([extra, last.flatten(1, 2)], 1) if extra is not None else last.flatten(1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spec", kinds(5, 8, 6), ids=str)
def test_whole_moves_are_slices_bit_for_bit(spec: FeatureSpec, dtype: torch.dtype) -> None:
    places = features(MAP).to(dtype)
    tokens = features(FeatureSpec("tokens", (2, 5))).to(dtype) if spec.class_tokens else None
    fill_map = torch.full((5, 8, 6), 9.0) + torch.arange(6)
    fill_map = fill_map.to(dtype)
    x = as_kind(places, spec, tokens)
    fill = as_kind(fill_map[None], spec, None if tokens is None else tokens[:1])[0]

    def moved(theta, mirrored=NONE):
        return move(x, same(theta), mirrored, LayerMove(spec, SIZE, CENTRED, fill))

    assert torch.equal(moved(FLIP), as_kind(places.flip(-1), spec, tokens))
    shifted = fill_map.expand(4, -1, -1, -1).clone()
    shifted[:, :, 1:, :-2] = places[:, :, :-1, 2:]  # 8 pixels to the right, one cell up
    assert torch.equal(moved(translate(8, -4, SIZE)), as_kind(shifted, spec, tokens))
    # Flipped, then shifted; with the mirror as the reference it is the shift alone.
    both = compose(FLIP, translate(8, -4, SIZE))
    flipped = fill_map.expand(4, -1, -1, -1).clone()
    flipped[:, :, 1:, :-2] = places.flip(-1)[:, :, :-1, 2:]
    assert torch.equal(moved(both), as_kind(flipped, spec, tokens))
    assert torch.equal(moved(both, ~NONE), as_kind(shifted, spec, tokens))
    far = as_kind(fill_map.expand(4, -1, -1, -1), spec, tokens)
    assert torch.equal(moved(translate(800, 0, SIZE)), far)


def test_exactness_does_not_depend_on_what_else_is_in_the_batch() -> None:
    x = features(MAP)
    theta = np.stack([identity_theta(1)[0], FLIP, translate(4, 8, SIZE), crop_box(1, 2, 10, 11, SIZE)])
    theta = theta.astype(np.float32)
    fill = features(MAP, 1, seed=1)[0]
    out = move(x, theta, NONE, LayerMove(MAP, SIZE, CENTRED, fill))
    assert torch.equal(out[0], x[0])
    assert torch.equal(out[1], x[1].flip(-1))
    assert torch.equal(out[2, :, :-2, :-1], x[2, :, 2:, 1:])
    assert torch.equal(out[2, :, -2:], fill[:, -2:])
    for i in range(4):
        alone = move(x[i : i + 1], theta[i : i + 1], NONE[:1], LayerMove(MAP, SIZE, CENTRED, fill))
        assert torch.equal(alone[0], out[i])


def test_the_grid_decides_what_a_flip_is() -> None:
    """Cells at pixels 0, 2, ...: the mirror of pixel 2i is pixel 31 - 2i, between two cells."""
    spec = FeatureSpec("map", (3, 16, 16))
    x, fill = features(spec), features(spec, 1, seed=2)[0]
    out = move(x, same(FLIP), NONE, LayerMove(spec, (32, 32), Grid((2.0, 2.0), (0.0, 0.0)), fill))
    flipped = x.flip(-1)
    assert torch.allclose(out[..., 1:], (flipped[..., :-1] + flipped[..., 1:]) / 2, atol=1e-6)
    assert torch.allclose(out[..., 0], (fill[..., 0] + flipped[..., 0]) / 2, atol=1e-6)
    registered = move(x, same(FLIP), NONE, LayerMove(spec, (32, 32), Grid((2.0, 2.0), (0.5, 0.5)), fill))
    assert torch.equal(registered, flipped)
    assert torch.equal(move(x, same(FLIP), NONE, LayerMove(spec, (32, 32), None, fill)), flipped)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-1.5, 1.5), min_size=6, max_size=6),
    st.booleans(),
    st.booleans(),
    st.sampled_from([CENTRED, CORNER, Grid((4.3, 3.9), (-0.7, 1.1))]),
)
def test_any_affine_map_is_as_defined(values, axis_aligned, mirrored, grid) -> None:
    theta = np.array(values, np.float32).reshape(2, 3)
    if axis_aligned:
        theta[0, 1] = theta[1, 0] = 0
    x, fill = features(MAP, 1), features(MAP, 1, seed=1)[0]
    phi = phi_of(theta, np.array(mirrored))
    wanted = slow_move(x[0].double().numpy(), phi, grid.stride, grid.offset, fill.double().numpy(), SIZE)
    got = move(x, theta[None], np.array([mirrored]), LayerMove(MAP, SIZE, grid, fill))
    assert torch.allclose(got[0].double(), torch.from_numpy(wanted), atol=2e-5)


def test_rotation_by_a_quarter_is_exact() -> None:
    spec = FeatureSpec("map", (3, 8, 8))
    x = features(spec)
    quarter = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])  # out(x, y) = in(y, -x)
    out = move(x, same(quarter), NONE, LayerMove(spec, (32, 32)))
    assert torch.equal(out, torch.rot90(x, -1, (2, 3)))


def test_all_kinds_move_alike() -> None:
    theta = np.stack([crop_box(*v, SIZE) for v in ((0, 0, 20, 20), (3, 4, 12.5, 9), (1, 1, 8, 30), (0, 2, 24, 30))])
    places, fill = features(MAP), features(MAP, 1, seed=3)[0]
    wanted = move(places, theta, NONE, LayerMove(MAP, SIZE, CORNER, fill))
    for spec in kinds(5, 8, 6)[1:]:
        tokens = features(FeatureSpec("tokens", (2, 5))) if spec.class_tokens else None
        some = as_kind(fill[None], spec, None if tokens is None else tokens[:1])[0]
        got = move(as_kind(places, spec, tokens), theta, NONE, LayerMove(spec, SIZE, CORNER, some))
        assert torch.equal(got, as_kind(wanted, spec, tokens))
        assert got.is_contiguous()


def test_no_fill_is_zeros_and_a_large_batch_is_as_a_small_one() -> None:
    spec = FeatureSpec("map", (64, 16, 16))  # 64 KB a sample: several tables
    x = features(spec, 70)
    theta = np.tile(translate(3, -5, (32, 32)), (70, 1, 1))
    theta[::2] = translate(4, -6, (32, 32))
    for some in (theta, theta[::2].repeat(2, axis=0)):  # bilinear; whole cells
        out = move(x, some, np.zeros(70, bool), LayerMove(spec, (32, 32)))
        zeros = move(x, some, np.zeros(70, bool), LayerMove(spec, (32, 32), None, torch.zeros(spec.shape)))
        assert torch.equal(out, zeros)
        for i in (0, 33, 69):
            alone = move(x[i : i + 1], some[i : i + 1], NONE[:1], LayerMove(spec, (32, 32)))
            assert torch.equal(alone[0], out[i])
    assert not out[:, :, :, -2:].any()


def test_tensors_and_arrays_are_taken_alike_and_nothing_is_changed() -> None:
    x = features(MAP)
    before = x.clone()
    theta = same(compose(FLIP, translate(3, 1, SIZE)))
    a = move(x, theta, NONE, LayerMove(MAP, SIZE, CENTRED))
    b = move(x, torch.from_numpy(theta), torch.from_numpy(NONE), LayerMove(MAP, SIZE, CENTRED))
    assert torch.equal(a, b)
    assert torch.equal(x, before)


def test_features_without_places_do_not_move() -> None:
    for spec in (FeatureSpec("vector", (7,)), FeatureSpec("tokens", (4, 7))):
        x = features(spec)
        assert torch.equal(move(x, identity_theta(4), NONE, LayerMove(spec, SIZE)), x)
        assert torch.equal(move(x, same(FLIP), ~NONE, LayerMove(spec, SIZE)), x)  # the mirror's own feature
        for theta in (FLIP, translate(1, 0, SIZE)):
            with pytest.raises(InputError, match="no places"):
                move(x, same(theta), NONE, LayerMove(spec, SIZE))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"\[B, 5, 8, 6\]"):
        move(features(MAP).permute(0, 2, 1, 3), identity_theta(4), NONE, LayerMove(MAP, SIZE))
    with pytest.raises(InputError, match="theta"):
        move(features(MAP), identity_theta(3), NONE, LayerMove(MAP, SIZE))


@pytest.mark.parametrize("spec", kinds(5, 8, 6), ids=str)
def test_the_way_that_looks_at_no_value_gives_the_same(spec: FeatureSpec) -> None:
    """What an accelerator without our kernel runs, here on the CPU."""
    x, fill = features(spec), features(spec, 1, seed=1)[0]
    rotated = np.array([[0.8, 0.3, 0], [-0.3, 0.8, 0.1]])
    thetas = [IDENTITY, FLIP, translate(8, -4, SIZE), crop_box(1, 2, 10, 11, SIZE), rotated]
    mirrored = np.array([False, True, True, False])

    def blind(theta: np.ndarray, mirrored: np.ndarray, layer: LayerMove) -> torch.Tensor:
        return on_torch.move(x, torch.from_numpy(phi_of(theta, mirrored)), layer, look=False)

    for theta in [same(t) for t in thetas] + [np.stack(thetas[1:]).astype(np.float32)]:
        for grid in (CENTRED, CORNER):
            layer = LayerMove(spec, SIZE, grid, fill)
            assert torch.allclose(move(x, theta, mirrored, layer), blind(theta, mirrored, layer), atol=1e-5)
    layer = LayerMove(spec, SIZE, CENTRED, fill)
    for theta in thetas[:3]:
        assert torch.equal(move(x, same(theta), NONE, layer), blind(same(theta), NONE, layer))


@pytest.mark.parametrize("moved", [IDENTITY, FLIP, translate(3, 1, SIZE)], ids=["still", "copied", "mixed"])
def test_the_result_has_the_dtype_and_the_memory_that_are_asked_for(moved: np.ndarray) -> None:
    x, layer = features(MAP), LayerMove(MAP, SIZE, CENTRED)
    plain = move(x, same(moved), NONE, layer)
    other = move(x, same(moved), NONE, layer, dtype=torch.bfloat16, memory_format=torch.channels_last)
    assert (plain.dtype, other.dtype) == (torch.float32, torch.bfloat16)
    assert plain.is_contiguous()
    assert other.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(other, plain.bfloat16())


def test_what_does_not_fit_the_layer_is_refused_when_it_is_described() -> None:
    for channels in ((5,), (-1,)):
        with pytest.raises(InputError, match="0 to 4"):
            LayerMove(MAP, SIZE, sensitive=channels)
    with pytest.raises(InputError, match=r"fill: expected \[5, 8, 6\]"):
        LayerMove(MAP, SIZE, fill=torch.zeros(5, 7, 6))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("spec", kinds(5, 8, 6), ids=str)
def test_a_device_gives_what_the_cpu_gives(spec: FeatureSpec) -> None:
    x, fill = features(spec), features(spec, 1, seed=1)[0]
    thetas = [FLIP, translate(8, -4, SIZE), crop_box(1, 2, 10, 11, SIZE), np.array([[0.8, 0.3, 0], [-0.3, 0.8, 0.1]])]
    for theta in [same(t) for t in thetas] + [np.stack(thetas).astype(np.float32)]:
        here = move(x, theta, NONE, LayerMove(spec, SIZE, CORNER, fill))
        there = move(
            x.cuda(),
            torch.from_numpy(theta).cuda(),
            torch.from_numpy(NONE).cuda(),
            LayerMove(spec, SIZE, CORNER, fill.cuda()),
        )
        assert torch.allclose(here, there.cpu(), atol=1e-5)
    assert torch.equal(
        move(x.cuda(), same(FLIP), NONE, LayerMove(spec, SIZE, CENTRED, fill)).cpu(),
        move(x, same(FLIP), NONE, LayerMove(spec, SIZE, CENTRED, fill)),
    )
