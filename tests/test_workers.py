"""Worker processes: what one of them says where the process that it works for is interrupted.

That they end with it stands in tests/stream/test_resume_processes.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BROKEN_OFF = """
import os, socket, sys, time
from multiprocessing import get_context, resource_sharer
from fmshards.workers import begin_worker

def work(sender):
    begin_worker()
    sender.send(resource_sharer.DupFd(0)._id[0])
    time.sleep(1)

if __name__ == "__main__":
    context = get_context("spawn")
    receiver, sender = context.Pipe()
    process = context.Process(target=work, args=(sender,))
    process.start()
    address = receiver.recv()
    with socket.socket(socket.AF_UNIX) as interrupted:
        interrupted.connect(address)
    process.join()
    sys.exit(process.exitcode)
"""


def test_a_worker_is_silent_of_a_hand_over_that_was_broken_off(tmp_path: Path) -> None:
    """As by Ctrl-C, while the other process takes a tensor: it has said itself that it was interrupted."""
    script = tmp_path / "script.py"
    script.write_text(BROKEN_OFF)
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
