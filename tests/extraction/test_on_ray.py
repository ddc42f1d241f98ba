"""A Ray cluster of two nodes on this machine, one of which dies in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fmshards.errors import InputError
from fmshards.extraction import extract_on_ray, status

from .conftest import MODEL, ROOT, WEIGHTS, line, tree

OPTIONS: dict[str, Any] = {
    "model": MODEL, "weights": WEIGHTS, "layers": ["layer2:4"], "preprocess": "normalize(imagenet)", "recipe": "flip",
    "device": "cpu", "batch": 2, "chunk": 10, "calibration": 16,
}  # fmt: skip


def test_what_nodes_cannot_understand_is_refused(tmp_path: Path) -> None:
    for given, words in (
        ({"model": object()}, "model is object; on Ray it must be text"),
        ({"overwrite": True}, "overwrite has no meaning on Ray"),
        ({"part": "0/2"}, "part has no meaning on Ray"),
    ):
        with pytest.raises(InputError, match=words):
            extract_on_ray("in.tar", tmp_path / "set", **{**OPTIONS, **given})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100 << 20}
    found = Cluster(initialize_head=True, head_node_args=head)
    yield found
    import ray

    ray.shutdown()
    found.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_node_that_dies_costs_time_alone(
    cluster: Any, eight: list[str], alone: dict[str, bytes], tmp_path: Path
) -> None:
    out, nodes = tmp_path / "set", [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(2)]
    source = f"{Path(eight[0]).parent}/in-{{0..7}}.tar"
    log = tmp_path / "log"

    def kill() -> None:
        while len(list(out.glob("layer2/0*.tar"))) < 2:
            time.sleep(0.005)
        cluster.remove_node(nodes[0], allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    with log.open("w") as said:
        extract_on_ray(source, out, address=cluster.address, progress=said, **OPTIONS)
    killer.join()
    assert tree(out) == alone
    assert status(str(out)).whole
    assert "2 tasks on Ray, each of 1 CPUs and 0 GPUs" in log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_command_line(cluster: Any, eight: list[str], alone: dict[str, bytes], tmp_path: Path) -> None:
    cluster.add_node(num_cpus=2, object_store_memory=100 << 20)
    out = tmp_path / "set"
    words = [*line(eight, out), "--ray", cluster.address]
    done = subprocess.run(
        [sys.executable, "-m", "fmshards", *words], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert tree(out) == alone
    bad = subprocess.run(
        [sys.executable, "-m", "fmshards", *words[:7], "--layer", "none:4", "--ray", cluster.address],
        cwd=ROOT, capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert bad.returncode == 65, bad.stderr
