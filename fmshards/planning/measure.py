"""What a codec does to features, judged by the rest of the network: plain functions on tensors.

Everything is by photo, so that two ways are compared on the same photos and standard errors are honest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from fmshards.codec import Codec, FeatureSpec, Rate, fit, sample_for
from fmshards.planning.estimate import Estimate

Suffix = Callable[[torch.Tensor], torch.Tensor]
"""Features [B, *shape] to logits [B, classes]."""
_BATCH = 64


@dataclass(frozen=True)
class Answers:
    """What a network says of n photos. top: its first choice, int64 [n]; log_p: log-probabilities, float32 [n, K]."""

    top: torch.Tensor
    log_p: torch.Tensor

    @staticmethod
    def of(logits: torch.Tensor) -> Answers:
        """Of logits [n, K]; where values tie the first class is the first choice."""
        return Answers(logits.argmax(1), F.log_softmax(logits.float(), 1))

    @staticmethod
    def joined(parts: Sequence[Answers]) -> Answers:
        """Batches end to end."""
        return Answers(torch.cat([part.top for part in parts]), torch.cat([part.log_p for part in parts]))

    def first(self, n: int) -> Answers:
        """Those to the first n photos."""
        return Answers(self.top[:n], self.log_p[:n])


@dataclass(frozen=True)
class Outcome:
    """What becomes of the answers to n photos when features are other ones.

    agreement: share of photos whose first choice stays. drop: what that costs in accuracy (see `compare`). accuracy:
    the change of accuracy against labels, None without. loss: the change of the loss, of cross-entropy against labels
    or, without, against the network's own probabilities before (the Kullback-Leibler divergence).
    """

    agreement: Estimate
    drop: Estimate
    accuracy: Estimate | None
    loss: Estimate

    def to_json(self) -> dict[str, Any]:
        """Each estimate's value, error and n; None for what is not known."""
        return {name: None if value is None else value.to_json() for name, value in vars(self).items()}


def answers(suffix: Suffix, features: torch.Tensor, batch: int = 32) -> Answers:
    """The network's answers to features [n, *shape], run in batches under no_grad."""
    with torch.no_grad():
        return Answers.joined([Answers.of(suffix(part)) for part in features.split(batch)])


def compare(before: Answers, after: Answers, labels: torch.Tensor | None = None) -> Outcome:
    """The same photos, answered from uncompressed features and from others. labels: int64 [n], the network's classes.

    drop, for each photo: the probability that the network gave to its first choice, less that which it gave to what
    is chosen now. Where it knows how sure it is, that is the accuracy which the change costs, for any labels; and its
    standard error is a fraction of that of counted answers, since a photo at which the network wavered counts little.
    """
    stays = (before.top == after.top).numpy()
    p = before.log_p.exp()
    lost = p.amax(1) - p.gather(1, after.top[:, None])[:, 0]
    accuracy = None
    if labels is None:
        loss = (p * (before.log_p - after.log_p).nan_to_num(0.0)).sum(1)
    else:
        accuracy = Estimate.of((after.top == labels).numpy() * 1.0 - (before.top == labels).numpy())
        loss = (before.log_p - after.log_p).gather(1, labels[:, None])[:, 0]
    return Outcome(Estimate.of(stays), Estimate.of(lost.clamp_min(0).numpy()), accuracy, Estimate.of(loss.numpy()))


def fitted(
    rate: Rate, spec: FeatureSpec, sample: torch.Tensor, order: str = "auto", filter: str | None = None
) -> Codec:
    """The codec of a rate, fitted to features [n, *shape] as extraction fits it. Raises InputError for no rate."""
    wanted = sample_for(rate, spec, order, len(sample))
    if wanted is not None:
        for part in sample.split(_BATCH):
            wanted.add(part.float())
    return fit(rate, spec, wanted, None, filter)


def through(codec: Codec, features: torch.Tensor, batch: int = 32) -> Iterator[tuple[torch.Tensor, int]]:
    """Features [n, *shape] decoded again, float32 in batches, each with the bytes of its member."""
    for part in features.split(batch):
        rows = codec.encode(part)
        yield codec.decode(rows), len(codec.member(rows))


class ErrorDb:
    """Relative squared error in dB, over batches: 10 log10(sum |y - x|^2 / sum |x|^2)."""

    def __init__(self) -> None:
        self._error = self._energy = 0.0

    def add(self, decoded: torch.Tensor, x: torch.Tensor) -> None:
        self._error += float((decoded - x).double().square().sum())
        self._energy += float(x.double().square().sum())

    @property
    def db(self) -> float | None:
        """None where there is no error."""
        return 10 * math.log10(self._error / max(self._energy, 1e-300)) if self._error > 0 else None
