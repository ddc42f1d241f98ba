"""Each cut measured on the sample: how features are judged, the smallest rate within the budget, the mirror, the worth.

Features of one cut at a time are held, within `memory`; the rest of the network runs in batches.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from fmshards.augment import Mirror, Recipe, parse_mirror
from fmshards.calibration import FeaturesOf
from fmshards.codec import ladders, row_bytes_at
from fmshards.errors import InputError
from fmshards.model import Cut
from fmshards.planning.estimate import photos_needed
from fmshards.planning.judge import Judge, Probe, TrainedSuffix, can_probe, labels_are_its_own
from fmshards.planning.measure import Answers, Outcome, Passage, Suffix, certainty, fitted, through
from fmshards.planning.moves import NONE, STORED, WAYS, Moves, Stage, Way, measure_moves
from fmshards.planning.photos import Photos
from fmshards.planning.search import Found, Trial, best, smallest
from fmshards.planning.worth import Seconds, Worth, worth

_LEAST_SPLIT = 64  # photos from which codecs are fitted to some of them and judged on the others
_FIT_EVERY = 6
_MIRROR_DROP = 0.02  # of a mirror beside the stored one: it only augments
_ASKED = 128  # photos by which the network is asked whether the labels are its classes
_ALL_LOST = "each answer that changes counts as lost"
_TOLD = 2.0  # standard errors between a drop and the budget


@dataclass(frozen=True)
class Budget:
    """drop: of accuracy, 0 to 1, None where bytes alone bound. bytes: a sample's, the mirror's with it, or None."""

    drop: float | None
    bytes: float | None


@dataclass(frozen=True)
class Halves:
    """A network cut in two, as it is run here. prefix: images [B, 3, H, W] on the device to features [B, *shape]."""

    prefix: Callable[[torch.Tensor], torch.Tensor]
    suffix: Suffix


@dataclass(frozen=True)
class Setting:
    """What a survey is to do. halves: a cut in two. prefix_of: all cuts in one pass, by name.

    suffix: one of `judge.SUFFIXES`. mirror: None where it is to be chosen. batch: photos in a forward of the prefix.
    speed: the trainer's samples/s, None: as measured. memory: bytes of features that are held.
    """

    photos: Photos
    halves: Callable[[Cut], Halves]
    prefix_of: Callable[[Sequence[Cut]], FeaturesOf]
    device: torch.device
    budget: Budget
    recipe: Recipe
    mirror: Mirror | None
    suffix: str = "auto"
    batch: int = 8
    speed: float | None = None
    filter: str | None = None
    order: str = "auto"
    seed: int = 0
    memory: int = 1 << 30


@dataclass(frozen=True)
class Judged:
    """How features are judged. by: "suffix", the rest of the network, or "probe". why: in a sentence. own: whether the
    labels are the network's classes. logits: whether the network gives any. factor: by which these become
    probabilities that hold, None where nothing tells."""

    by: str
    why: str
    own: bool
    logits: bool
    factor: float | None = None


@dataclass(frozen=True)
class CutReport:
    """What a survey has found of a cut. photos: that it was judged on. told: whether the sample tells the drop apart
    from the budget; needed: how many photos would, where it does not."""

    cut: Cut
    photos: int
    found: Found
    moves: Moves | None
    mirror: str
    worth: Worth | None
    told: bool
    needed: int | None

    @property
    def chosen(self) -> Trial | None:
        """The rate within the budget."""
        return self.found.chosen

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        moves = self.moves
        return {
            "cut": self.cut.name,
            "shape": list(self.cut.shape),
            "flops_before": self.cut.flops_before,
            "flops_after": self.cut.flops_after,
            "photos": self.photos,
            "chosen": self.chosen and self.chosen.rate,
            "mirror": self.mirror,
            "told": self.told,
            "photos_needed": self.needed,
            "worth": self.worth and self.worth.to_json(),
            "trials": [trial.to_json() for trial in self.found.trials],
            "flips": moves and {way: moved.to_json() for way, moved in moves.flips.items()},
            "moves": moves and [moved.to_json() for moved in moves.others],
        }


def survey(
    setting: Setting, cuts: Sequence[Cut], stage: Stage, rates_only: bool = False
) -> tuple[Judged, list[CutReport]]:
    """Measure each of `cuts`. rates_only: nothing is moved, for who has decided on recipe and mirror.

    Deterministic for a seed, but for seconds. Raises InputError where nothing can judge features, and what codecs
    raise for values that they cannot hold.
    """
    judged = _how(setting, cuts[-1])
    moves: Mapping[str, Moves] = {}
    if setting.recipe and not rates_only and setting.recipe.custom_text is None:
        suffixes = {cut.name: setting.halves(cut).suffix if judged.logits else None for cut in cuts}
        specs = {cut.name: cut.spec for cut in cuts}
        run = setting.prefix_of(cuts)
        moves = measure_moves(
            setting.photos, run, suffixes, specs, setting.recipe, setting.device, setting.seed, stage, judged.factor
        )
    return judged, [_Survey(setting, cut, judged, stage).report(moves.get(cut.name)) for cut in cuts]


def _how(setting: Setting, cut: Cut) -> Judged:
    """How features are judged, found out at the deepest cut, where features are small."""
    photos, labels, n = setting.photos, setting.photos.labels, min(len(setting.photos), _ASKED)
    halves = setting.halves(cut)
    parts: list[Answers] = []
    logits = True
    with torch.no_grad():
        for start in range(0, n, setting.batch):
            x = photos.base(range(start, min(start + setting.batch, n))).to(setting.device)
            found: Any = halves.suffix(halves.prefix(x))
            logits = isinstance(found, torch.Tensor) and found.dim() == 2 and found.shape[1] > 1
            if not logits or labels is None:
                break
            parts.append(Answers.of(found))
    before = Answers.joined(parts) if parts and logits else None
    own = before is not None and labels is not None and labels_are_its_own(before, labels[:n])
    if setting.suffix == "trained" and not logits:
        raise InputError("suffix is 'trained', but the network gives no logits [photos, classes] that could be judged")
    if setting.suffix == "fresh" and not can_probe(labels):
        raise InputError("suffix is 'fresh', but the sample has too few labels for a probe: 16 photos of two classes")
    if setting.suffix == "trained" or (setting.suffix == "auto" and own):
        right = "" if before is None or labels is None else f" ({_share(before, labels[:n])} of {n} right)"
        said = "as was said" if setting.suffix == "trained" else "the labels are its classes"
        if own and before is not None and labels is not None:
            factor = certainty(before, labels[:n])
            return Judged("suffix", f"judged by the network's own rest: {said}{right}", True, True, factor)
        return Judged("suffix", f"judged by the network's own rest: {said}{right}; {_ALL_LOST}", False, True)
    if can_probe(labels):
        said = (
            "the rest is to be trained anew, as was said"
            if setting.suffix == "fresh"
            else "the labels are not its classes"
        )
        return Judged("probe", f"judged by a linear probe on pooled features, as a stand-in: {said}", False, logits)
    if logits:
        return Judged("suffix", f"judged by the network's own rest: no labels are there; {_ALL_LOST}", False, True)
    raise InputError(
        "nothing can judge features here: the network gives no logits [photos, classes], and the sample has no labels "
        "of two classes; give labels (a field cls, class folders), or choose rates by hand"
    )


def _share(before: Answers, labels: torch.Tensor) -> str:
    return f"{float((before.top == labels).float().mean()):.0%}"


class _Survey:
    """One cut."""

    def __init__(self, setting: Setting, cut: Cut, judged: Judged, stage: Stage) -> None:
        self.setting, self.cut, self.judged, self.stage = setting, cut, judged, stage
        self.halves = setting.halves(cut)
        self.prefix_seconds: list[float] = []
        self.suffix_seconds: list[float] = []
        n = min(len(setting.photos), max(1, setting.memory // (4 * cut.spec.values)))
        features = self._features(n)
        some = n >= _LEAST_SPLIT
        fit = [i for i in range(n) if not some or i % _FIT_EVERY == 0]
        judge = [i for i in range(n) if not some or i % _FIT_EVERY]
        self.fit, self.features = features[fit], features[judge]
        del features
        labels = setting.photos.labels
        self.labels = None if labels is None else labels[judge]
        self.judge = self._judge()
        self.tried = 0

    @torch.no_grad()
    def _features(self, n: int) -> torch.Tensor:
        setting = self.setting
        out = torch.empty((n, *self.cut.spec.shape))
        for start in range(0, n, setting.batch):
            chosen = range(start, min(start + setting.batch, n))
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
        most = None if setting.budget.bytes is None else setting.budget.bytes / (1 + way.stored)
        steps = {
            name: [rate for rate in rates if most is None or self._bytes(rate) <= most]
            for name, rates in ladders().items()
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
            mirror=way.text if setting.recipe.flips else "none",
            worth=None if chosen is None else self._worth(chosen, way, moves),
            told=told,
            needed=needed,
        )

    def _mirror(self, moves: Moves | None) -> Way:
        """The way of the fewest bytes that stays within 2 points of the stored mirror; or what was asked for."""
        if not self.setting.recipe.flips:
            return NONE
        if self.setting.mirror is not None:
            asked = str(self.setting.mirror)
            return next((way for way in (STORED, *WAYS) if way.text == asked), replace(STORED, text=asked))
        for way in sorted(filter(_can_be_made, WAYS), key=lambda way: way.stored):
            moved = moves.flips.get(way.text) if moves is not None else None
            if moved is not None and moved.outcome is not None and moved.outcome.drop.value <= _MIRROR_DROP:
                return way
        return STORED

    def _bytes(self, rate: str) -> float:
        """Bytes of a row; of what the filter makes of it, by a few."""
        if self.setting.filter is None:
            return row_bytes_at(rate, self.cut.spec)
        codec = fitted(rate, self.cut.spec, self.fit, self.setting.order, self.setting.filter)
        few = self.features[:16]
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

    def _worth(self, chosen: Trial, way: Way, moves: Moves | None) -> Worth:
        moved = moves.flips.get(way.text) if moves is not None and way.kernel else None
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
            chosen.bytes, way.stored, photos.bytes, photos.total, self.cut.flops_before, took, self.setting.speed
        )


def _can_be_made(way: Way) -> bool:
    """Whether a set can have this mirror: more ways are measured than are made."""
    try:
        parse_mirror(way.text)
    except InputError:
        return False
    return True


def _wait(x: Any) -> None:
    if isinstance(x, torch.Tensor) and x.is_cuda:
        torch.cuda.synchronize(x.device)
