"""Calibration against networks of which everything is known."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fmshards.augment import Mirror, Recipe, parse_recipe
from fmshards.calibration import calibrate, default_calibration, parse_sensitive
from fmshards.codec import FeatureSpec
from fmshards.errors import InputError, ModelError
from fmshards.model import Preprocess
from fmshards.shards import Grid

SPEC = FeatureSpec("map", (6, 32, 32))
BOTH = parse_recipe("flip+crop(pad=4, step=1)")
FLIP, CROP = parse_recipe("flip"), parse_recipe("crop(pad=4, step=1)")
STORED, NONE = Mirror("stored"), Mirror("none")


def odd(x: torch.Tensor) -> torch.Tensor:
    """[B, 1, H, W]: the horizontal slope, which a flip turns round; cyclic, so that borders are like the rest."""
    return torch.roll(x[:, :1], -1, 3) - torch.roll(x[:, :1], 1, 3)


def followers(x: torch.Tensor) -> torch.Tensor:
    """[B, 4, H, W]: functions of one pixel's colour, which follow any flip and shift."""
    return torch.cat([x, (x[:, :1] * x[:, 1:2]).tanh()], 1)


def mostly_equivariant(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Channel 2 is the slope, channel 5 is always zero; the others follow."""
    f = followers(x)
    return {"cut": torch.cat([f[:, :2], odd(x), f[:, 2:], torch.zeros_like(f[:, :1])], 1)}


def run(prefix, images, preprocess, recipe, mirror, views=1, sensitive=0.1, specs=None, **more):
    chosen = parse_sensitive(sensitive) if sensitive is not None else None
    return calibrate(prefix, images, preprocess, recipe, mirror, views, chosen, specs or {"cut": SPEC}, **more)


def test_what_follows_is_alike_and_what_does_not_is_sensitive(images, preprocess):
    found = run(mostly_equivariant, images, preprocess, FLIP, NONE)["cut"]
    follow = [0, 1, 3, 4, 5]
    assert [found.similarity.cosine[c] for c in follow] == pytest.approx([1] * 5, abs=1e-6)
    assert [found.similarity.error[c] for c in follow] == pytest.approx([0] * 5, abs=1e-6)
    # Half of the images are flipped, where the slope is the wrong way round: error 4 there, 0 elsewhere.
    assert found.similarity.cosine[2] < 0.7
    assert 0.5 < found.similarity.error[2] < 3.5
    assert found.sensitive == (2,)


@pytest.mark.parametrize("mirror", [STORED, NONE])
def test_shifts_are_followed_to_the_border(images, preprocess, mirror):
    """Black comes in from outside: with the blank image's feature as fill nothing is lost."""

    def prefix(x):
        return {"cut": followers(x)}

    found = run(prefix, images, preprocess, BOTH, mirror, specs={"cut": FeatureSpec("map", (4, 32, 32))})["cut"]
    assert found.similarity.cosine == pytest.approx([1] * 4, abs=1e-6)
    assert found.similarity.error == pytest.approx([0] * 4, abs=1e-9)


def test_a_stored_mirror_leaves_nothing_of_a_flip(images, preprocess):
    found = run(mostly_equivariant, images, preprocess, FLIP, STORED)["cut"]
    assert found.similarity.cosine == (1.0,) * 6
    assert found.similarity.error == (0.0,) * 6
    assert found.mirror_map is None
    assert found.mirror_error is None


def test_a_mapped_mirror_is_fitted_and_is_then_the_reference(images, preprocess):
    found = run(mostly_equivariant, images, preprocess, FLIP, Mirror("mapped", 1))["cut"]
    assert found.mirror_error < -60
    turned = torch.eye(6)
    turned[2, 2] = -1
    assert torch.allclose(found.mirror_map.weight[:5, :, 0, 0], turned[:5], atol=0.01)
    assert found.similarity.error == pytest.approx([0] * 6, abs=1e-6)
    assert not found.mirror_map.relu


def test_the_error_of_a_mapped_mirror_is_that_of_images_left_out(images, preprocess):
    """A feature that knows the flip from nothing but noise cannot be mapped, whatever is fitted."""
    generator = torch.Generator().manual_seed(0)
    noise = {}

    def prefix(x):
        rows = [noise.setdefault(r.numpy().tobytes(), torch.randn(6, 4, 4, generator=generator)) for r in x]
        return {"cut": torch.stack(rows)}

    found = run(prefix, images, preprocess, FLIP, Mirror("mapped", 1), specs={"cut": FeatureSpec("map", (6, 4, 4))})[
        "cut"
    ]
    assert found.mirror_error > -1


def test_fill_is_the_feature_of_a_blank_image(images, preprocess):
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 6, 3, 2, 1).requires_grad_(False)
    spec = FeatureSpec("map", (6, 16, 16))
    found = run(lambda x: {"cut": net(x)}, images, preprocess, CROP, NONE, 0, None, {"cut": spec})["cut"]
    blank = preprocess.base(Image.new("RGB", (32, 32)))[None]
    assert torch.equal(found.fill, net(blank)[0])
    assert found.fill.std((1, 2)).min() > 0  # its border differs from its middle, so one value a channel would not do
    assert found.grid == Grid((2.0, 2.0), (0.0, 0.0))
    assert found.sensitive == ()


def test_a_relu_is_noticed(images, preprocess):
    specs = {"a": SPEC, "b": SPEC}

    def prefix(x):
        f = mostly_equivariant(x)["cut"]
        return {"a": F.relu(f), "b": f}

    for recipe in (BOTH, parse_recipe(None)):
        found = run(prefix, images, preprocess, recipe, NONE, 0, None, specs)
        assert found["a"].nonnegative
        assert not found["b"].nonnegative


@pytest.mark.parametrize("recipe", [parse_recipe(None), FLIP])
def test_where_cells_lie_and_what_comes_in_is_measured_whatever_the_recipe(images, preprocess, recipe):
    """Training may have another one."""
    found, other = (run(mostly_equivariant, images, preprocess, r, STORED, 0, None)["cut"] for r in (recipe, BOTH))
    assert found.grid == other.grid == Grid((1.0, 1.0), (0.0, 0.0))
    assert torch.equal(found.fill, other.fill)
    assert (found.similarity is None) == (not recipe)
    assert (found.sensitive, found.mirror) == ((), None)


def test_an_open_crop_takes_the_step_that_the_grids_give_it(images, preprocess):
    open_, settled = parse_recipe("crop(pad=8)"), parse_recipe("crop(pad=8, step=4)")
    found, other = (run(several, images, preprocess, r, NONE, 2, 0.34, SEVERAL) for r in (open_, settled))
    for name in SEVERAL:
        assert found[name].similarity == other[name].similarity
    with pytest.raises(InputError, match=r"crop\(pad=4\)"):
        run(several, images, preprocess, parse_recipe("crop(pad=3)"), NONE, 2, 0.34, SEVERAL)


def several(x: torch.Tensor) -> dict[str, torch.Tensor]:
    f = F.avg_pool2d(mostly_equivariant(x)["cut"], 4)
    tokens = torch.cat([f.mean((2, 3))[:, None], f.flatten(2).transpose(1, 2)], 1)
    return {"map": f, "last": f.permute(0, 2, 3, 1), "tokens": tokens, "vector": f.mean((2, 3))}


SEVERAL = {
    "map": FeatureSpec("map", (6, 8, 8)),
    "last": FeatureSpec("map_last", (8, 8, 6)),
    "tokens": FeatureSpec("tokens", (65, 6), (8, 8), 1),
    "vector": FeatureSpec("vector", (6,)),
}


@pytest.mark.parametrize("mirror", [STORED, Mirror("mapped", 3), NONE])
def test_all_kinds_together_as_each_alone_and_as_before(images, preprocess, mirror):
    together = run(several, images, preprocess, BOTH, mirror, 2, 0.34, SEVERAL)
    again = run(several, images, preprocess, BOTH, mirror, 2, 0.34, SEVERAL)
    for name, spec in SEVERAL.items():
        alone = run(several, images, preprocess, BOTH, mirror, 2, 0.34, {name: spec})[name]
        for other in (again[name], alone):
            assert other.similarity == together[name].similarity
            assert (other.sensitive, other.grid, other.mirror_error) == (
                together[name].sensitive,
                together[name].grid,
                together[name].mirror_error,
            )
            assert (other.fill is None) == (spec.spatial is None)
    assert together["last"].sensitive == together["map"].sensitive
    assert together["last"].similarity.cosine == pytest.approx(together["map"].similarity.cosine, abs=1e-6)
    assert together["map"].grid == Grid((4.0, 4.0), (1.5, 1.5))


def test_what_has_no_places_takes_whole_views(images, preprocess):
    found = run(several, images, preprocess, BOTH, STORED, 2, 0.34, SEVERAL)
    assert found["vector"].sensitive == tuple(range(6))
    assert len(found["tokens"].sensitive) == 3
    assert found["vector"].grid is None
    # A flip alone is the mirror's, so a part of the channels will do.
    assert len(run(several, images, preprocess, FLIP, STORED, 2, 0.34, SEVERAL)["vector"].sensitive) == 3


@pytest.mark.parametrize(("recipe", "mirror"), [(CROP, STORED), (FLIP, NONE)])
def test_what_has_no_places_is_refused_without_views(images, preprocess, recipe, mirror):
    with pytest.raises(InputError, match=r"vector has no places.*views=V"):
        run(several, images, preprocess, recipe, mirror, 0, None, SEVERAL)


def test_a_transform_of_ones_own_takes_whole_views(images, preprocess):
    recipe = parse_recipe(lambda image: image)
    found = run(mostly_equivariant, images, preprocess, recipe, STORED, 2, 1.0)["cut"]
    assert found.sensitive == tuple(range(6))
    assert found.similarity is None
    with pytest.raises(InputError, match=r"sensitive=1\.0"):
        run(mostly_equivariant, images, preprocess, recipe, STORED, 2, 0.5)


def test_bad_samples_are_refused(images, preprocess):
    with pytest.raises(InputError, match="empty"):
        run(mostly_equivariant, [], preprocess, BOTH, STORED)
    with pytest.raises(InputError, match="views=2 needs sensitive"):
        run(mostly_equivariant, images, preprocess, BOTH, STORED, 2, None)
    with pytest.raises(InputError, match=r"several sizes.*\(32, 40\).*center_crop"):
        run(mostly_equivariant, [*images, Image.new("RGB", (40, 32))], preprocess, BOTH, STORED)


@pytest.mark.parametrize(
    ("recipe", "mirror", "passes"),
    [(BOTH, NONE, 2), (BOTH, STORED, 2.5), (BOTH, Mirror("mapped", 1), 4), (FLIP, Mirror("mapped", 1), 4)],
)
def test_the_prefix_runs_for_all_layers_at_once_and_a_known_number_of_times(
    images: list[Image.Image], preprocess: Preprocess, recipe: Recipe, mirror: Mirror, passes: float
):
    seen = []

    def prefix(x):
        seen.append(len(x))
        return several(x)

    told = []
    run(prefix, images, preprocess, recipe, mirror, 1, 0.5, SEVERAL, batch=7, stage=lambda *done: told.append(done))
    grid = 33 * 4  # four images of so small a sample
    assert sum(seen) == 1 + grid + passes * len(images)
    assert [name for name, *_ in told] == ["calibration"] * len(seen)
    assert [done for _, done, _ in told] == np.cumsum(seen).tolist()
    assert {total for *_, total in told} == {sum(seen)}


def test_what_will_not_be_used_is_not_measured(images, preprocess):
    """A flip whose mirror is stored leaves nothing to follow: no second look at any image."""
    seen = []

    def prefix(x):
        seen.append(len(x))
        return mostly_equivariant(x)

    found = run(prefix, images, preprocess, FLIP, STORED, 0, None)["cut"]
    assert sum(seen) == 1 + 33 * 4 + len(images)
    assert found.grid is not None
    assert found.fill is not None
    assert (found.similarity.cosine, found.similarity.error) == ((1.0,) * 6, (0.0,) * 6)


def test_without_a_recipe_the_grid_costs_little_and_is_there(images, preprocess):
    seen = []

    def prefix(x):
        seen.append(len(x))
        return mostly_equivariant(x)

    found = run(prefix, images, preprocess, parse_recipe("none"), NONE, 0, None)["cut"]
    assert sum(seen) == 1 + 4 + 32 + len(images)
    again = run(mostly_equivariant, images, preprocess, BOTH, NONE, 0, None)["cut"]
    assert (found.grid, found.fill.tolist()) == (again.grid, again.fill.tolist())


def test_a_recipe_that_cannot_be_drawn_is_refused(images, preprocess):
    with pytest.raises(InputError, match="mirror=none"):
        run(mostly_equivariant, images, preprocess, parse_recipe("flip(p=0.3)"), STORED, 0, None)
    with pytest.raises(InputError, match="out of sight"):
        run(mostly_equivariant, images, preprocess, parse_recipe("crop(pad=32)"), NONE, 0, None)


def test_each_image_is_decoded_once_a_pass(images, preprocess):
    """Photos are not kept once they are decoded, and decoding one is most of its cost."""
    asked = []

    class Counting(list):
        def __getitem__(self, i):
            asked.append(i)
            return super().__getitem__(i)

    run(mostly_equivariant, Counting(images), preprocess, CROP, NONE, 0, None)
    grid, first = 4, 2
    assert len(asked) == len(images) + grid + first


def test_no_array_that_is_not_finite_is_returned(images, preprocess):
    def logarithm(x):
        flat = (x == x[:, :, :1, :1]).all(3).all(2).all(1).view(-1, 1, 1, 1)
        return {"cut": torch.where(flat, torch.inf, mostly_equivariant(x)["cut"])}

    with pytest.raises(ModelError, match=r"cut: the feature of a blank image.*not finite"):
        run(logarithm, images, preprocess, FLIP, Mirror("none"))
    found = run(logarithm, images, preprocess, parse_recipe(None), STORED, 0, None)["cut"]
    assert (found.grid, found.fill) == (None, None)

    def bordered(x):
        line = (x[:, :, :, :1] == x[:, :, :1, :1]).all(2).all(1).view(-1, 1, 1, 1)
        return {"cut": torch.where(line & ~(x == x[:, :, :1, :1]).all(), torch.nan, mostly_equivariant(x)["cut"])}

    with pytest.raises(ModelError, match=r"cut: features of moved images.*not finite"):
        run(bordered, images, preprocess, CROP, NONE, 0, None)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_features_of_any_size_are_compared(images, preprocess, scale):
    def prefix(x):
        return {"cut": mostly_equivariant(x)["cut"] * scale}

    plain = run(mostly_equivariant, images, preprocess, FLIP, NONE)["cut"].similarity
    scaled = run(prefix, images, preprocess, FLIP, NONE)["cut"].similarity
    assert scaled.cosine == pytest.approx(plain.cosine, abs=1e-5)
    assert scaled.error == pytest.approx(plain.error, abs=1e-5)


def test_features_are_not_kept(preprocess, monkeypatch):
    """Beside the fifth by which a mirror map is judged and one to compare with, of a bounded number of samples."""
    module = importlib.import_module("fmshards.calibration.mirrors")
    samples = []

    class Kept(module.MirrorSample):
        def __init__(self, *given):
            super().__init__(*given)
            samples.append(self)

    monkeypatch.setattr(module, "FIT_BYTES", 100_000)
    monkeypatch.setattr(module, "MirrorSample", Kept)
    generator = np.random.default_rng(0)
    many = [Image.fromarray(a) for a in generator.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)]
    run(mostly_equivariant, many, preprocess, FLIP, Mirror("mapped", 1), batch=5)
    assert [s._seen for s in samples] == [16]
    assert sum(len(base) for base, _ in samples[0]._kept) == 3
    assert sum(len(base) for base, _ in samples[0]._own) == 3


def test_layers_whose_equations_take_much_memory_are_fitted_one_after_another(images, preprocess, monkeypatch):
    module = importlib.import_module("fmshards.calibration.mirrors")
    together = run(several, images, preprocess, FLIP, Mirror("mapped", 3), 0, None, SEVERAL)
    monkeypatch.setattr(module, "MATRIX_BYTES", 1)
    apart = run(several, images, preprocess, FLIP, Mirror("mapped", 3), 0, None, SEVERAL)
    for name in SEVERAL:
        assert apart[name].mirror_error == together[name].mirror_error
        assert torch.equal(apart[name].mirror_map.weight, together[name].mirror_map.weight)


@pytest.mark.parametrize(
    ("samples", "wanted"), [(None, 512), (1, 16), (100, 16), (600, 75), (4096, 512), (1_281_167, 512)]
)
def test_the_default_grows_with_the_set(samples, wanted):
    assert default_calibration(samples) == wanted
