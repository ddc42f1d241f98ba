"""Compiled kernels on disk: found again, shared by processes that start at once, and never trusted when damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fmshards.kernels import jit

pytestmark = pytest.mark.skipif(jit.missing() is not None, reason="numba is not here")

PROGRAM = """
import json, sys
import numpy as np
from fmshards.kernels import jit

@jit.inner
def twice(x):
    return x + x

@jit.kernel("void(f4[::1], f4[::1])")
def double(x, out):
    for i in range(x.size):
        out[i] = twice(x[i])

x = np.arange(5, dtype=np.float32)
out = np.empty_like(x)
double(x, out)
folder = jit.cache_folder()
print(json.dumps({"out": out.tolist(), "loaded": double.loaded, "folder": folder and str(folder)}))
"""


def start(program: Path, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(program)],
        env={**os.environ, "FMSHARDS_CACHE_DIR": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen[str]) -> dict[str, object]:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error[-2000:]
    found = json.loads(out)
    assert found["out"] == [0, 2, 4, 6, 8]
    return found


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("kernels-*/*.bin"))


def test_a_second_process_loads_what_the_first_compiled(program, tmp_path):
    assert not result(start(program, tmp_path / "cache"))["loaded"]
    assert len(kept(tmp_path / "cache")) == 1
    assert result(start(program, tmp_path / "cache"))["loaded"]


def test_processes_that_start_at_once_share_a_folder(program, tmp_path):
    running = [start(program, tmp_path / "cache") for _ in range(6)]
    for process in running:
        result(process)
    assert len(kept(tmp_path / "cache")) == 1
    assert not list((tmp_path / "cache").glob("**/*.part"))
    assert result(start(program, tmp_path / "cache"))["loaded"]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other"])
def test_a_damaged_file_is_compiled_anew(program, tmp_path, damage):
    result(start(program, tmp_path / "cache"))
    (path,) = kept(tmp_path / "cache")
    data = path.read_bytes()
    half = len(data) // 2
    damaged = {
        "empty": b"",
        "cut": data[:half],
        "flipped": data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :],
        "other": b"not a kernel" * 100,
    }
    path.write_bytes(damaged[damage])
    assert not result(start(program, tmp_path / "cache"))["loaded"]
    assert result(start(program, tmp_path / "cache"))["loaded"]


HELPER = """
from fmshards.kernels import jit

@jit.inner
def twice(x):
    return {}
"""


def test_what_a_kernel_calls_decides_its_file_wherever_it_stands(program, tmp_path):
    """A kernel of another package, whose helper in another module changes."""
    start_, end = PROGRAM.index("@jit.inner"), PROGRAM.index("@jit.kernel")
    other = tmp_path / "other"
    other.mkdir()
    (other / "kernel.py").write_text(f"from .helpers import twice\n{PROGRAM[:start_]}{PROGRAM[end:]}")
    program.write_text("import other.kernel")
    for kernels, text in enumerate(("x + x", "2 * x"), start=1):
        (other / "helpers.py").write_text(HELPER.format(text))
        result(start(program, tmp_path / "cache"))
        assert len(kept(tmp_path / "cache")) == kernels


def test_where_nothing_can_be_written_each_process_compiles(program, tmp_path):
    (tmp_path / "file").write_text("a file where folders should be")
    found = result(start(program, tmp_path / "file", TMPDIR=str(tmp_path / "file")))
    # Python itself falls back from TMPDIR to other temporary folders.
    assert found["folder"] is None or str(tmp_path) not in str(found["folder"])


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users")
def test_a_folder_that_others_can_write_to_is_not_used(program, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    found = result(start(program, folder, TMPDIR=str(tmp_path)))
    assert not str(found["folder"]).startswith(f"{folder}/")


def test_a_kernel_takes_its_one_signature():
    program = PROGRAM + "\ntry:\n    double(x.astype(np.float64), out)\nexcept TypeError:\n    print('refused')\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    # From text there is no source file to compile from in some versions; what counts is that nothing else is taken.
    assert done.stdout.rstrip().endswith("refused"), done.stderr[-2000:]
