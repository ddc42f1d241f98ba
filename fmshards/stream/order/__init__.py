"""Streaming order: pure functions of (legs, chunk sizes, seed, epoch), with no state but a batch number.

B is the whole job's batch, n the chunk length. T = N // B batches are made; the fewer than B rows left over are
dropped, other ones each epoch. There are G x K lanes: group g makes batches g, g + G, ... and each of its K lanes
gives B / K rows to each of them. The chunks, permuted for the epoch and laid end to end, are cut at the lanes'
lengths. Inside a lane the rows are sorted by position + U(0, M * n): a sliding window of M chunks with no bursts.

Batch t is therefore the same whatever the number of ranks R (R divides K: a rank takes K / R lanes of each group)
and of workers W (W divides G: worker w of a rank makes batches start + w, start + w + W, ...), and resuming at it is
arithmetic. With other ranks, workers or batches what the deal has left, in its order, is dealt anew: an epoch has as
many legs as it had deals.

An epoch is never laid out whole. No row is further than M * n positions from its turn, so each lane is drawn and
sorted piece by piece as its batches are made (lane.py); all that grows with the set is the permutation of its chunks
(runs.py).

batches.py   training and evaluation: batches, and the fetches that they need, a stretch at a time
deal.py      what a deal is; choosing one (G, K, M) and stating its memory
runs.py      the rows that are dealt, end to end, of which lanes are cut
lane.py      one lane, from any row on
draws.py     the order's random numbers
"""

from __future__ import annotations

from fmshards.stream.order.batches import (
    Combinations,
    Part,
    Stretch,
    evaluation,
    evaluation_places,
    left_over,
    training,
)
from fmshards.stream.order.deal import Deal, Job, Leg

__all__ = [
    "Combinations",
    "Deal",
    "Job",
    "Leg",
    "Part",
    "Stretch",
    "evaluation",
    "evaluation_places",
    "left_over",
    "training",
]
