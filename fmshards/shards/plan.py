"""`plan.json`: what every writer of a set agrees on before the first shard is written."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fmshards.codec import Codec
from fmshards.errors import FormatError, InputError
from fmshards.shards import limits
from fmshards.shards.jsonio import Fields, check_version, dumps, loads, plain
from fmshards.shards.layer import BASE, MIRROR, LayerPlan, Stream, check_name

FORMAT = "fmshards plan"
_FREE = ("identity", "options", "provenance", "recipe", "mirror")


@dataclass(frozen=True)
class InputShard:
    """One input shard: `name` names its shards in the set; the rest is what tells it from another input."""

    name: str
    url: str
    bytes: int | None
    samples: int | None
    digest: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "url": self.url,
            "bytes": self.bytes,
            "samples": self.samples,
            "digest": self.digest,
        }

    @staticmethod
    def from_json(value: Any, where: str) -> InputShard:
        fields = Fields(value, where)
        out = InputShard(
            name=check_name(fields.take("name"), f"{where}: name"),
            url=fields.text("url", 65_536, empty=True),
            bytes=fields.integer_or_none("bytes", 0, 1 << 62),
            samples=fields.integer_or_none("samples", 0, 1 << 48),
            digest=fields.text_or_none("digest", 256),
        )
        fields.done()
        return out


@dataclass(frozen=True)
class Plan:
    """The plan of a set; FORMAT.md says what each field means.

    `identity` decides refusal, `provenance` is recorded and never refused; both, `options`, `recipe` and `mirror`
    are JSON objects that this room carries and does not interpret. `members` are the stored streams of a chunk,
    `references` those of them, or mapped from them, that training may start from.
    """

    identity: dict[str, Any]
    options: dict[str, Any]
    provenance: dict[str, Any]
    inputs: tuple[InputShard, ...]
    chunk: int
    base_size: tuple[int, int]
    recipe: dict[str, Any]
    mirror: dict[str, Any]
    views: int
    references: tuple[str, ...]
    members: tuple[str, ...]
    layers: tuple[LayerPlan, ...]
    classes: tuple[str, ...] | None
    calibration: dict[str, str] | None

    def __post_init__(self) -> None:
        for name in _FREE:
            object.__setattr__(self, name, plain(getattr(self, name), f"plan: {name}"))

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the canonical JSON of everything but provenance: shards carry it."""
        return hashlib.sha256(dumps({k: v for k, v in self.to_json().items() if k != "provenance"})).hexdigest()

    def layer(self, name: str) -> LayerPlan:
        """The layer of that name. Raises InputError naming the nearest ones."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = [layer.name for layer in self.layers]
        near = difflib.get_close_matches(name, names, 3, 0.3) or names[:8]
        raise InputError(f"the set has no layer {name!r}; it has {', '.join(near)}")

    @property
    def mirrored(self) -> bool:
        """Whether training may start from the flipped image's feature."""
        return MIRROR in self.references

    @property
    def mirror_stored(self) -> bool:
        """Whether that feature is stored, or some channels of it, and not mapped from the base's alone."""
        return MIRROR in self.members

    def streams(self, layer: str) -> tuple[Stream, ...]:
        """What a chunk of a layer stores, in order. Made once for the plan."""
        if layer not in self._streams:
            self._streams[layer] = self.layer(layer).streams(self.mirrored, self.mirror_stored, self.views)
        return self._streams[layer]

    @cached_property
    def _streams(self) -> dict[str, tuple[Stream, ...]]:
        return {}

    def layer_members(self, name: str) -> dict[str, Codec]:
        """Members of a chunk of layer `name` in stored order: "base.zfp" -> the codec of its rows."""
        return {stream.member: stream.codec for stream in self.streams(name)}

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": limits.VERSION,
            "identity": self.identity,
            "options": self.options,
            "provenance": self.provenance,
            "inputs": [shard.to_json() for shard in self.inputs],
            "chunk": self.chunk,
            "base_size": list(self.base_size),
            "recipe": self.recipe,
            "mirror": self.mirror,
            "views": self.views,
            "references": list(self.references),
            "members": list(self.members),
            "layers": [layer.to_json() for layer in self.layers],
            "classes": None if self.classes is None else list(self.classes),
            "calibration": self.calibration,
        }

    def to_bytes(self) -> bytes:
        """Canonical JSON. Raises FormatError where this is no valid plan, so that none is ever written."""
        data = dumps(self.to_json())
        if len(data) > limits.PLAN_BYTES:
            raise FormatError(f"the plan would be {len(data)} bytes, the format allows {limits.PLAN_BYTES}")
        Plan.from_json(loads(data, "the plan"), "the plan")
        return data

    @staticmethod
    def from_bytes(data: bytes, where: str) -> Plan:
        """Parse and validate; `where` names the file in errors. Raises FormatError."""
        if len(data) > limits.PLAN_BYTES:
            raise FormatError(f"{where}: {len(data)} bytes, the format allows {limits.PLAN_BYTES}")
        return Plan.from_json(loads(data, where), where)

    @staticmethod
    def from_json(value: Any, where: str) -> Plan:
        fields = Fields(value, where)
        found = fields.take("format")
        if found != FORMAT:
            raise fields.bad("format", repr(FORMAT), found)
        check_version(fields.take("version"), where)
        inputs = fields.items("inputs", limits.SET_SHARDS)
        layers = fields.items("layers", limits.SET_LAYERS)
        plan = Plan(
            identity=fields.object("identity"),
            options=fields.object("options"),
            provenance=fields.object("provenance"),
            inputs=tuple(InputShard.from_json(v, f"{where}: inputs[{i}]") for i, v in enumerate(inputs)),
            chunk=fields.integer("chunk", 1, limits.CHUNK_SAMPLES),
            base_size=_size(fields),
            recipe=fields.object("recipe"),
            mirror=fields.object("mirror"),
            views=fields.integer("views", 0, limits.VIEWS),
            references=tuple(fields.items("references", 2)),
            members=tuple(fields.items("members", 2 + limits.VIEWS)),
            layers=tuple(LayerPlan.from_json(v, f"{where}: layers[{i}]") for i, v in enumerate(layers)),
            classes=_classes(fields),
            calibration=_calibration(fields),
        )
        fields.done()
        _check(plan, where)
        return plan


def _size(fields: Fields) -> tuple[int, int]:
    value = fields.items("base_size", 2)
    if len(value) != 2 or not all(type(v) is int and 1 <= v <= 1 << 20 for v in value):
        raise fields.bad("base_size", "[height, width] in pixels", value)
    return value[0], value[1]


def _classes(fields: Fields) -> tuple[str, ...] | None:
    value = fields.take("classes")
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(v, str) and len(v) <= 4096 for v in value):
        raise fields.bad("classes", "null or a list of names", value)
    return tuple(value)


def _calibration(fields: Fields) -> dict[str, str] | None:
    value = fields.object_or_none("calibration")
    if value is None:
        return None
    inner = Fields(value, f"{fields.where}: calibration")
    file, sha256 = inner.text("file", limits.NAME_LENGTH), inner.text("sha256", 64)
    inner.done()
    if not is_digest(sha256) or file != f"calibration-{sha256[:16]}.safetensors":
        raise FormatError(
            f"{inner.where}: expected calibration-<first 16 digits of its sha256>.safetensors, found {file!r}"
        )
    return {"file": file, "sha256": sha256}


def is_digest(value: Any) -> bool:
    """Whether `value` is a SHA-256 in lower-case hex."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _check(plan: Plan, where: str) -> None:
    for what, names in (
        ("inputs", [shard.name for shard in plan.inputs]),
        ("layers", [layer.name for layer in plan.layers]),
    ):
        if not names:
            raise FormatError(f"{where}: {what} is empty")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise FormatError(f"{where}: {what} name {twice[0]!r} twice")
    if plan.references not in ((BASE,), (BASE, MIRROR)):
        raise FormatError(f'{where}: references must be ["base"] or ["base","mirror"]')
    views = tuple(f"view{v}" for v in range(1, plan.views + 1))
    if plan.members not in ((BASE, *views), (BASE, MIRROR, *views)):
        raise FormatError(f"{where}: members must be base, mirror where it is stored, and view1 to view{plan.views}")
    if plan.mirror_stored and not plan.mirrored:
        raise FormatError(f"{where}: the mirror is stored but is not among the references")
    for layer in plan.layers:
        if layer.mirror_codec is not None and not plan.mirror_stored:
            raise FormatError(f"{where}: layer {layer.name}: a mirror_codec is there, but no mirror is stored")
        wanted = plan.views > 0 and bool(layer.sensitive)
        if (layer.view_codec is not None) != wanted:
            raise FormatError(
                f"{where}: layer {layer.name}: a view_codec is there exactly where views are stored and the layer "
                f"has sensitive channels; views {plan.views}, {len(layer.sensitive)} sensitive channels"
            )
        for member, codec in plan.layer_members(layer.name).items():
            if codec.member_bytes(plan.chunk)[1] > limits.MEMBER_BYTES:
                raise FormatError(
                    f"{where}: layer {layer.name}: {plan.chunk} rows of {codec.row_bytes} bytes exceed a tar "
                    f"member's {limits.MEMBER_BYTES} bytes ({member})"
                )
