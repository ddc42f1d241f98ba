"""What a codec does to features, and what that does to the answers of the rest of the network.

Everything is by photo, so that two ways are compared on the same photos and standard errors are honest.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from fmshards.codec import Codec, FeatureSpec, Rate, fit, sample_for
from fmshards.planning.estimate import Estimate

Suffix = Callable[[torch.Tensor], torch.Tensor]
"""Features [B, *shape] to logits [B, classes]."""
BATCH = 32
"""Photos of a batch that is encoded, decoded and answered."""


@dataclass(frozen=True)
class Answers:
    """What a network says of n photos, on the CPU. top: its first choice, int64 [n]; log_p: float32 [n, classes]."""

    top: torch.Tensor
    log_p: torch.Tensor

    @staticmethod
    def of(logits: torch.Tensor) -> Answers:
        """Of logits [n, classes]; where values tie the first class is the first choice."""
        logits = logits.float().cpu()
        return Answers(logits.argmax(1), F.log_softmax(logits, 1))

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


def answers(suffix: Suffix, features: torch.Tensor, batch: int = BATCH) -> Answers:
    """The network's answers to features [n, *shape], run in batches under no_grad."""
    with torch.no_grad():
        return Answers.joined([Answers.of(suffix(part)) for part in torch.split(features, batch)])


def compare(
    before: Answers, after: Answers, labels: torch.Tensor | None = None, factor: float | None = None
) -> Outcome:
    """The same photos, answered from uncompressed features and from others. labels: int64 [n], the network's classes.

    drop, with a factor by which logits become probabilities that hold (`certainty`): for each photo the probability
    of its first choice, less that of what is chosen now. That is the accuracy which the change costs on average. Its
    standard error is a third of that of counted answers, since a photo at which the network wavered counts little: on
    300 photos `accuracy` is known to a percent, `drop` to .3. Without a factor each changed choice counts as lost,
    which is the most that it can cost.
    """
    stays = (before.top == after.top).float()
    p = before.log_p.exp()
    if factor is None:
        lost = 1 - stays
    else:
        sure = (factor * before.log_p).softmax(1)
        lost = (sure.amax(1) - sure.gather(1, after.top[:, None])[:, 0]).clamp_min(0)
    accuracy = None
    if labels is None:
        loss = (p * (before.log_p - after.log_p).clamp(-_LOSS, _LOSS)).sum(1)
    else:
        accuracy = Estimate.of((after.top == labels).float().numpy() - (before.top == labels).float().numpy())
        loss = (before.log_p - after.log_p).clamp(-_LOSS, _LOSS).gather(1, labels[:, None])[:, 0]
    return Outcome(Estimate.of(stays.numpy()), Estimate.of(lost.numpy()), accuracy, Estimate.of(loss.numpy()))


def certainty(before: Answers, labels: torch.Tensor) -> float:
    """The factor of a network's logits with which it is as sure as it is right: that of the least cross-entropy.

    Networks are mostly too sure, those that were trained on smoothed labels not enough. Temperature scaling: Guo et
    al., "On calibration of modern neural networks", 2017; the factor is 1 over the temperature.
    """
    losses = {factor: float(F.cross_entropy(factor * before.log_p, labels)) for factor in _FACTORS}
    return min(losses, key=losses.__getitem__)


_FACTORS = tuple(10 ** (k / 20) for k in range(-20, 21))
_LOSS = 100.0  # nats: a probability of zero has no logarithm


def fitted(
    rate: Rate, spec: FeatureSpec, features: torch.Tensor, order: str = "auto", filter: str | None = None
) -> Codec:
    """The codec of a rate, fitted to features [n, *shape] as extraction fits it. Raises InputError for no rate."""
    sample = sample_for(rate, spec, order, len(features))
    if sample is not None:
        for part in torch.split(features, BATCH):
            sample.add(part.float())
    return fit(rate, spec, sample, None, filter)


@dataclass
class Passage:
    """What encoding and decoding took and gave, over batches.

    device: where rows are decoded. bytes: of members, so that a filter counts. encode, decode: seconds a sample, of
    each batch. db: the relative squared error, 10 log10(sum |y - x|^2 / sum |x|^2), None where there is none.
    """

    device: str | torch.device = "cpu"
    samples: int = 0
    bytes: int = 0
    encode: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    _error: float = 0.0
    _energy: float = 0.0

    @property
    def db(self) -> float | None:
        return 10 * math.log10(self._error / max(self._energy, 1e-300)) if self._error > 0 else None

    @property
    def seconds(self) -> tuple[float, float]:
        """Of encoding and of decoding a sample: medians over the batches."""
        return statistics.median(self.encode), statistics.median(self.decode)

    def of(self, codec: Codec, x: torch.Tensor) -> torch.Tensor:
        """x [B, *shape] on the CPU, encoded and decoded again, float32 on the device, and counted."""
        began = time.perf_counter()
        rows = codec.encode(x)
        encoded = time.perf_counter()
        there = torch.from_numpy(rows).to(self.device)
        decoded = codec.decode(there)
        if decoded.is_cuda:
            torch.cuda.synchronize(decoded.device)
        self.decode.append((time.perf_counter() - encoded) / len(x))
        self.encode.append((encoded - began) / len(x))
        self.samples += len(x)
        self.bytes += len(codec.member(rows))
        self._error += float((decoded.cpu() - x).double().square().sum())
        self._energy += float(x.double().square().sum())
        return decoded


def through(
    codec: Codec, features: torch.Tensor, batch: int = BATCH, passage: Passage | None = None
) -> Iterator[torch.Tensor]:
    """Features [n, *shape] on the CPU, encoded and decoded again, in float32 batches; `passage` counts what it took."""
    counted = Passage() if passage is None else passage
    for part in torch.split(features, batch):
        yield counted.of(codec, part)
