"""What a person sees while it runs: samples, rate, bytes, time left; and where the time went, at the end."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from fmshards.clock import Clock
from fmshards.errors import InputError
from fmshards.units import bytes_text, time_text


class Progress:
    """Lines about an extraction on `stream`: one that is rewritten on a terminal, one every ten seconds elsewhere."""

    def __init__(self, stream: TextIO | None, clock: Clock) -> None:
        self._stream, self._clock = stream, clock
        self._terminal = stream is not None and stream.isatty()
        self._started = self._shown = time.perf_counter()
        self._work = self._done = self._skipped = self.samples = self.bytes = self.kept = 0

    def begin(self, work: int) -> None:
        """The passes start. work: the whole of the source, in the unit of Source.work; by it the time left is told."""
        self._work, self._started = work, time.perf_counter()

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._stream is not None:
            self._write(f"\r{text:<79}\n" if self._terminal else f"{text}\n")

    def stage(self, name: str, done: int, total: int) -> None:
        """`done` of `total` steps of what comes before the pass, such as "calibration"."""
        self._show(f"{name}: {done:,} of {total:,}")

    def skip(self, work: int, samples: int) -> None:
        """A shard of `work` and `samples` was whole already."""
        self._skipped += work
        self.kept += samples

    def update(self, samples: int, written: int, work: int) -> None:
        """`samples` more samples and `written` more bytes; `work` more of the source is done."""
        self.samples += samples
        self.bytes += written
        self._done += work
        self._show(self._line(time.perf_counter() - self._started))

    def finish(self) -> None:
        """The last line, and the split of the time."""
        if self._stream is None:
            return
        seconds = time.perf_counter() - self._started
        if self._terminal:
            self._write("\r" + " " * 79 + "\r")
        rate = self.samples / seconds if seconds else 0.0
        kept = f"; {self.kept:,} were there" if self.kept else ""
        done = f"{self.samples:,} samples in {time_text(seconds)}, {rate:,.0f}/s, {bytes_text(self.bytes)}{kept}"
        split = ", ".join(f"{stage} {spent:.1f}" for stage, spent in self._clock.seconds.items())
        self._write(f"{done}\n")
        self._write(
            f"seconds: {split} (calibrate comes first; decode, encode and write run beside the forward; wait: for any "
            "of them)\n"
        )

    def _show(self, line: str) -> None:
        now = time.perf_counter()
        if self._stream is None or now - self._shown < (0.2 if self._terminal else 10):
            return
        self._shown = now
        self._write(f"\r{line:<79}" if self._terminal else line + "\n")

    def _line(self, seconds: float) -> str:
        rate = self.samples / seconds if seconds else 0.0
        left = ""
        if self._done:
            remaining = max(0, self._work - self._skipped - self._done)
            left = f", {time_text(seconds * remaining / self._done)} left"
        done = (self._skipped + self._done) / self._work if self._work else 0.0
        return f"{self.samples:,} samples ({min(done, 1.0):.0%}), {rate:,.0f}/s, {bytes_text(self.bytes)}{left}"

    def _write(self, text: str) -> None:
        assert self._stream is not None
        self._stream.write(text)
        self._stream.flush()


def stream_of(progress: Any) -> TextIO | None:
    """True: standard error; a stream: itself; None or False: nothing is shown. Raises InputError for anything else."""
    if progress is None or progress is False:
        return None
    if progress is True:
        return sys.stderr
    if not all(callable(getattr(progress, name, None)) for name in ("write", "flush", "isatty")):
        raise InputError(f"progress is {progress!r}; expected True, False or a text stream"[:300])
    stream: TextIO = progress
    return stream
