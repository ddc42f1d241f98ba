"""Extractions in processes of their own, which tests kill or run side by side.

A fork server that has imported everything, and has run nothing, makes them start at once.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

import fmshards.extraction
import fmshards.model

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.extraction.child"])


def start(source: Any, out: Path, log: Path, **options: Any) -> Any:
    """Begin an extraction in a child; what goes wrong in it is written to `log`."""
    process = CONTEXT.Process(target=_extract, args=(source, str(out), str(log), options))
    process.start()
    return process


def finish(process: Any, log: Path) -> None:
    process.join(240)
    assert process.exitcode == 0, log.read_text() if log.exists() else f"exit code {process.exitcode}"


def _extract(source: Any, out: str, log: str, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    # A child of a fork server would start one of its own for its workers, which takes seconds.
    multiprocessing.set_start_method("fork", force=True)
    limit = options.pop("file_size_limit", None)
    if limit is not None:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        fmshards.extract(source, out, **options)
    except BaseException:
        with open(log, "w") as file:
            traceback.print_exc(file=file)
        sys.stderr.flush()
        os._exit(1)
