"""The kernels for CUDA devices, bit for bit the CPU's: in Triton's interpreter, and on a device where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.triton_here import run_cases

HERE = Path(__file__).parent
CASES = [HERE / "cases_triton.py", HERE / "cases_triton_dct.py"]
pytest.importorskip("triton")


@pytest.mark.parametrize("cases", CASES, ids=lambda cases: cases.stem)
def test_in_the_interpreter(cases):
    run_cases(cases, "not slow", interpreted=True)


@pytest.mark.slow
def test_more_in_the_interpreter():
    run_cases(CASES[0], "slow", interpreted=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cases", CASES, ids=lambda cases: cases.stem)
def test_on_a_device(cases):
    """The cases that are not slow: a kernel takes tens of seconds to compile, and each size of block is another."""
    run_cases(cases, "not slow", interpreted=False)


@pytest.mark.slow
def test_what_is_compiled_neither_fuses_nor_flushes():
    """Compiling needs no device: the code for a product and a sum rounded one by one, denormals kept."""
    run_cases(HERE / "cases_compiled.py", "slow or not slow", interpreted=False)
