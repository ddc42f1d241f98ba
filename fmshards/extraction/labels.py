"""A warning where the labels of neighbouring samples agree far more often than chance: shards sorted by label.

Training shuffles chunks and, within a window, samples. Where a chunk holds one class only, so do batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from fmshards.errors import warn
from fmshards.shards.fields import LABEL

_FEWEST = 64  # pairs of neighbours before anything is said


class LabelRuns:
    """Counts equal neighbours within input shards, and the labels of all; warns once.

    The chance of an equal pair is the sum of squared label frequencies over everything seen: a shard of one class
    looks fine by itself, and is found out when the next one holds another.
    """

    def __init__(self) -> None:
        self._counts: Counter[Hashable] = Counter()
        self._pairs = self._equal = 0
        self._shard, self._last = -1, None  # type: tuple[int, Hashable]
        self._warned = False

    def add(self, shard: int, fields: Sequence[dict[str, Any]]) -> None:
        """The fields of the next samples of input shard `shard`; those without a plain `cls` are left out."""
        for values in fields:
            label = values.get(LABEL)
            if not isinstance(label, (int, str, bytes)):
                continue
            if shard == self._shard:
                self._pairs += 1
                self._equal += label == self._last
            self._counts[label] += 1
            self._shard, self._last = shard, label

    @property
    def sorted(self) -> bool:
        """Whether neighbours are equal far more often than chance has it."""
        total = sum(self._counts.values())
        if self._pairs < _FEWEST or len(self._counts) < 2:
            return False
        chance = sum((count / total) ** 2 for count in self._counts.values())
        found = self._equal / self._pairs
        spread = (chance * (1 - chance) / self._pairs) ** 0.5
        return bool(found > chance + max(0.25 * (1 - chance), 5 * spread))

    def warn(self, where: str) -> None:
        """Warn if it is so; `where` is the source."""
        if self._warned or not self.sorted:
            return
        self._warned = True
        warn(
            f"{where}: the samples look sorted by label ({self._equal / self._pairs:.0%} of neighbours have the same "
            f"{LABEL!r}). A chunk then holds few classes, and training from the shards shuffles chunks: shuffle the "
            "samples before they are packed"
        )
