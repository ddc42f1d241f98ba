"""FeatureDecoder by the kernels, against the CPU's ways. Run by tests/kernels/test_triton.py."""

from __future__ import annotations

import pytest
import torch

from fmshards.kernels import cuda
from fmshards.stream import FeatureDecoder, loader
from tests.sets import build_set
from tests.triton_here import DEVICE

MOVED = "flip+crop(pad=4, step=1)"
SETS = {
    "flipped": {"layers": {"layer2": "1", "layer3": "bf16"}, "recipe": MOVED},
    "mapped": {"layers": {"layer2": "1"}, "recipe": MOVED, "mirror": "mapped(kernel=3)"},
    "parted": {"layers": {"layer2": "1"}, "recipe": MOVED, "mirror": "stored(0.4, kernel=1, rate=bf16)"},
    "flipped in part": {"layers": {"layer2": "1"}, "recipe": MOVED, "mirror": "stored(0.4, rest=flip)"},
    "viewed": {"layers": {"layer2": "1"}, "recipe": "flip+crop(pad=8, step=1)", "views": 4},
}


@pytest.fixture(params=SETS)
def url(request, tmp_path) -> str:
    return build_set(tmp_path / request.param, **SETS[request.param]).url


def moved_to(batch: dict, device: torch.device) -> dict:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def batch_of(url: str) -> dict:
    return next(iter(loader(url, decode=False, batch_size=2, seed=3)))


@pytest.fixture
def pair(url, monkeypatch):
    """A batch, and what the CPU makes of it; from then on the interpreter's tensors count as a device's."""
    batch = batch_of(url)
    expected = {dtype: FeatureDecoder(url, dtype=dtype)(batch) for dtype in (torch.float32, torch.bfloat16)}
    monkeypatch.setattr(cuda, "usable", lambda device, *_: device.type == DEVICE.type)
    return moved_to(batch, DEVICE), expected


def check(got: dict, expected: dict) -> None:
    for name in ("layer2", "layer3"):
        if name in expected:
            tolerance = 1e-5 if expected[name].dtype == torch.float32 else 2**-7
            assert got[name].dtype == expected[name].dtype
            assert torch.allclose(got[name].cpu(), expected[name], rtol=tolerance, atol=1e-5)


def test_a_device_gives_what_the_cpu_gives(url, pair):
    batch, expected = pair
    for dtype, memory_format in ((torch.float32, torch.contiguous_format), (torch.bfloat16, torch.channels_last)):
        got = FeatureDecoder(url, dtype=dtype, memory_format=memory_format)(batch)
        assert got["layer2"].is_contiguous(memory_format=memory_format)
        check(got, expected[dtype])


@pytest.mark.parametrize("backend", ["aot_eager", *(["inductor"] if DEVICE.type == "cuda" else [])])
def test_compiling_does_not_break_the_graph(url, pair, backend):
    torch.compiler.reset()  # each set is compiled for anew, which torch takes for too many compilations of one thing
    batch, expected = pair
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    decoder = torch.compile(FeatureDecoder(url), backend=backend, fullgraph=True)
    for _ in range(2):
        check(decoder(tensors), expected[torch.float32])


@pytest.mark.skipif(DEVICE.type != "cuda", reason="graphs are the device's")
def test_a_cuda_graph_replays_with_other_rows(url, pair):
    batch, expected = pair
    decoder = FeatureDecoder(url)
    decoder(batch)  # compiles kernels and makes tables
    still = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    graph = torch.cuda.CUDAGraph()
    for value in still.values():
        if isinstance(value, torch.Tensor) and value.dtype == torch.uint8:
            value.zero_()
    with torch.cuda.graph(graph):
        captured = decoder(still)
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            still[name].copy_(value)
    graph.replay()
    check(captured, expected[torch.float32])
