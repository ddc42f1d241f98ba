"""Where cells lie, against convolutions whose arithmetic says it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fmshards.calibration import cell_centres, measure_grid
from fmshards.calibration.grid import grid_passes
from fmshards.codec import FeatureSpec


def conv(kernel: int, stride: int, padding: int = 0, width: int = 3) -> nn.Module:
    return nn.Conv2d(width, 16, kernel, stride, padding)


NETS = {
    "kernel 3": (lambda: conv(3, 1, 1), 1, 0),
    "kernel 3, stride 2": (lambda: conv(3, 2, 1), 2, 0),
    "kernel 2, stride 2": (lambda: conv(2, 2), 2, 0.5),
    "patches of 4": (lambda: conv(4, 4), 4, 1.5),
    "no padding": (lambda: conv(3, 1), 1, 1),
    "strides 1 and 2": (lambda: nn.Sequential(conv(3, 1, 1), nn.ReLU(), conv(3, 2, 1, 16)), 2, 0),
    "strides 2 and 2": (lambda: nn.Sequential(conv(3, 2, 1), nn.ReLU(), conv(3, 2, 1, 16)), 4, 0),
    "patches, then pairs": (lambda: nn.Sequential(conv(4, 4), nn.ReLU(), conv(2, 2, 0, 16)), 8, 3.5),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("each", [1, 3, None])
def test_the_grid_of_convolutions_is_found(batch, name, seed, each):
    torch.manual_seed(seed)
    make, stride, offset = NETS[name]
    net, seen = make().eval(), []

    def prefix(x):
        seen.append(len(x))
        return {"cut": net(x)}

    with torch.no_grad():
        grid = measure_grid(prefix, batch[:8], {"cut": spec_of(net, batch)}, each=each)["cut"]
    assert grid.stride == (stride, stride)
    assert grid.offset == (offset, offset)
    assert sum(seen) == grid_passes((32, 32), 8, each or 8)
    assert max(seen) <= 8


def test_axes_are_measured_apart(batch):
    torch.manual_seed(0)
    net = nn.Conv2d(3, 16, (4, 3), (4, 2), (0, 1))
    with torch.no_grad():
        grid = measure_grid(lambda x: {"cut": net(x)}, batch[:8], {"cut": spec_of(net, batch)})["cut"]
    assert (grid.stride, grid.offset) == ((4.0, 2.0), (1.5, 0.0))


@pytest.mark.parametrize("more", [1, 3])
def test_strides_that_do_not_divide_the_image(batch, more):
    """33 and 35 pixels make 5 cells of 8, not of 6.6 or 7."""
    torch.manual_seed(0)
    net = nn.Sequential(conv(3, 2, 1), nn.ReLU(), conv(3, 2, 1, 16), nn.ReLU(), conv(3, 2, 1, 16))
    odd = torch.nn.functional.pad(batch[:8], (0, more, 0, more), mode="reflect")
    with torch.no_grad():
        grid = measure_grid(lambda x: {"cut": net(x)}, odd, {"cut": spec_of(net, odd)})["cut"]
    assert grid.stride == (8.0, 8.0)
    assert max(map(abs, grid.offset)) <= 1


@pytest.mark.parametrize("kind", ["map_last", "tokens"])
def test_all_kinds_with_places_and_several_layers_at_once(batch, kind):
    torch.manual_seed(0)
    patches, strided = conv(4, 4), conv(3, 2, 1)

    def prefix(x):
        last = patches(x).permute(0, 2, 3, 1)
        if kind == "tokens":
            last = torch.cat([last.mean((1, 2))[:, None], last.flatten(1, 2)], 1)
        return {"a": last, "b": strided(x), "c": x.mean((2, 3))}

    a = FeatureSpec("map_last", (8, 8, 16)) if kind == "map_last" else FeatureSpec("tokens", (65, 16), (8, 8), 1)
    specs = {"a": a, "b": FeatureSpec("map", (16, 16, 16)), "c": FeatureSpec("vector", (3,))}
    with torch.no_grad():
        grids = measure_grid(prefix, batch[:8], specs)
    assert grids.keys() == {"a", "b"}
    assert (grids["a"].stride, grids["a"].offset) == ((4.0, 4.0), (1.5, 1.5))
    assert (grids["b"].stride, grids["b"].offset) == ((2.0, 2.0), (0.0, 0.0))


def test_a_layer_that_does_not_answer_gets_cell_centres(batch):
    grid = measure_grid(
        lambda x: {"cut": x.new_zeros(len(x), 4, 8, 8)}, batch[:4], {"cut": FeatureSpec("map", (4, 8, 8))}
    )
    assert grid["cut"] == cell_centres((32, 32), (8, 8))


def test_one_cell_lies_in_the_middle(batch):
    net = conv(32, 1)
    with torch.no_grad():
        grid = measure_grid(lambda x: {"cut": net(x)}, batch[:4], {"cut": spec_of(net, batch)})["cut"]
    assert (grid.stride, grid.offset) == ((32.0, 32.0), (15.5, 15.5))


def spec_of(net: nn.Module, batch: torch.Tensor) -> FeatureSpec:
    with torch.no_grad():
        return FeatureSpec("map", tuple(net(batch[:1]).shape[1:]))
