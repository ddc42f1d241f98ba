"""Each cut measured on the sample: how features are judged, the smallest rate within the budget, the mirror, the worth.

Features of one cut at a time are held, within `memory`; the rest of the network runs in batches.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from fmshards.augment import Mirror
from fmshards.codec import ladders, row_bytes_at
from fmshards.model import Cut
from fmshards.planning.estimate import photos_needed
from fmshards.planning.judge import Judge, Judged, Probe, TrainedSuffix, how_judged
from fmshards.planning.measure import Answers, Outcome, Passage, fitted, through
from fmshards.planning.moves import NONE, STORED, WAYS, Moves, Stage, measure_moves, share_stored
from fmshards.planning.report import CutReport
from fmshards.planning.search import Trial, best, smallest
from fmshards.planning.setting import Setting
from fmshards.planning.worth import Seconds, Worth, worth

_LEAST_SPLIT = 64  # photos from which codecs are fitted to some of them and judged on the others
_FIT_EVERY = 6
_FEW, _BITS = 16, 2.0  # photos and bits a value by which codecs are put in an order to try them
_MIRROR_DROP = 0.02  # of a mirror beside the stored one: it only augments
_TOLD = 2.0  # standard errors between a drop and the budget


def survey(
    setting: Setting, cuts: Sequence[Cut], stage: Stage, rates_only: bool = False
) -> tuple[Judged, list[CutReport]]:
    """Measure each of `cuts`. rates_only: nothing is moved, for who has decided on recipe and mirror.

    Deterministic for a seed, but for seconds. Raises InputError where nothing can judge features, and what codecs
    raise for values that they cannot hold.
    """
    judged = how_judged(setting, cuts[-1])
    moves: Mapping[str, Moves] = {}
    if setting.recipe and not rates_only and setting.recipe.custom_text is None:
        suffixes = {cut.name: setting.halves(cut).suffix if judged.logits else None for cut in cuts}
        specs = {cut.name: cut.spec for cut in cuts}
        run = setting.prefix_of(cuts)
        moves = measure_moves(
            setting.photos, run, suffixes, specs, setting.recipe, setting.device, setting.seed, stage, judged.factor
        )
    return judged, [_Survey(setting, cut, judged, stage).report(moves.get(cut.name)) for cut in cuts]


class _Survey:
    """One cut."""

    def __init__(self, setting: Setting, cut: Cut, judged: Judged, stage: Stage) -> None:
        self.setting, self.cut, self.judged, self.stage = setting, cut, judged, stage
        self.halves = setting.halves(cut)
        self.prefix_seconds: list[float] = []
        self.suffix_seconds: list[float] = []
        n = min(len(setting.photos), max(1, setting.memory // (4 * cut.spec.values)))
        some = n >= _LEAST_SPLIT
        fit = [i for i in range(n) if not some or i % _FIT_EVERY == 0]
        judge = [i for i in range(n) if i % _FIT_EVERY] if some else fit
        features = self._features(fit + judge if some else fit)
        self.fit, self.features = features[: len(fit)], features[-len(judge) :]  # no copies: they may be a GB
        labels = setting.photos.labels
        self.labels = None if labels is None else labels[judge]
        self.judge = self._judge()
        self.tried = 0

    @torch.no_grad()
    def _features(self, photos: Sequence[int]) -> torch.Tensor:
        """Those of these photos, float32 [n, *shape] on the CPU."""
        setting, n = self.setting, len(photos)
        out = torch.empty((n, *self.cut.spec.shape))
        for start in range(0, n, setting.batch):
            chosen = photos[start : start + setting.batch]
            x = setting.photos.base(chosen).to(setting.device)
            began = time.perf_counter()
            found = self.halves.prefix(x)
            _wait(found)
            self.prefix_seconds.append((time.perf_counter() - began) / len(chosen))
            out[start : start + len(chosen)] = found.float().cpu()
            self.stage(f"{self.cut.name}, features", start + len(chosen), n)
        return out

    def _judge(self) -> Judge:
        setting, batches = self.setting, self._timed()
        if self.judged.by == "suffix":
            before = Answers.joined(list(batches))
            return TrainedSuffix(
                self.halves.suffix, before, self.labels if self.judged.own else None, self.judged.factor
            )
        if self.judged.logits:
            next(batches)
        assert self.labels is not None  # `_how` has looked
        parts = iter(torch.split(self.features, setting.batch))
        return Probe(self.cut.spec, parts, self.labels, setting.seed)

    @torch.no_grad()
    def _timed(self) -> Iterator[Answers]:
        """The suffix's answers to uncompressed features, in batches."""
        for part in torch.split(self.features, self.setting.batch):
            x = part.to(self.setting.device)
            began = time.perf_counter()
            found = self.halves.suffix(x)
            _wait(found)
            self.suffix_seconds.append((time.perf_counter() - began) / len(part))
            yield Answers.of(found)

    def report(self, moves: Moves | None) -> CutReport:
        setting = self.setting
        way = self._mirror(moves)
        most = None if setting.budget.bytes is None else setting.budget.bytes / (1 + share_stored(way))
        steps = {
            name: [rate for rate in ladders()[name] if most is None or self._bytes(rate) <= most]
            for name in self._promising()
        }
        drop = setting.budget.drop
        if drop is None:
            assert most is not None  # a budget has one of the two
            found = best(steps, self._bytes, self._trial, most)
        else:
            found = smallest(steps, self._bytes, self._trial, lambda trial: trial.outcome.drop.value <= drop)
        chosen = found.chosen
        told, needed = True, None
        if chosen is not None and drop is not None:
            left = drop - chosen.outcome.drop.value
            told = left >= _TOLD * chosen.outcome.drop.error
            needed = None if told else photos_needed(chosen.outcome.drop, max(left, drop / 4))
        return CutReport(
            cut=self.cut,
            photos=len(self.features),
            found=found,
            moves=moves,
            mirror=str(way) if setting.recipe.flips else "none",
            worth=None if chosen is None else self._worth(chosen, way, moves),
            told=told,
            needed=needed,
        )

    def _mirror(self, moves: Moves | None) -> Mirror:
        """The way of the fewest bytes that stays within 2 points of the stored mirror; or what was asked for."""
        if not self.setting.recipe.flips:
            return NONE
        if self.setting.mirror is not None:
            return self.setting.mirror
        for way in sorted(WAYS, key=share_stored):
            moved = moves.flips.get(str(way)) if moves is not None else None
            if moved is not None and moved.outcome is not None and moved.outcome.drop.value <= _MIRROR_DROP:
                return way
        return STORED

    def _promising(self) -> list[str]:
        """The codecs, that of the least error at about two bits a value first: where a good rate is known early, most
        others need not be tried. (By error alone nothing is chosen.)"""
        few, found = self.features[:_FEW], dict.fromkeys(ladders(), 0.0)
        for name, rates in ladders().items():
            bits = {rate: 8 * row_bytes_at(rate, self.cut.spec) / self.cut.spec.values for rate in rates}
            rate = min(rates, key=lambda rate: abs(bits[rate] - _BITS))
            if _BITS / 2 <= bits[rate] <= 2 * _BITS:
                passage = Passage(self.setting.device)
                passage.of(fitted(rate, self.cut.spec, self.fit, self.setting.order), few)
                found[name] = passage.db or 0.0
        return sorted(found, key=found.__getitem__)

    def _bytes(self, rate: str) -> float:
        """Bytes of a row; of what the filter makes of it, by a few."""
        if self.setting.filter is None:
            return row_bytes_at(rate, self.cut.spec)
        codec = fitted(rate, self.cut.spec, self.fit, self.setting.order, self.setting.filter)
        few = self.features[:_FEW]
        return len(codec.member(codec.encode(few))) / len(few)

    def _trial(self, name: str, rate: str) -> Trial:
        setting, passage, seen = self.setting, Passage(self.setting.device), 0
        self.tried += 1
        codec = fitted(rate, self.cut.spec, self.fit, setting.order, setting.filter)

        def shown() -> Iterator[torch.Tensor]:
            nonlocal seen
            for x in through(codec, self.features, passage=passage):
                seen += len(x)
                self.stage(f"{self.cut.name}, {rate}, {self.tried}. rate", seen, len(self.features))
                yield x

        outcome = self.judge.judge(shown(), self._hopeless)
        encode, decode = passage.seconds
        return Trial(
            codec=name,
            rate=rate,
            bytes=passage.bytes / passage.samples,
            bits=8 * passage.bytes / passage.samples / self.cut.spec.values,
            db=passage.db,
            encode=encode,
            decode=decode,
            outcome=outcome,
        )

    def _hopeless(self, outcome: Outcome) -> bool:
        drop = self.setting.budget.drop
        return drop is not None and outcome.drop.value - 3 * outcome.drop.error > drop

    def _worth(self, chosen: Trial, way: Mirror, moves: Moves | None) -> Worth:
        moved = moves.flips.get(str(way)) if moves is not None and way.mapped else None
        took = Seconds(
            image=self.setting.photos.seconds,
            prefix=statistics.median(self.prefix_seconds),
            suffix=statistics.median(self.suffix_seconds) if self.suffix_seconds else 0.0,
            encode=chosen.encode,
            decode=chosen.decode,
            mirror=0.0 if moved is None else moved.seconds,
        )
        photos = self.setting.photos
        return worth(
            chosen.bytes, share_stored(way), photos.bytes, photos.total, self.cut.flops_before, took, self.setting.speed
        )


def _wait(x: Any) -> None:
    if isinstance(x, torch.Tensor) and x.is_cuda:
        torch.cuda.synchronize(x.device)
