"""`manifest.json`: the plan, every shard and the measured errors. Written last: its presence says the set is whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fmshards.codec import codec_from_config
from fmshards.errors import FormatError
from fmshards.shards import limits
from fmshards.shards.fields import Kinds
from fmshards.shards.jsonio import Fields, check_version, dumps, loads
from fmshards.shards.layer import check_name
from fmshards.shards.plan import Plan, is_digest

FORMAT = "fmshards manifest"


def chunk_sizes(samples: int, chunk: int) -> list[int]:
    """Samples in each chunk of a shard: `chunk` in all but the last, which has the rest."""
    return [min(chunk, samples - start) for start in range(0, samples, chunk)]


@dataclass(frozen=True)
class ShardEntry:
    """One shard of one layer: `name` ("000000.tar"), its size, where its index lies in it, and a SHA-256.

    `index_sha256` is that of the index, which holds that of all before it; of a set from before there was one,
    `sha256` is that of the whole file. The other is None.

    `samples_digest` is a SHA-256 of its keys, fields and thetas, the same in every layer, `kinds` what its samples have
    in common with all of the set; known to who wrote the shard or read it whole, and not part of the manifest.
    """

    name: str
    samples: int
    bytes: int
    index_offset: int
    index_length: int
    index_sha256: str | None = None
    sha256: str | None = None
    samples_digest: str | None = field(default=None, compare=False)
    kinds: Kinds | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        digests = {"index_sha256": self.index_sha256, "sha256": self.sha256}
        return {
            "name": self.name,
            "samples": self.samples,
            "bytes": self.bytes,
            "index_offset": self.index_offset,
            "index_length": self.index_length,
            **{name: digest for name, digest in digests.items() if digest is not None},
        }

    @staticmethod
    def from_json(value: Any, where: str) -> ShardEntry:
        fields = Fields(value, where)
        out = ShardEntry(
            name=check_name(fields.take("name"), f"{where}: name"),
            samples=fields.integer("samples", 0, limits.CHUNK_SAMPLES * limits.SHARD_CHUNKS),
            bytes=fields.integer("bytes", 0, limits.SHARD_BYTES),
            index_offset=fields.integer("index_offset", 0, limits.SHARD_BYTES),
            index_length=fields.integer("index_length", 0, limits.INDEX_BYTES),
            index_sha256=fields.optional("index_sha256"),
            sha256=fields.optional("sha256"),
        )
        fields.done()
        if (out.index_sha256 is None) == (out.sha256 is None):
            raise FormatError(f"{where}: expected index_sha256, or sha256 in its place")
        for name, digest in (("index_sha256", out.index_sha256), ("sha256", out.sha256)):
            if digest is not None and not is_digest(digest):
                raise fields.bad(name, "64 hexadecimal digits", digest)
        if out.index_offset + out.index_length + 1024 > out.bytes:
            raise FormatError(f"{where}: the index at {out.index_offset} does not lie within {out.bytes} bytes")
        return out


@dataclass(frozen=True)
class Manifest:
    """`shards[layer]` in the order of `plan.inputs`; `errors[layer]` as `layer_error` gives it."""

    plan: Plan
    shards: dict[str, tuple[ShardEntry, ...]]
    errors: dict[str, dict[str, Any]]
    samples: int

    def to_json(self) -> dict[str, Any]:
        layers = {}
        for layer in self.plan.layers:
            layers[layer.name] = {
                "shards": [entry.to_json() for entry in self.shards.get(layer.name, ())],
                "error": self.errors.get(layer.name),
                "rate": codec_from_config(layer.codec).rate,
            }
        return {
            "format": FORMAT,
            "version": limits.VERSION,
            "plan": self.plan.to_json(),
            "plan_digest": self.plan.digest,
            "samples": self.samples,
            "layers": layers,
        }

    def to_bytes(self) -> bytes:
        """Canonical JSON. Raises FormatError where this is no valid manifest, so that none is ever written."""
        data = dumps(self.to_json())
        Manifest.from_bytes(data, "the manifest")
        return data

    @staticmethod
    def from_bytes(data: bytes, where: str) -> Manifest:
        """Parse and validate, layers against each other and against the inputs. Raises FormatError."""
        if len(data) > limits.MANIFEST_BYTES:
            raise FormatError(f"{where}: {len(data)} bytes, the format allows {limits.MANIFEST_BYTES}")
        fields = Fields(loads(data, where), where)
        found = fields.take("format")
        if found != FORMAT:
            raise fields.bad("format", repr(FORMAT), found)
        check_version(fields.take("version"), where)
        plan = Plan.from_json(fields.take("plan"), f"{where}: plan")
        digest = fields.text("plan_digest", 64)
        samples = fields.integer("samples", 0, 1 << 48)
        layers = Fields(fields.object("layers"), f"{where}: layers")
        fields.done()
        if digest != plan.digest:
            raise FormatError(f"{where}: plan_digest is not the digest of the plan beside it; the file was edited")
        shards: dict[str, tuple[ShardEntry, ...]] = {}
        errors: dict[str, dict[str, Any]] = {}
        for layer in plan.layers:
            inner = Fields(layers.object(layer.name), f"{where}: layers: {layer.name}")
            entries = inner.items("shards", limits.SET_SHARDS)
            error = inner.object_or_none("error")
            codec = codec_from_config(layer.codec)
            rate = inner.number("rate", 0.0)
            inner.done()
            if abs(rate - codec.rate) > 1e-9 * codec.rate:
                raise FormatError(f"{inner.where}: a rate of {rate}, the plan's codec has {codec.rate}")
            shards[layer.name] = tuple(
                ShardEntry.from_json(v, f"{inner.where}: shards[{i}]") for i, v in enumerate(entries)
            )
            if error is not None:
                errors[layer.name] = _error(error, codec.spec.channels, f"{inner.where}: error")
        layers.done()
        manifest = Manifest(plan, shards, errors, samples)
        _check(manifest, where)
        return manifest


def _error(value: dict[str, Any], channels: int, where: str) -> dict[str, Any]:
    fields = Fields(value, where)
    out = {
        "db": fields.number_or_none("db"),
        "worst_channel_db": fields.number_or_none("worst_channel_db"),
        "worst_channel": fields.integer("worst_channel", 0, channels - 1),
        "samples": fields.integer("samples", 0, 1 << 48),
    }
    fields.done()
    return out


def _check(manifest: Manifest, where: str) -> None:
    inputs = manifest.plan.inputs
    for name, entries in manifest.shards.items():
        if len(entries) != len(inputs):
            raise FormatError(f"{where}: layer {name} has {len(entries)} shards, the plan {len(inputs)} input shards")
        for source, entry, first in zip(inputs, entries, manifest.shards[manifest.plan.layers[0].name], strict=True):
            if entry.name != f"{source.name}.tar":
                raise FormatError(f"{where}: layer {name}: expected shard {source.name}.tar, found {entry.name}")
            if source.samples is not None and entry.samples != source.samples:
                raise FormatError(
                    f"{where}: layer {name}: {entry.name} has {entry.samples} samples, its input {source.samples}"
                )
            if entry.samples != first.samples:
                raise FormatError(
                    f"{where}: {entry.name} has {entry.samples} samples in layer {name}, {first.samples} in layer "
                    f"{manifest.plan.layers[0].name}"
                )
        if sum(entry.samples for entry in entries) != manifest.samples:
            raise FormatError(f"{where}: layer {name}'s shards do not add up to {manifest.samples} samples")


def layer_error(stats: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Relative squared error over shards, from the error sums in their indices; None where no shard has any.

    dB = 10 log10(sum of squared error / sum of squares), over everything and for the worst channel; None stands
    for an error of exactly zero. A channel of zeros that decodes to zeros counts as exact.
    """
    known = [s for s in stats if s is not None]
    if not known:
        return None
    channels = len(known[0]["error"])
    if any(len(s["error"]) != channels or len(s["energy"]) != channels for s in known):
        raise FormatError("the shards' indices hold error sums of different numbers of channels")
    error = [math.fsum(s["error"][c] for s in known) for c in range(channels)]
    energy = [math.fsum(s["energy"][c] for s in known) for c in range(channels)]
    each = [decibel(e, s) for e, s in zip(error, energy, strict=True)]
    worst = max(range(channels), key=lambda c: -math.inf if each[c] is None else float(each[c] or 0.0), default=0)
    return {
        "db": decibel(math.fsum(error), math.fsum(energy)),
        "worst_channel_db": each[worst] if each else None,
        "worst_channel": worst,
        "samples": sum(s["samples"] for s in known),
    }


def decibel(error: float, energy: float) -> float | None:
    """10 log10(error / energy) to six decimals, alike on all machines; None where the error is zero."""
    return None if error <= 0.0 else round(10.0 * (math.log10(error) - math.log10(max(energy, 1e-300))), 6)
