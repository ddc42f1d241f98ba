"""What is said while it runs, to people or machines: samples, rate, bytes, time left; where the time went."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, TextIO

from fmshards.clock import Clock
from fmshards.errors import InputError
from fmshards.units import bytes_text, time_text

_EVERY = 10.0  # seconds between two lines where nobody looks


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
        if self._due():
            self._line(f"{name}: {done:,} of {total:,}")

    def skip(self, work: int, samples: int) -> None:
        """A shard of `work` and `samples` was whole already."""
        self._skipped += work
        self.kept += samples

    def update(self, samples: int, written: int, work: int) -> None:
        """`samples` more samples and `written` more bytes; `work` more of the source is done."""
        self.samples += samples
        self.bytes += written
        self._done += work
        if self._due():
            self._tell()

    def finish(self) -> None:
        """The last line, and the split of the time."""
        if self._stream is None:
            return
        if self._terminal:
            self._write("\r" + " " * 79 + "\r")
        rate, seconds = self._rate()
        kept = f"; {self.kept:,} were there" if self.kept else ""
        done = f"{self.samples:,} samples in {time_text(seconds)}, {rate:,.0f}/s, {bytes_text(self.bytes)}{kept}"
        split = ", ".join(f"{stage} {spent:.1f}" for stage, spent in self._clock.seconds.items())
        self._write(f"{done}\n")
        self._write(
            f"seconds: {split} (calibrate comes first; decode, encode and write run beside the forward; wait: for any "
            "of them)\n"
        )

    def _tell(self) -> None:
        rate, seconds = self._rate()
        left, done = self._left(seconds), self._share()
        told = "" if left is None else f", {time_text(left)} left"
        written = f"{bytes_text(self.bytes)}, {bytes_text(self.bytes / seconds)}/s" if seconds else ""
        self._line(f"{self.samples:,} samples ({done:.0%}), {rate:,.0f}/s, {written}{told}")

    def _rate(self) -> tuple[float, float]:
        """Samples a second since the pass began, and how long that is."""
        seconds = time.perf_counter() - self._started
        return (self.samples / seconds if seconds else 0.0), seconds

    def _left(self, seconds: float) -> float | None:
        """Seconds that what is left takes, at the rate of what was done; None before anything was."""
        remaining = max(0, self._work - self._skipped - self._done)
        return seconds * remaining / self._done if self._done else None

    def _share(self) -> float:
        return min((self._skipped + self._done) / self._work, 1.0) if self._work else 0.0

    def _due(self) -> bool:
        """Whether it is time to say something again."""
        now = time.perf_counter()
        if self._stream is None or now - self._shown < (0.2 if self._terminal else _EVERY):
            return False
        self._shown = now
        return True

    def _line(self, line: str) -> None:
        self._write(f"\r{line:<79}" if self._terminal else line + "\n")

    def _write(self, text: str) -> None:
        assert self._stream is not None
        self._stream.write(text)
        self._stream.flush()


class JsonProgress(Progress):
    """The same as an object of JSON a line, for machines: `event` is "note", "stage", "progress" or "done"."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        super().__init__(stream, clock)
        self._terminal = False

    def say(self, text: str) -> None:
        self._emit("note", text=text)

    def stage(self, name: str, done: int, total: int) -> None:
        if self._due():
            self._emit("stage", name=name, done=done, total=total)

    def finish(self) -> None:
        split = {stage: round(spent, 3) for stage, spent in self._clock.seconds.items()}
        self._emit("done", **{**self._facts(), "done": 1.0, "left": 0.0}, kept=self.kept, split=split)

    def _tell(self) -> None:
        self._emit("progress", **self._facts())

    def _facts(self) -> dict[str, Any]:
        """samples, bytes: made and written here. seconds: since the pass began; left: still to come. done: 0 to 1."""
        rate, seconds = self._rate()
        left = self._left(seconds)
        facts = {"samples": self.samples, "bytes": self.bytes, "seconds": round(seconds, 3), "rate": round(rate, 3)}
        return {**facts, "done": round(self._share(), 6), "left": None if left is None else round(left, 1)}

    def _emit(self, event: str, **facts: Any) -> None:
        self._write(json.dumps({"event": event, "time": round(time.time(), 3), **facts}) + "\n")


def progress_of(progress: Any, clock: Clock) -> Progress:
    """True: on standard error; "json": there too, for machines; a stream: there; None or False: nothing is shown.

    Raises InputError for anything else.
    """
    if progress is None or progress is False:
        return Progress(None, clock)
    if progress is True or progress == "json":
        return Progress(sys.stderr, clock) if progress is True else JsonProgress(sys.stderr, clock)
    if not all(callable(getattr(progress, name, None)) for name in ("write", "flush", "isatty")):
        raise InputError(f'progress is {progress!r}; expected True, False, "json" or a text stream'[:300])
    stream: TextIO = progress
    return Progress(stream, clock)
