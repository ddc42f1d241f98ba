"""Some stored samples computed again: what says whether a set is of this input where nothing else can."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import torch

from fmshards.codec import Codec
from fmshards.extraction.batches import Batch, RawBatch
from fmshards.extraction.decode import Decoder
from fmshards.extraction.forward import Forward
from fmshards.shards import BASE, Plan, ShardIndex, field_value, layer_url, read_chunk

SAMPLES = 8

# Between two computations of one feature: what another batch, thread count or device does to float32, by far; and
# what the other rounding may do to a code on the edge of a block's exponent.
_FLOAT_NOISE, _HALF_NOISE = 1e-6, 1e-3
_CODE_NOISE = 2.0

Shards = Mapping[int, Mapping[str, ShardIndex]]
"""Input shard -> layer -> the index of its shard, of those that are looked at."""


def sample_differences(url: str, plan: Plan, shards: Shards, decoder: Decoder, forward: Forward) -> list[str]:
    """How up to 8 samples of a set, spread evenly over `shards`, differ from what they are when made again.

    Key, fields, thetas and the features of every stream of each layer, these to within the codec's error and float
    noise; one line a difference. Raises InputError where the input cannot be read or lacks a sample.
    """
    lines: list[str] = []
    for shard, row in _places(shards):
        with closing(decoder.source.items(shard)) as items:
            item = next(islice(items, row, None), None)
        if item is None:
            lines.append(f"inputs {plan.inputs[shard].name}: has no sample {row} any more")
            continue
        batch = decoder(RawBatch(shard, [item], last=False))
        features = forward(batch)
        for layer, index in shards[shard].items():
            where = f"layer {layer}, sample {row} of shard {plan.inputs[shard].name}"
            lines += _differences(url, plan, layer, index, shard, row, batch, features[layer], where)
    return lines


def feature_difference(codec: Codec, x: torch.Tensor, stored: torch.Tensor, precision: str) -> str | None:
    """How a stored feature [1, *shape] differs from `x`, computed again; None where the codec and floats explain it."""
    x, stored = x.double(), stored.double()
    energy = float(x.square().sum())
    own = float((codec.decode(codec.encode(x.float())).double() - x).square().sum())
    noise = _FLOAT_NOISE if precision == "float32" else _HALF_NOISE
    found = float((stored - x).square().sum())
    allowed = _CODE_NOISE * own + noise * energy
    if found <= allowed:
        return None
    return (
        f"computed again it differs by {found / max(energy, 1e-30):.2e} of its squared norm, the codec and float error "
        f"explain {allowed / max(energy, 1e-30):.2e}"
    )


def _places(shards: Shards) -> Iterator[tuple[int, int]]:
    """(input shard, row) of up to 8 samples, evenly over what the shards hold."""
    counts = {shard: next(iter(layers.values())).samples for shard, layers in shards.items() if layers}
    total = sum(counts.values())
    wanted = min(SAMPLES, total)
    for i in range(wanted):
        row = (2 * i + 1) * total // (2 * wanted)
        for shard, count in counts.items():
            if row < count:
                yield shard, row
                break
            row -= count


def _differences(
    url: str,
    plan: Plan,
    layer: str,
    index: ShardIndex,
    shard: int,
    row: int,
    batch: Batch,
    features: Mapping[str, torch.Tensor],
    where: str,
) -> Iterator[str]:
    at, row = divmod(row, plan.chunk)
    streams = [stream for stream in plan.streams(layer) if stream.name in features]
    place = layer_url(url, layer, f"{plan.inputs[shard].name}.tar")
    chunk = read_chunk(place, index, at, [stream.member for stream in streams])
    key = batch.keys[0]
    if chunk.keys[row] != key:
        yield f"{where}: its key is {chunk.keys[row]!r}, the input's {key!r}"
        return
    stored = {name: column[row] for name, column in chunk.fields.items()}
    here = {name: field_value(value, name) for name, value in batch.fields[0].items()}
    for name in sorted(stored.keys() | here.keys()):
        if name not in stored or name not in here or not _equal(stored[name], here[name]):
            held, given = (repr(v.get(name, "nothing"))[:60] for v in (stored, here))
            yield f"{where} ({key!r}): the field {name!r} is {held}, the input's {given}"
    if batch.theta is not None and (chunk.theta is None or not np.array_equal(chunk.theta[row], batch.theta[0])):
        yield f"{where} ({key!r}): its views are moved otherwise"
    for stream in streams:
        rows = stream.codec.rows(chunk.members[stream.member], chunk.n)[row : row + 1]
        x = features[stream.name].to("cpu", torch.float32).contiguous()
        found = feature_difference(stream.codec, x, stream.codec.decode(rows), plan.identity["dtype"])
        if found is not None:
            name = "" if stream.name == BASE else f", {stream.name}"
            yield f"{where} ({key!r}){name}: {found}"


def _equal(a: Any, b: Any) -> bool:
    """Equality of plain values; NaN is itself, True is not 1."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return bool(a == b)
