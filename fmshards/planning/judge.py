"""By what features are judged: the network's own rest where it is trained, else a linear probe as a stand-in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from fmshards.codec import FeatureSpec
from fmshards.planning.measure import Answers, Outcome, Suffix, compare
from fmshards.planning.probe import LEAST, probe_answers, probe_features

SUFFIXES = ("auto", "trained", "fresh")
"""Whether the rest of the network is trained for the labels: found out, said to be, said not to be."""

_SPREADS = 5.0  # standard errors above chance at which labels are the network's own
_LEAST = 2 * 32  # photos before what is measured may be given up


class Judge(Protocol):
    """Says what becomes of answers when the sample's features, in their order, are others."""

    def judge(self, decoded: Iterator[torch.Tensor], hopeless: Callable[[Outcome], bool]) -> Outcome:
        """decoded: batches [B, *shape]. hopeless: asked now and then; where it says so, the rest is not looked at."""


class TrainedSuffix:
    """The network's own rest, which goes on being trained or is used as it is.

    suffix: features to logits. before: its answers to uncompressed features. labels: int64 [n] where they are its
    classes. factor: as `compare` takes it.
    """

    def __init__(
        self, suffix: Suffix, before: Answers, labels: torch.Tensor | None, factor: float | None = None
    ) -> None:
        self._suffix, self._before, self._labels, self._factor = suffix, before, labels, factor

    def judge(self, decoded: Iterator[torch.Tensor], hopeless: Callable[[Outcome], bool]) -> Outcome:
        parts: list[Answers] = []
        seen = 0
        for x in decoded:
            with torch.no_grad():
                parts.append(Answers.of(self._suffix(x)))
            seen += len(x)
            if seen >= _LEAST and hopeless(found := self._outcome(parts, seen)):
                return found
        return self._outcome(parts, seen)

    def _outcome(self, parts: list[Answers], n: int) -> Outcome:
        labels = None if self._labels is None else self._labels[:n]
        return compare(self._before.first(n), Answers.joined(parts), labels, self._factor)


class Probe:
    """A linear classifier on pooled features, trained and asked anew for each way (see `probe_answers`)."""

    def __init__(self, spec: FeatureSpec, features: Iterator[torch.Tensor], labels: torch.Tensor, seed: int) -> None:
        self._spec, self._labels, self._seed = spec, labels, seed
        self.before = self._answers(features)

    def judge(self, decoded: Iterator[torch.Tensor], hopeless: Callable[[Outcome], bool]) -> Outcome:
        return compare(self.before, self._answers(decoded), self._labels, 1.0)

    def _answers(self, features: Iterator[torch.Tensor]) -> Answers:
        pooled = torch.cat([probe_features(x, self._spec) for x in features])
        return probe_answers(pooled, self._labels, self._seed)


def labels_are_its_own(before: Answers, labels: torch.Tensor) -> bool:
    """Whether labels int64 [n] agree far better than chance with a network's first choices.

    Chance is that of choices dealt out anew: the sum over classes of their share among labels and among choices.
    Far better: by 5 standard errors. A network with random weights chooses one class, and agrees by chance alone.
    """
    n, classes = len(labels), before.log_p.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        return False
    shares = (torch.bincount(each, minlength=classes).double() / n for each in (labels, before.top))
    chance = float(torch.stack(list(shares)).prod(0).sum())
    agreed = float((labels == before.top).double().mean())
    return agreed > chance + _SPREADS * math.sqrt(max(chance * (1 - chance), 1 / n) / n)


def can_probe(labels: torch.Tensor | None) -> bool:
    """Whether labels can train a probe: two classes, and some photos of the second largest."""
    if labels is None or len(labels) < LEAST:
        return False
    counts = torch.unique(labels, return_counts=True)[1].sort(descending=True).values
    return len(counts) > 1 and int(counts[1]) >= LEAST // 4
