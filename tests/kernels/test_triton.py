"""The kernels that decoded features go through on a CUDA device: in Triton's interpreter, and where there is a device.

Those of the codecs: tests/codec/test_triton.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.triton_here import run_cases

TESTS = Path(__file__).parents[1]
CASES = ["augment/features/cases_cuda_kernel.py", "stream/cases_triton_decoder.py"]
pytest.importorskip("triton")


@pytest.mark.parametrize("cases", CASES)
def test_in_the_interpreter(cases: str) -> None:
    run_cases(TESTS / cases, "not slow", interpreted=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cases", CASES)
def test_on_a_device(cases: str) -> None:
    run_cases(TESTS / cases, "not slow", interpreted=False)
