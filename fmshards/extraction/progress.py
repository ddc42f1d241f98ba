"""What a person sees while it runs: samples, rate, bytes, time left; and where the time went, at the end."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from fmshards.clock import Clock
from fmshards.units import bytes_text, time_text


class Progress:
    """Lines about an extraction on `stream`: one that is rewritten on a terminal, one every ten seconds elsewhere.

    work: the whole of the source, in the unit of Source.work; with it the time left is estimated.
    """

    def __init__(self, stream: TextIO | None, work: int, clock: Clock) -> None:
        self._stream, self._work, self._clock = stream, work, clock
        self._terminal = stream is not None and stream.isatty()
        self._started = self._shown = time.perf_counter()
        self._done, self._skipped, self.samples, self.bytes = 0, 0, 0, 0

    def skip(self, work: int) -> None:
        """A shard of `work` was whole already."""
        self._skipped += work

    def update(self, samples: int, written: int, work: int) -> None:
        """`samples` more samples and `written` more bytes; `work` more of the source is done."""
        self.samples += samples
        self.bytes += written
        self._done += work
        now = time.perf_counter()
        if self._stream is None or now - self._shown < (0.2 if self._terminal else 10):
            return
        self._shown = now
        line = self._line(now - self._started)
        self._write(f"\r{line:<79}" if self._terminal else line + "\n")

    def finish(self) -> None:
        """The last line, and the split of the time."""
        if self._stream is None:
            return
        seconds = time.perf_counter() - self._started
        if self._terminal:
            self._write("\r" + " " * 79 + "\r")
        rate = self.samples / seconds if seconds else 0.0
        self._write(f"{self.samples:,} samples in {time_text(seconds)}, {rate:,.0f}/s, {bytes_text(self.bytes)}\n")
        split = ", ".join(f"{stage} {spent:.1f}" for stage, spent in self._clock.seconds.items())
        self._write(f"seconds: {split} (decode, encode and write run beside the forward; wait: for any of them)\n")

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


def stream_of(progress: bool | TextIO | None) -> TextIO | None:
    """True: standard error; a stream: itself; None or False: nothing is shown."""
    if progress is None or progress is False:
        return None
    return sys.stderr if progress is True else progress
