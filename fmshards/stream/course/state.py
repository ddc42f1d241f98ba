"""The state of a stream: what `state_dict` says, and what the next iteration makes of it.

A state is small JSON: which set, seed and epoch, and the epoch's deals, each [B, G, K, M, t]: t batches of it were
handed to the trainer. With the set's sizes that is all that the rest of the epoch follows from (`order/`). Of an
evaluation it is the number of samples that were shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fmshards.errors import InputError, MismatchError
from fmshards.stream.arguments import whole
from fmshards.stream.course.epoch import MOST_DEALS, Numbers, Position
from fmshards.stream.order.deal import Deal, Job, Leg, choose_deal, memory_needed, workers_of

_KIND = "fmshards stream"
_VERSION = 1

_MOST = 1 << 40
_MOST_LANES = 1 << 24
"""More than any deal has of samples or chunks, and of lanes, over which there is a loop."""

Shape = tuple[int | None, ...]
"""G, K, M where they are given."""


@dataclass(frozen=True)
class Subject:
    """What a state is a state of: it means nothing for another."""

    set: str
    """Digest of the set's plan."""
    samples: int
    chunk: int
    train: bool
    seed: int


def state_of(subject: Subject, position: Position) -> dict[str, Any]:
    """The state, plain data that JSON keeps."""
    state: dict[str, Any] = {
        "kind": _KIND,
        "version": _VERSION,
        "set": subject.set,
        "samples": subject.samples,
        "train": subject.train,
    }
    if not subject.train:
        return {**state, "rows": position.rows}
    return {**state, "seed": subject.seed, "epoch": position.epoch, "deals": [list(deal) for deal in position.deals]}


def position_of(state: Any, subject: Subject) -> Position:
    """What a state says. Raises InputError for what is no state of ours, MismatchError for one of another set, mode or
    seed, naming what differs."""
    if not isinstance(state, Mapping) or state.get("kind") != _KIND:
        raise InputError(f"expected what state_dict gave, found {_shown(state)}")
    if state.get("version") != _VERSION:
        raise InputError(
            f"this state has version {_shown(state.get('version'))}, and this fmshards reads version {_VERSION}: "
            "resume with the fmshards that wrote it"
        )
    names = ["set", "samples", "train", *(["seed"] if subject.train else [])]
    ours = {"set": subject.set, "samples": subject.samples, "train": subject.train, "seed": subject.seed}
    other = [
        f"{name}: {ours[name]!r} here, {_shown(state.get(name))} in the state"
        for name in names
        if type(state.get(name)) is not type(ours[name]) or state[name] != ours[name]
    ]
    if other:
        raise MismatchError(
            f"the state is of another stream ({'; '.join(other)}): resume with the set and the seed that it was of, or "
            "begin the epoch anew"
        )
    if not subject.train:
        rows = whole("rows of the state", state.get("rows"), 0)
        if rows > subject.samples:
            raise InputError(f"the state has rows={rows} of the set's {subject.samples} samples: it was changed")
        return Position(0, rows=rows)
    epoch = whole("epoch of the state", state.get("epoch"), 0)
    position = Position(epoch, _deals(state.get("deals")))
    legs_of(position, subject)
    return position


def legs_of(position: Position, subject: Subject) -> tuple[Leg, ...]:
    """The epoch so far. Raises InputError where no epoch of the set can have gone so."""
    legs: list[Leg] = []
    left = subject.samples
    for batch, groups, lanes, window, done in position.deals:
        leg = Leg(Deal(left, subject.chunk, batch, groups, lanes, window), done)
        if batch % lanes or done > leg.deal.batches or (legs and not legs[-1].done):
            raise InputError(
                f"the state's deal number {len(legs)}, {[batch, groups, lanes, window, done]} (B, G, K, M, t), cannot "
                f"be one of the {left} samples that were left: it was changed"
            )
        legs.append(leg)
        left = leg.left
    return tuple(legs)


def go_on(legs: tuple[Leg, ...], job: Job, shape: Shape) -> tuple[Leg, ...]:
    """The legs with which an iteration of `job` goes on where `legs` have come to; the last is the one to be made.

    The last deal is continued where the job's batch is its own, the ranks divide its lanes and the workers its groups,
    the memory holds it, and it is of the shape that is given: the batches are then those that would have come. Else
    what is left is dealt anew; a deal of which nothing was shown is forgotten. Raises InputError as choose_deal.
    """
    past = legs if not legs or legs[-1].done else legs[:-1]
    if legs and _continues(legs[-1].deal, _job_of_rest(legs[:-1], job), shape):
        return legs
    if not past:
        return (Leg(choose_deal(job, *shape)),)
    left = past[-1].left
    if left < job.batch:
        return (*past, Leg(Deal(left, job.chunk, job.batch, workers_of(job), job.ranks, 1)))
    if len(past) >= MOST_DEALS:
        raise InputError(
            f"this epoch has been dealt anew {MOST_DEALS - 1} times, with other numbers of ranks, workers or samples "
            "of a batch, which is the most: resume with those of the last one, or begin the next epoch"
        )
    return (*past, Leg(choose_deal(_job_of_rest(past, job), *shape)))


def position_after(epoch: int, legs: tuple[Leg, ...], batches: int) -> Position:
    """Where an epoch is, `batches` batches after it went on with `legs`. Raises InputError where it has not so many."""
    *past, last = legs
    if batches > last.deal.batches - last.done:
        raise InputError(
            f"batches={batches}: the iteration that began last has {last.deal.batches - last.done} batches"
        )
    return Position(epoch, tuple(map(_numbers, [*past, replace(last, done=last.done + batches)])))


def _continues(deal: Deal, job: Job, shape: Shape) -> bool:
    agrees = all(given is None or given == own for given, own in zip(shape, _shape(deal), strict=True))
    divides = deal.batch == job.batch and not deal.lanes % job.ranks and not deal.groups % workers_of(job)
    return agrees and divides and memory_needed(deal, job) <= job.memory


def _job_of_rest(past: tuple[Leg, ...], job: Job) -> Job:
    """The job of what `past` left: the order still has a run for each chunk, and one for each piece of them."""
    if not past:
        return job
    chunks = -(-past[-1].left // job.chunk)
    pieces = sum(leg.pieces for leg in past)
    return replace(job, samples=past[-1].left, chunks=chunks, runs=max(0, job.chunks - chunks) + pieces)


def _shape(deal: Deal) -> tuple[int, int, int]:
    return deal.groups, deal.lanes, deal.window


def _numbers(leg: Leg) -> Numbers:
    return leg.deal.batch, leg.deal.groups, leg.deal.lanes, leg.deal.window, leg.done


def _deals(value: Any) -> tuple[Numbers, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > MOST_DEALS:
        raise InputError(f"the state's deals are a list of at most {MOST_DEALS}, found {_shown(value)}")
    deals = []
    for number, deal in enumerate(value):
        if not isinstance(deal, (list, tuple)) or len(deal) != 5:
            raise InputError(f"deal {number} of the state is [B, G, K, M, t], found {_shown(deal)}")
        what = f"deal {number} of the state"
        b, g, k, m = (whole(what, each, 1) for each in deal[:4])
        if max(b, m) > _MOST or g * k > _MOST_LANES:
            raise InputError(f"{what}, {[b, g, k, m, deal[4]]} (B, G, K, M, t), has numbers that no deal has")
        deals.append((b, g, k, m, whole(what, deal[4], 0)))
    return tuple(deals)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, int, float, list, tuple, dict, type(None))) else type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."
