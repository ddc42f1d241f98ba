"""What Triton makes of the kernels for an sm_90 device, which need not be there. Run by test_triton.py."""

from __future__ import annotations

import pytest
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from fmshards.augment.features.cuda_kernel import move_put
from fmshards.codec.dct.gpu.levels import dct_levels
from fmshards.codec.dct.gpu.values import dct_grid, dct_runs
from fmshards.codec.integer.gpu import kernel as int_kernel
from fmshards.codec.zfp.gpu import kernel as zfp_kernel

ZFP = {"out": "*u64", "blocks": "*i32", "places": "*i32"}
MOVE = {"x": "*fp32", "theta": "*fp64", "mirrored": "*u8", "fill": "*fp32", "view": "*fp32", "slots": "*i32"}
INT = {"rows": "*u8", "out": "*bf16", "scale": "*fp32", "offset": "*fp32"}
DCT = {
    **dict.fromkeys(("table", "cells", "down", "across"), "*i32"),
    **dict.fromkeys(("levels", "steps", "found", "matrices", "gains", "means", "offsets"), "*fp32"),
    "rows": "*u8",
    "out": "*bf16",
    "least": "fp32",
}


def compiled(kernel, pointers, warps, **constants) -> str:
    """The PTX of a kernel; arguments that are neither pointers nor constants are int32."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    options = {"num_warps": warps, "enable_fp_fusion": False}
    return compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


@pytest.mark.parametrize(("itemsize", "word"), [(2, 4), (4, 4), (2, 1)])
def test_zfp_rounds_as_the_cpu_and_keeps_its_64_values_in_registers(itemsize, word):
    dtype = tl.float32 if itemsize == 4 else tl.bfloat16
    kernel = zfp_kernel._kernel(8 // itemsize, 1, itemsize)
    pointers = ZFP | {"rows": f"*u{8 * word}"}
    ptx = compiled(kernel, pointers, 1, BITS=256, WORDS=32 // word, WORD=word, DTYPE=dtype, LANES=32)
    assert "mul.rn.f32" in ptx
    assert "ftz" not in ptx
    assert ".local" not in ptx


@pytest.mark.parametrize("bits", [3, 4])
def test_int_rounds_the_product_and_the_sum(bits):
    sizes = {"BITS": bits, "VECTOR": False, "STORED": False, "RUN_FIRST": False, "RUNS": 4, "PLACES": 256}
    ptx = compiled(int_kernel.int_decode, INT, 4, DTYPE=tl.bfloat16, **sizes)
    assert "mul.rn.f32" in ptx
    assert "add.rn.f32" in ptx
    assert "fma" not in ptx
    assert "ftz" not in ptx


@pytest.mark.parametrize(
    "ones", [(), ("segments", "blocks", "plain", "channels", "high", "wide", "out_place", "inner")]
)
def test_dct_rounds_every_product_and_sum(ones):
    """Also where numbers are 1, which Triton makes constants of its own accord."""
    last = {"DTYPE": tl.bfloat16, "LANES": 128}
    for kernel, warps, own in (
        (dct_levels, 1, {"LANES": 32}),
        (dct_grid, 4, last | {"CHANNEL_FIRST": False, "TRANSFORMED": True}),
        (dct_grid, 4, last | {"CHANNEL_FIRST": True, "TRANSFORMED": False}),
        (dct_runs, 4, last | {"TURNED": True}),
    ):
        ptx = compiled(kernel, DCT, warps, **own, **{name: 1 for name in ones if name in kernel.arg_names})
        assert kernel is dct_levels or "mul.rn.f32" in ptx
        assert "add.rn.f32" in ptx
        assert "fma" not in ptx
        assert "ftz" not in ptx
        assert ".local" not in ptx


@pytest.mark.parametrize("without", [{}, {"fill": None}, {"view": None, "slots": None}])
@pytest.mark.parametrize("place_last", [True, False])
def test_the_move_is_exact_where_it_is_a_copy(place_last, without):
    pointers = MOVE | {"axes": "*fp64", "out": "*bf16"}
    tile = {"PLACE_LAST": place_last, "CHANNELS": 4, "PLACES": 16, "STEPS": 2, "h": 1}
    ptx = compiled(move_put, pointers, 4, DTYPE=tl.bfloat16, **tile, **without)
    assert "fma.rn.f32" not in ptx
    assert "ftz" not in ptx
