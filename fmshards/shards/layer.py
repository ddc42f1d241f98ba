"""What the plan says of one layer: its cut, codecs and what calibration measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fmshards.codec import Codec, FeatureSpec, codec_from_config
from fmshards.errors import FormatError
from fmshards.shards.jsonio import Fields, plain, show
from fmshards.shards.limits import NAME_LENGTH

_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.\-]{{0,{NAME_LENGTH - 1}}}")
_RESERVED = {"plan.json", "manifest.json", "__fmshards__"}


def check_name(name: Any, what: str) -> str:
    """`name` if it can be one piece of a path and a URL as it stands. Raises FormatError."""
    if isinstance(name, str) and _NAME.fullmatch(name) and ".." not in name and name not in _RESERVED:
        return name
    raise FormatError(
        f"{what} must be 1 to {NAME_LENGTH} letters, digits, '_', '-' or '.' (no '..', not first '.' or '-'), "
        f"found {show(name)}"
    )


BASE, MIRROR = "base", "mirror"
"""The references: the feature of the image as it is, and of the flipped image."""


@dataclass(frozen=True)
class Stream:
    """The rows of one layer of one thing that chunks store: a reference (`view` 0), or view `view` of it.

    name: "base", "mirror", "view1" ...; reference: BASE or MIRROR. codec: of its rows. channels: those of the feature
    that it holds; None: the whole feature.
    """

    name: str
    reference: str
    view: int
    codec: Codec
    channels: tuple[int, ...] | None = None

    @property
    def member(self) -> str:
        """What the stream is called in a chunk: "base.zfp"."""
        return f"{self.name}.{self.codec.extension}"


@dataclass(frozen=True)
class Grid:
    """Where a feature's cells lie: cell i of an axis is at pixel `stride * i + offset` of the base image; (y, x)."""

    stride: tuple[float, float]
    offset: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        return {"stride": [float(v) for v in self.stride], "offset": [float(v) for v in self.offset]}

    @staticmethod
    def from_json(value: Any, where: str) -> Grid:
        fields = Fields(value, where)
        stride = fields.numbers("stride", 1e-6, 1e6)
        offset = fields.numbers("offset", -1e6, 1e6)
        fields.done()
        if len(stride) != 2 or len(offset) != 2:
            raise FormatError(f"{where}: stride and offset must be two numbers each, for y and x")
        return Grid((stride[0], stride[1]), (offset[0], offset[1]))


@dataclass(frozen=True)
class Similarity:
    """How alike the moved feature and the feature of the moved image are: one cosine, one relative error a channel."""

    cosine: tuple[float, ...]
    error: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return {"cosine": [float(v) for v in self.cosine], "error": [float(v) for v in self.error]}

    @staticmethod
    def from_json(value: Any, where: str) -> Similarity:
        fields = Fields(value, where)
        out = Similarity(fields.numbers("cosine", -1.001, 1.001), fields.numbers("error", 0.0))
        fields.done()
        return out


@dataclass(frozen=True)
class LayerPlan:
    """One layer of a set. `codec` and `view_codec` are codec configs; `flops` counts the prefix for one sample.

    `mirror_error` is the relative squared error of a mirror that is mapped or stored in part, on held-out samples, in
    dB; None where it is simply stored, or there is none. Of a mirror that is stored in part `mirror_channels` are the
    stored ones and `mirror_codec` the config of their rows; () and None where it is stored as the base is, or not.
    """

    name: str
    cut: str
    codec: dict[str, Any]
    view_codec: dict[str, Any] | None
    sensitive: tuple[int, ...]
    similarity: Similarity | None
    grid: Grid | None
    flops: int
    dtype: str
    nonnegative: bool
    mirror_error: float | None
    mirror_channels: tuple[int, ...] = ()
    mirror_codec: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        # As they will be read back: a plan that was written equals the plan in memory.
        object.__setattr__(self, "codec", plain(self.codec, f"layer {self.name}: codec"))
        object.__setattr__(self, "view_codec", plain(self.view_codec, f"layer {self.name}: view_codec"))
        object.__setattr__(self, "mirror_codec", plain(self.mirror_codec, f"layer {self.name}: mirror_codec"))

    @cached_property
    def base_codec(self) -> Codec:
        """The codec of the references' rows."""
        return codec_from_config(self.codec)

    @cached_property
    def own_view_codec(self) -> Codec | None:
        """The codec of the views' rows; None where the layer has none."""
        return None if self.view_codec is None else codec_from_config(self.view_codec)

    @cached_property
    def own_mirror_codec(self) -> Codec | None:
        """The codec of the mirror's rows; None where the mirror is not stored, or is as the base is."""
        return None if self.mirror_codec is None else codec_from_config(self.mirror_codec)

    @property
    def spec(self) -> FeatureSpec:
        """The feature that the layer stores."""
        return self.base_codec.spec

    @property
    def whole_views(self) -> bool:
        """Whether a view holds every channel, so that no reference is needed beside it."""
        return self.own_view_codec is not None and len(self.sensitive) == self.spec.channels

    def streams(self, mirrored: bool, mirror_stored: bool, views: int) -> tuple[Stream, ...]:
        """What a chunk of this layer stores, in order: the references, then the views.

        mirrored: the mirror is a reference, so that even views are of it.
        """
        out = [Stream(BASE, BASE, 0, self.base_codec)]
        own = self.own_mirror_codec
        if mirror_stored:
            part = (self.base_codec, None) if own is None else (own, self.mirror_channels)
            out.append(Stream(MIRROR, MIRROR, 0, *part))
        if self.own_view_codec is not None:
            for v in range(1, views + 1):
                reference = MIRROR if mirrored and v % 2 == 0 else BASE
                out.append(Stream(f"view{v}", reference, v, self.own_view_codec, self.sensitive))
        return tuple(out)

    def to_json(self) -> dict[str, Any]:
        part = {"mirror_channels": [int(c) for c in self.mirror_channels], "mirror_codec": self.mirror_codec}
        return {
            "name": self.name,
            "cut": self.cut,
            "codec": self.codec,
            "view_codec": self.view_codec,
            "sensitive": [int(c) for c in self.sensitive],
            "similarity": None if self.similarity is None else self.similarity.to_json(),
            "grid": None if self.grid is None else self.grid.to_json(),
            "flops": int(self.flops),
            "dtype": self.dtype,
            "nonnegative": self.nonnegative,
            "mirror_error": None if self.mirror_error is None else float(self.mirror_error),
            **(part if self.mirror_codec is not None else {}),
        }

    @staticmethod
    def from_json(value: Any, where: str) -> LayerPlan:
        fields = Fields(value, where)
        name = check_name(fields.take("name"), f"{where}: name")
        fields.where = where = f"{where} ({name})"
        similarity, grid = fields.object_or_none("similarity"), fields.object_or_none("grid")
        out = LayerPlan(
            name=name,
            cut=fields.text("cut"),
            codec=fields.object("codec"),
            view_codec=fields.object_or_none("view_codec"),
            sensitive=tuple(fields.items("sensitive")),
            similarity=None if similarity is None else Similarity.from_json(similarity, f"{where}: similarity"),
            grid=None if grid is None else Grid.from_json(grid, f"{where}: grid"),
            flops=fields.integer("flops", 0, 1 << 62),
            dtype=fields.text("dtype", 32),
            nonnegative=fields.flag("nonnegative"),
            mirror_error=fields.number_or_none("mirror_error"),
            **_part(fields),
        )
        fields.done()
        out.check(where)
        return out

    def check(self, where: str) -> None:
        """Raise FormatError where the parts of this layer contradict each other."""
        codec = _codec(self.codec, f"{where}: codec")
        channels = codec.spec.channels
        for what, numbers in (("sensitive", self.sensitive), ("mirror_channels", self.mirror_channels)):
            ordered = all(type(c) is int and 0 <= c < channels for c in numbers)
            if not ordered or list(numbers) != sorted(set(numbers)):
                raise FormatError(f"{where}: {what} must be rising channel numbers below {channels}")
        if self.similarity is not None:
            found = (len(self.similarity.cosine), len(self.similarity.error))
            if found != (channels, channels):
                raise FormatError(f"{where}: similarity must hold {channels} cosines and errors, found {found}")
        if self.view_codec is not None:
            view = _codec(self.view_codec, f"{where}: view_codec")
            if view.spec.shape != codec.spec.select(len(self.sensitive) or 1).shape or not self.sensitive:
                raise FormatError(
                    f"{where}: a view of {len(self.sensitive)} channels of {list(codec.spec.shape)} cannot have "
                    f"shape {list(view.spec.shape)}"
                )
        if self.mirror_codec is not None:
            mirror = _codec(self.mirror_codec, f"{where}: mirror_codec")
            if not self.mirror_channels or mirror.spec != codec.spec.select(len(self.mirror_channels)):
                raise FormatError(
                    f"{where}: a mirror of {len(self.mirror_channels)} channels of {codec.spec.kind} "
                    f"{list(codec.spec.shape)} cannot have the rows of {mirror.spec.kind} {list(mirror.spec.shape)}"
                )


def _part(fields: Fields) -> dict[str, Any]:
    """The keys of a mirror that is stored in part: both are there, or neither. {} where neither is."""
    if not fields.has("mirror_codec") and not fields.has("mirror_channels"):
        return {}
    return {"mirror_channels": tuple(fields.items("mirror_channels")), "mirror_codec": fields.object("mirror_codec")}


def _codec(config: dict[str, Any], where: str) -> Codec:
    try:
        return codec_from_config(config)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None
