"""A real Slurm of two virtual nodes on this machine, where it is installed: `examples/cluster/slurm.sh`, as it is."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fmshards.extraction import status

from .conftest import ROOT, line, tree

pytestmark = [pytest.mark.slow, pytest.mark.real_slurm]
SCRIPT = ROOT / "tests" / "servers" / "slurm.sh"
JOB = ROOT / "examples" / "cluster" / "slurm.sh"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which its commands find it, and its jobs this package."""
    if not all(map(shutil.which, ("sbatch", "slurmctld", "slurmd", "munged"))):
        pytest.skip("Slurm is not installed (.ci/slurm installs it)")
    folder = tmp_path_factory.mktemp("slurm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(folder / "log", "wb") as log:  # the servers keep it open: a pipe would be waited for
        began = subprocess.run(
            ["bash", str(SCRIPT), "start", str(folder / "slurm"), "2", str(port)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=120,
        )  # fmt: skip
    assert began.returncode == 0, (folder / "log").read_text()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    yield {
        **os.environ,
        "SLURM_CONF": str(folder / "slurm" / "slurm.conf"),
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(["bash", str(SCRIPT), "stop", str(folder / "slurm")], check=True)


def submit(slurm: dict[str, str], eight: list[str], out: Path, *options: str) -> str:
    """The number of a job of the example."""
    own = ["--cpus-per-task", "1", "--output", f"{out}.log", *options]
    said = subprocess.run(
        ["sbatch", "--parsable", *own, str(JOB), *line(eight, out)[1:]],
        env=slurm,
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return said.stdout.strip()


def wait_for(slurm: dict[str, str], job: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while subprocess.run(["squeue", "-h", "-j", job], env=slurm, capture_output=True, text=True).stdout.strip():
        assert time.monotonic() < until, f"job {job} has not ended"
        time.sleep(1)


def test_an_array_makes_a_set(slurm: dict[str, str], eight: list[str], alone: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "set"
    wait_for(slurm, submit(slurm, eight, out, "--array", "3-4"), 120)
    assert tree(out) == alone, Path(f"{out}.log").read_text()
    said = Path(f"{out}.log").read_text()
    assert "part 0/2 (SLURM_ARRAY_TASK_ID and SLURM_PROCID)" in said
    assert "part 1/2 (SLURM_ARRAY_TASK_ID and SLURM_PROCID)" in said


def test_a_job_that_is_told_to_stop_is_queued_again_and_ends(
    slurm: dict[str, str], eight: list[str], alone: dict[str, bytes], tmp_path: Path
) -> None:
    """Slurm waits two minutes before it starts a job again."""
    out = tmp_path / "set"
    job = submit(slurm, eight, out)
    until = time.monotonic() + 60
    while not list(out.glob("layer2/0*.tar")):
        assert time.monotonic() < until, Path(f"{out}.log").read_text()
        time.sleep(0.005)
    subprocess.run(["scancel", "--signal", "USR1", job], env=slurm, check=True)
    wait_for(slurm, job, 240)
    said = Path(f"{out}.log").read_text()
    assert tree(out) == alone, said
    assert "SIGUSR1: no shard is begun any more" in said
    assert "run the same again" in said
    assert status(str(out)).whole
