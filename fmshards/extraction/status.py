"""How far a set is: what is there, what is being made and by whom, what is missing. Nothing is opened but the plan."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fmshards import store
from fmshards.extraction.claims import LEASE, Claim, claims_of
from fmshards.shards import MANIFEST, PLAN, is_whole, layer_url, read_manifest, read_plan, set_url


@dataclass(frozen=True)
class Status:
    """Of the set at `url`. inputs: input shards, of each of which every layer has a shard; 0 while a part calibrates
    and claims the plan. done: how many have all.

    running: claims on what is not done that were renewed within a lease, by their holders' clocks. stale: others, most
    likely of processes that are no more. missing: names of input shards that are neither done nor claimed. whole: the
    manifest is there, and every shard that it names, in its size.
    """

    url: str
    inputs: int
    done: int
    running: tuple[Claim, ...]
    stale: tuple[Claim, ...]
    missing: tuple[str, ...]
    whole: bool


def status(url: str) -> Status:
    """How far the set at `url` is: a listing of each layer's folder and of the set's, and what its claims say.

    Raises FormatError where there is none yet, StoreError where it cannot be read.
    """
    url = set_url(url)
    manifest = read_manifest(url) if store.exists(store.join(url, MANIFEST)) else None
    claims = claims_of(url)
    if claims and manifest is None and not store.exists(store.join(url, PLAN)):  # a part calibrates
        inputs, left = 0, [PLAN]
    else:
        plan = read_plan(url) if manifest is None else manifest.plan
        there = [set(store.list_names(layer_url(url, layer.name))) for layer in plan.layers]
        left = [shard.name for shard in plan.inputs if not all(f"{shard.name}.tar" in names for names in there)]
        inputs = len(plan.inputs)
    claimed = {claim.name: claim for claim in claims if claim.name in left}  # what is done is about to be given back
    running = tuple(claim for claim in claimed.values() if _renewed(claim))
    return Status(
        url=url,
        inputs=inputs,
        done=max(0, inputs - len(left)),
        running=running,
        stale=tuple(claim for claim in claimed.values() if claim not in running),
        missing=tuple(name for name in left if name not in claimed),
        whole=manifest is not None and is_whole(url, manifest),
    )


def _renewed(claim: Claim) -> bool:
    return not claim.gone and abs(time.time() - claim.at) <= LEASE
