"""What a codec is, and the one loop in which every codec encodes and decodes.

A codec of this room derives from `RowCodec` and says what is its own: how long a row is, how a slab of values becomes
rows and rows become values, which rates are its, its part of a config. Everything else is here: checks, slabs, threads,
outputs of any dtype, strides and device, members and configs.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from fmshards.codec import members
from fmshards.codec.check import check_batch, check_rows, float32_slab, output
from fmshards.codec.feature import FeatureSpec
from fmshards.codec.threads import over_rows, slabs
from fmshards.errors import CodecError
from fmshards.kernels import cuda

if TYPE_CHECKING:
    import torch

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Codec(Protocol):
    """Fixed-size rows: what every codec does. See RowCodec for shapes, dtypes and errors."""

    @property
    def name(self) -> str: ...
    @property
    def extension(self) -> str: ...
    @property
    def spec(self) -> FeatureSpec: ...
    @property
    def filter(self) -> str | None: ...
    @property
    def row_bytes(self) -> int: ...
    @property
    def rate(self) -> float: ...
    def encode(self, x: torch.Tensor | npt.NDArray[Any]) -> Bytes: ...
    def decode(
        self, rows: torch.Tensor | Bytes, out: torch.Tensor | None = None, dtype: torch.dtype | None = None
    ) -> torch.Tensor: ...
    def member(self, rows: Bytes) -> bytes: ...
    def member_bytes(self, n: int) -> tuple[int, int]: ...
    def member_memory(self, n: int) -> int: ...
    def rows(self, member: bytes, n: int) -> Bytes: ...
    def config(self) -> dict[str, Any]: ...


class Sample(Protocol):
    """What a codec wants to know of a layer before its first row: features of the calibration sample, in order."""

    def add(self, x: torch.Tensor) -> None:
        """Count a batch of the base's features, float32 [B, *shape] on any device."""


@dataclass(frozen=True)
class RowCodec(ABC):
    """A codec of one feature. filter: what its members go through, one of `members.FILTERS`, or None."""

    spec: FeatureSpec
    filter: str | None = field(default=None, kw_only=True)

    name: ClassVar[str]
    """Of the codec, in configs and at the end of members' names."""
    rates: ClassVar[str]
    """How its rates are written, for a message that lists all."""
    ladder: ClassVar[tuple[str, ...]] = ()
    """Rates that are worth trying where the right one is looked for, the fewest bytes first."""
    keys: ClassVar[tuple[str, ...]] = ()
    """Of its config, besides codec, spec, order and filter."""
    later: ClassVar[tuple[str, ...]] = ()
    """Those of `keys` that configs of sets from before them lack."""
    takes_order: ClassVar[bool] = False
    """Whether its config may have a channel order."""
    multiple: ClassVar[int] = 1
    """Members are filled with zero bytes up to a multiple of so many."""

    # -- what is a codec's own ----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """Bytes of a row."""

    @property
    def item_bytes(self) -> int:
        """How often what the bytes of a row mean repeats: a filter takes the first bytes of all items together."""
        return 1

    @abstractmethod
    def encode_rows(self, x: Floats, rows: Bytes, first: int) -> None:
        """Encode x, float32 [n, values] (contiguous, finite), into rows, uint8 [n, row_bytes] (contiguous).

        Equal values must give equal bytes, a sample's row whatever comes with it. first: the number of x's first
        sample in the batch, for messages. Raises CodecError for what a row cannot hold.
        """

    @abstractmethod
    def decode_rows(self, rows: Bytes, out: torch.Tensor) -> None:
        """Decode rows, uint8 [n, row_bytes] (any strides), into out [n, *shape], one that `writes` says.

        Any bytes must decode to something, and nothing beside rows and out be touched.
        """

    def writes(self, out: torch.Tensor) -> bool:
        """Whether `decode_rows` can write into this tensor; at least into float32, contiguous, on the CPU."""
        return str(out.dtype) == "torch.float32" and out.device.type == "cpu" and out.is_contiguous()

    def decoder_on(self, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], None] | None:
        """What decodes rows that are on a device into an output there, one for which `cuda.writes`; None: nothing."""
        return None

    @classmethod
    @abstractmethod
    def setting(cls, rate: str | float) -> Any | None:
        """What a rate says, where it is one of this codec's; None where it is not."""

    @classmethod
    @abstractmethod
    def make(cls, setting: Any, spec: FeatureSpec, filter: str | None, **found: Any) -> RowCodec:
        """The codec of a setting. found: what `codec_for` was given besides; what the codec does not know is not used.

        Raises InputError.
        """

    @classmethod
    def row_bytes_at(cls, setting: Any, spec: FeatureSpec) -> int:
        """`row_bytes` of the codec of a setting, which need not be fitted yet. Raises InputError."""
        return cls.make(setting, spec, None).row_bytes

    @classmethod
    @abstractmethod
    def read(cls, config: Mapping[str, Any], spec: FeatureSpec, filter: str | None) -> RowCodec:
        """The codec of a config, whose keys are checked already. Raises FormatError; allocates nothing for it."""

    @abstractmethod
    def own_config(self) -> dict[str, Any]:
        """The values of `keys`, as JSON, and the order where there may be one."""

    @classmethod
    def samples_wanted(cls, setting: Any, order: str) -> int | None:
        """How many samples `fit` is to see, at most; None: as many as there are, 0: it needs none."""
        return 0

    @classmethod
    def sample_for(cls, setting: Any, spec: FeatureSpec, order: str, samples: int) -> Sample | None:
        """What `fit` is given; None where it needs nothing. order: the option. samples: how many will be added."""
        return None

    @classmethod
    def fit(
        cls, setting: Any, spec: FeatureSpec, sample: Any, channels: Sequence[int] | None, filter: str | None
    ) -> RowCodec:
        """The codec of a setting, fitted to a sample. spec: of its feature, which has `channels` of the sample's."""
        return cls.make(setting, spec, filter)

    # -- what is the same for all -------------------------------------------------------------------------------------

    @property
    def extension(self) -> str:
        """The last part of members' names."""
        return self.name

    @property
    def rate(self) -> float:
        """Bits of a row for each value of the feature."""
        return 8 * self.row_bytes / self.spec.values

    def encode(self, x: torch.Tensor | npt.NDArray[Any]) -> Bytes:
        """Encode x, floating-point [n, *shape], into uint8 [n, row_bytes].

        Raises CodecError, naming sample and channel, for values that are not finite, or that the codec cannot hold.
        """
        check_batch(x, self.spec)

        def part(first: int, last: int) -> None:
            for a, b in slabs(last - first, self.spec.values):
                chosen = slice(first + a, first + b)
                flat = float32_slab(x, chosen.start, chosen.stop, self.spec)
                self.encode_rows(flat, rows[chosen], chosen.start)

        with _memory_for(len(x), self.spec):
            rows = np.empty((len(x), self.row_bytes), np.uint8)
            over_rows(part, len(x), self.spec.values)
        return rows

    def decode(
        self, rows: torch.Tensor | Bytes, out: torch.Tensor | None = None, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Decode rows, uint8 [B, row_bytes] (any strides, from any chunks), into [B, *shape].

        out: a floating-point tensor of that shape, any strides and device, filled and returned; else a new one of
        `dtype` (float32) on the device of `rows`. Values beyond float16 become infinite there, as in torch. Any bytes
        decode to something: checksums are checked before. Raises CodecError where the shapes do not fit.
        """
        import torch

        there = None if isinstance(rows, np.ndarray) or not hasattr(rows, "detach") else self.decoder_on(rows.device)
        if there is not None:
            return _decode_there(self, there, rows, out, dtype)
        data = check_rows(rows, self.row_bytes)
        to = output(len(data), self.spec, rows, out, dtype)
        straight = self.writes(to)

        def part(first: int, last: int) -> None:
            if straight:
                self.decode_rows(data[first:last], to[first:last])
                return
            for a, b in slabs(last - first, self.spec.values):
                chosen = to[first + a : first + b]
                slab = torch.empty_like(chosen, dtype=torch.float32, device="cpu")
                if not self.writes(slab):
                    slab = torch.empty(chosen.shape)
                self.decode_rows(data[first + a : first + b], slab)
                chosen.copy_(slab)

        with _memory_for(len(data), self.spec):
            over_rows(part, len(data), self.spec.values)
        return to if out is None else out

    def member(self, rows: Bytes) -> bytes:
        """The stored member of a chunk. Equal rows give equal bytes; filtered, with one version of the library."""
        return members.member(self, rows)

    def member_bytes(self, n: int) -> tuple[int, int]:
        """The fewest and the most bytes that a member of n rows can have."""
        return members.member_bytes(self, n)

    def member_memory(self, n: int) -> int:
        """Bytes of memory that `rows` takes beside a member of n rows."""
        return members.member_memory(self, n)

    def rows(self, member: bytes, n: int) -> Bytes:
        """uint8 [n, row_bytes], read-only. Raises CorruptError where the member is not one of just these rows."""
        return members.rows(self, member, n)

    def config(self) -> dict[str, Any]:
        """All of the codec, as JSON; `codec_from_config` reads it."""
        found = {"codec": self.name, "spec": self.spec.to_json(), "order": None, **self.own_config()}
        return found if self.filter is None else {**found, "filter": self.filter}


def _decode_there(
    codec: RowCodec,
    decode: Callable[[torch.Tensor, torch.Tensor], None],
    rows: Any,
    out: torch.Tensor | None,
    dtype: torch.dtype | None,
) -> torch.Tensor:
    """Rows on a device, decoded there, into any output. No value is looked at: nothing waits for the device."""
    import torch

    if rows.dtype != torch.uint8 or rows.dim() != 2 or rows.shape[1] != codec.row_bytes:
        raise CodecError(f"expected rows uint8 [B, {codec.row_bytes}], found {rows.dtype} {list(rows.shape)}")
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    to = output(len(rows), codec.spec, rows, out, dtype)
    if to.device == rows.device and cuda.writes(to, codec.spec.kind):
        decode(rows, to)
    else:
        half = to.dtype in (torch.float16, torch.bfloat16)
        plain = torch.empty(to.shape, dtype=to.dtype if half else torch.float32, device=rows.device)
        decode(rows, plain)
        to.copy_(plain)
    return to if out is None else out


@contextlib.contextmanager
def _memory_for(n: int, spec: FeatureSpec) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise CodecError(
            f"not enough memory for {n} features {spec.kind} {list(spec.shape)}, of {4 * spec.values:,} bytes each as "
            "float32; take smaller batches, or a cut with a smaller feature"
        ) from None
