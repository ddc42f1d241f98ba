"""What Triton makes of the kernels for an sm_90 device, which need not be there. Run by test_triton.py."""

from __future__ import annotations

import pytest
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from fmshards.codec.gpu import int_kernel, zfp_kernel

ZFP = {"rows": "*u32", "out": "*u64", "blocks": "*i32", "places": "*i32"}
INT = {"rows": "*u8", "out": "*bf16", "scale": "*fp32", "offset": "*fp32"}


def compiled(kernel, pointers, warps, **constants) -> str:
    """The PTX of a kernel; arguments that are neither pointers nor constants are int32."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    options = {"num_warps": warps, "enable_fp_fusion": False}
    return compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


@pytest.mark.parametrize("itemsize", [2, 4])
def test_zfp_rounds_as_the_cpu_and_keeps_its_64_values_in_registers(itemsize):
    dtype = tl.float32 if itemsize == 4 else tl.bfloat16
    kernel = zfp_kernel._kernel(8 // itemsize, 1, itemsize)
    ptx = compiled(kernel, ZFP, 1, BITS=256, WORDS=8, WORD=4, DTYPE=dtype, LANES=32)
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
