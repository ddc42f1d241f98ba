"""Running test files whose tests start Triton kernels: `cases_*.py`, which pytest does not collect by itself.

In a process of its own, as Triton's interpreter is chosen by the environment when triton is first imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
"""Where the cases run: in the interpreter on CPU tensors."""


def run_cases(file: Path, marked: str, interpreted: bool) -> None:
    """Run the tests of a file that `-m marked` picks; their failure is this one's, their output its message."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_INTERPRET": "1"} if interpreted else {}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", marked, str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
