"""Whichever engine runs, rows and features are zfpy's, bit for bit; and which engine runs is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fmshards.codec import FeatureSpec, codec_for
from fmshards.codec.threads import over_rows
from fmshards.codec.zfp import on_zfpy
from fmshards.codec.zfp.engine import engine
from fmshards.kernels.machine import way

ROOT = Path(__file__).parent.parent.parent
HERE = engine().name
OTHERS = [name for name in ("avx2", "portable", "zfpy") if name != HERE]


def child(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


def sweep(*arguments: str, **environment: str) -> dict[str, object]:
    done = child("-m", "tests.codec.sweep", *arguments, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_every_number_of_bits_a_block():
    assert sweep("bits")["checked"] == 255 * 17


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_number_of_bits_a_block_in_other_engines(name):
    found = sweep("bits", "2048" if name != "portable" else "512", FMSHARDS_ENGINE=name)
    assert found["engine"] == name


def test_every_layout_type_and_stride():
    assert sweep("layouts")["checked"] > 4000


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_layout_type_and_stride_in_other_engines(name):
    assert sweep("layouts", FMSHARDS_ENGINE=name)["engine"] == name


@pytest.mark.parametrize("name", [HERE, *(pytest.param(name, marks=pytest.mark.slow) for name in ("avx2", "portable"))])
def test_any_bytes_stay_inside_their_memory(name):
    assert sweep("fuzz", "10000", FMSHARDS_ENGINE=name)["checked"] >= 10000


def test_the_engine_and_why_are_said():
    if HERE == "zfpy":
        assert "numba" in engine().why or "FMSHARDS_ENGINE" in engine().why
    else:
        assert (engine().name, engine().why) == way()


def test_without_numba_zfpy_runs():
    text = (
        "import sys; sys.modules['numba'] = None\n"
        "from fmshards.codec import FeatureSpec, codec_for\n"
        "import numpy as np, torch\n"
        "codec = codec_for(4, FeatureSpec('map', (16, 7, 7)))\n"
        "x = np.linspace(0, 1, 5 * 784, dtype=np.float32).reshape(5, 16, 7, 7)\n"
        "back = codec.decode(codec.encode(x), dtype=torch.bfloat16)\n"
        "from fmshards.codec.zfp.engine import engine\n"
        "print(engine().name, '|', engine().why, '|', float((back.float() - torch.from_numpy(x)).abs().max()) < .05)"
    )
    done = child("-c", text)
    assert done.returncode == 0, done.stderr[-2000:]
    name, why, near = done.stdout.split(" | ")
    assert name == "zfpy"
    assert "numba cannot be imported" in why
    assert near.strip() == "True"


@pytest.mark.parametrize("choice", ["fast", "sse9"])
def test_a_choice_that_is_none_is_refused(choice):
    done = child("-c", "from fmshards.codec.zfp.engine import engine; engine()", FMSHARDS_ENGINE=choice)
    assert f"FMSHARDS_ENGINE={choice}: expected bmi2, avx2, portable or zfpy" in done.stderr


def test_threads_give_the_same_rows_and_features():
    codec = codec_for(4, FeatureSpec("map", (64, 16, 16)))
    x = torch.randn(64, 64, 16, 16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        rows, out = codec.encode(x), codec.decode(codec.encode(x))
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            assert np.array_equal(codec.encode(x), rows)
            assert torch.equal(codec.decode(rows), out)
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_thread_comes_out_once_all_have_ended():
    ended = []

    def work(first: int, last: int) -> None:
        ended.append((first, last))
        if first:
            raise ValueError(f"rows {first} to {last}")

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with pytest.raises(ValueError, match="rows 25 to 50"):
            over_rows(work, 100, 1 << 16)
    finally:
        torch.set_num_threads(before)
    assert sorted(ended) == [(0, 25), (25, 50), (50, 75), (75, 100)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_decodes_after_its_parent_has():
    text = (
        "import os, sys, torch\n"
        "from fmshards.codec import FeatureSpec, codec_for\n"
        "torch.set_num_threads(2)\n"
        "codec = codec_for(4, FeatureSpec('map', (64, 16, 16)))\n"
        "rows = codec.encode(torch.randn(64, 64, 16, 16)); out = codec.decode(rows)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    from fmshards.codec import threads\n"
        "    os._exit(0 if torch.equal(codec.decode(rows), out) else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    assert subprocess.run([sys.executable, "-c", text], cwd=ROOT, timeout=120).returncode == 0


def test_decoding_needs_no_second_batch_of_memory():
    """Straight to where it belongs: nothing of the batch's size is allocated beside the output."""
    text = (
        "import resource, torch\n"
        "from fmshards.codec import FeatureSpec, codec_for\n"
        "torch.set_num_threads(1)\n"
        "codec = codec_for(1, FeatureSpec('map', (64, 14, 14)))\n"
        "rows = torch.from_numpy(codec.encode(torch.randn(8, 64, 14, 14))).repeat(512, 1)\n"
        "codec.decode(rows[:8], dtype=torch.bfloat16)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "out = codec.decode(rows, dtype=torch.bfloat16)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / out.nbytes)"
    )
    done = child("-c", text)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 1.3


def test_zfpy_says_what_it_can_write_into():
    out = np.empty((2, 4, 4, 4), np.float32)
    assert on_zfpy.writes(out, "torch.float32")
    assert not on_zfpy.writes(out.transpose(0, 2, 1, 3), "torch.float32")
    assert not on_zfpy.writes(out, "torch.bfloat16")
