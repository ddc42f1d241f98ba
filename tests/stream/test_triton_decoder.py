"""FeatureDecoder by the kernels for CUDA devices: in Triton's interpreter, and on a device where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.triton_here import run_cases

CASES = Path(__file__).with_name("cases_triton_decoder.py")
pytest.importorskip("triton")


def test_in_the_interpreter() -> None:
    run_cases(CASES, "not slow", interpreted=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device() -> None:
    run_cases(CASES, "not slow", interpreted=False)
