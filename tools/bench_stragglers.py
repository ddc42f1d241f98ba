"""What it brings to ask a store again for the few answers that are late (store/haste.py).

    python tools/bench_stragglers.py [--reps 3] [--late 0 0.02 0.05] [--seconds 10]

An epoch of the bundled network's layer2 at 4 bits, 10,000 samples, from a store in which a share of the requests is
answered after `seconds` only: as it is, and with the first try of a read waiting as long as any other. Sides take
turns. The table is printed and written to tools/results/bench_stragglers.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from bench_path import BATCH, feature_set
from measure import in_turns, machine, median, ratio, results, write_table
from stream_store import served

import fmshards
from fmshards.store import haste

LINK = 200.0
EARLY, PATIENT = haste._FIRST, 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--late", nargs="+", type=float, default=[0.0, 0.02, 0.05], help="share of late answers")
    parser.add_argument("--seconds", type=float, default=10.0, help="after which they come")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        feature_set(Path(scratch))
        for late in args.late:
            with served(Path(scratch), LINK, late, args.seconds) as url:
                ours = Side(f"{url}/layer2", EARLY)
                early, patient = in_turns(args.reps, ours, Side(ours.url, PATIENT))
            again = f"{median(ours.again[1:]):.0f} of {ours.requests}"
            times = (f"{median(early):.1f} s", again, f"{median(patient):.1f} s", f"{ratio(patient, early):.2f}")
            rows.append((f"{late:.0%}", *times))
            print(" | ".join(rows[-1]), flush=True)
    write_table(
        results("bench_stragglers.md"),
        "tools/bench_stragglers.py",
        f"{machine()}. An epoch of 10,000 samples, no workers, from a store behind a link of {LINK:.0f} MB/s, whose "
        f"late answers take {args.seconds:.0f} s. Medians of {args.reps} rounds in which the sides take turns.",
        ("late answers", "asked again after 2 s", "requests asked again", "waited for", "ratio"),
        rows,
    )


class Side:
    """Seconds of an epoch in which the first try of a read waits for so many."""

    def __init__(self, url: str, wait: float) -> None:
        self.url, self._wait = url, wait
        self.again: list[float] = []
        self.requests = 0

    def __call__(self) -> float:
        haste._FIRST = self._wait
        loader = fmshards.loader(self.url, batch_size=BATCH, num_workers=0)
        began = time.perf_counter()
        for _ in loader:
            pass
        took, found = time.perf_counter() - began, loader.stats()
        self.again.append(found["stragglers"])
        self.requests = round(found["requests"])
        return took


if __name__ == "__main__":
    main()
