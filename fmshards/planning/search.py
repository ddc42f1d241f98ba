"""The smallest rate within a budget: by halving each codec's ladder, and only as far as fewer bytes can be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fmshards.planning.measure import Outcome


@dataclass(frozen=True)
class Trial:
    """A rate that was tried. bytes: a sample's, of the base. db: None where there is no error. encode, decode:
    seconds a sample, here."""

    codec: str
    rate: str
    bytes: float
    bits: float
    db: float | None
    encode: float
    decode: float
    outcome: Outcome

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**vars(self), "outcome": self.outcome.to_json()}


@dataclass(frozen=True)
class Found:
    """The trial that was chosen, None where none is within the budget, and all that were made, in their order."""

    chosen: Trial | None
    trials: tuple[Trial, ...]


def smallest(
    ladders: Mapping[str, Sequence[str]],
    bytes_of: Callable[[str], float],
    trial: Callable[[str, str], Trial],
    within: Callable[[Trial], bool],
) -> Found:
    """The rate of the fewest bytes within the budget, and what was tried on the way.

    ladders: by codec its rates, the fewest bytes first. bytes_of: a rate's row. trial: measures (codec, rate).

    More bytes of a codec are taken to be no worse. A codec is asked first whether the dearest of its rates that would
    still be cheaper than the best one known is within the budget; where it is not, no other of its rates is tried.
    """
    best: Trial | None = None
    trials: list[Trial] = []

    def good(codec: str, rate: str) -> bool:
        nonlocal best
        made = trial(codec, rate)
        trials.append(made)
        ok = within(made)
        if ok and (best is None or made.bytes < best.bytes):
            best = made
        return ok

    for codec, rates in ladders.items():
        left = [rate for rate in rates if best is None or bytes_of(rate) < best.bytes]
        if best is not None and left and not good(codec, left.pop()):
            continue
        low, high = 0, len(left)
        while low < high:
            middle = (low + high) // 2
            if good(codec, left[middle]):
                high = middle
            else:
                low = middle + 1
    return Found(best, tuple(trials))


def best(
    ladders: Mapping[str, Sequence[str]],
    bytes_of: Callable[[str], float],
    trial: Callable[[str, str], Trial],
    most: float,
) -> Found:
    """The rate with the smallest drop of at most so many bytes: of each codec the dearest one is tried."""
    made = [
        trial(codec, fitting[-1])
        for codec, rates in ladders.items()
        if (fitting := [rate for rate in rates if bytes_of(rate) <= most])
    ]
    chosen = min(made, key=lambda one: (one.outcome.drop.value, one.bytes), default=None)
    return Found(chosen, tuple(made))
