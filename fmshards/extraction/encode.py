"""The writer's side: batches of features become rows, rows become chunks, chunks become a shard for each layer.

It runs in one thread beside the forward. What costs time in it, encoding and writing, releases the GIL.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from fmshards.clock import Clock
from fmshards.codec import Codec
from fmshards.errors import CodecError, InputError
from fmshards.extraction.batches import Batch
from fmshards.place import cores
from fmshards.shards import BASE, Kinds, LayerPlan, Plan, ShardEntry, ShardWriter, Stream, layer_url

Rows = np.ndarray[Any, np.dtype[np.uint8]]
Features = Mapping[str, Mapping[str, torch.Tensor]]  # layer -> stream ("base", "view1") -> [B, *shape]


class ShardSink:
    """Writes the shards that come from one input shard, one for each of `layers`.

    kinds: what the samples of another shard of the set have in common, if one is there.
    """

    def __init__(
        self,
        set_url: str,
        plan: Plan,
        shard: int,
        layers: list[str],
        pool: Executor | None,
        clock: Clock,
        kinds: Kinds | None = None,
    ) -> None:
        self._plan, self._input, self._pool, self._clock = plan, plan.inputs[shard], pool, clock
        self.written = 0
        """Bytes of members that were written."""
        self._keys: list[str] = []
        self._fields: dict[str, list[Any]] | None = None if kinds is None else {name: [] for name in kinds.names}
        self._theta: list[np.ndarray[Any, np.dtype[np.float32]]] = []
        self._stack = ExitStack()
        self._layers: list[_LayerSink] = []
        every = [layer.name for layer in plan.layers]
        with ExitStack() as stack:
            for name in layers:
                url = layer_url(set_url, name, f"{self._input.name}.tar")
                writer = stack.enter_context(ShardWriter(url, plan.digest, name, every, kinds))
                self._layers.append(_LayerSink(plan.layer(name), plan, writer))
            self._stack = stack.pop_all()

    def add(self, batch: Batch, features: Features) -> None:
        """Encode one batch and write the chunks that are full."""
        for layer in self._layers:
            try:
                with self._clock.span("encode"):
                    layer.encode(features[layer.plan.name], batch.keys, self._pool)
            except CodecError as error:
                raise CodecError(f"{self._input.url}: layer {layer.plan.name}: {error}") from None
        self._collect(batch)
        while len(self._keys) >= self._plan.chunk:
            self._write(self._plan.chunk)

    def close(self, made_from: tuple[int | None, str] | None = None) -> dict[str, ShardEntry]:
        """Write the last chunk and publish the shards. made_from: bytes and digest of the input, where known."""
        if self._keys:
            self._write(len(self._keys))
        with self._clock.span("write"):
            if made_from is not None:
                for layer in self._layers:
                    layer.writer.input(*made_from)
            entries = {layer.plan.name: layer.close() for layer in self._layers}
            self._stack.close()
        return entries

    def abort(self, error: BaseException) -> None:
        """Leave nothing behind."""
        self._stack.__exit__(type(error), error, error.__traceback__)

    def _collect(self, batch: Batch) -> None:
        if self._fields is None:
            self._fields = {name: [] for name in sorted(batch.fields[0])}
        for key, fields in zip(batch.keys, batch.fields, strict=True):
            if fields.keys() != self._fields.keys():
                differ = sorted(fields.keys() ^ self._fields.keys())[0]
                state = "has a field" if differ in fields else "lacks the field"
                raise InputError(
                    f"{self._input.url}: key {key!r} {state} {differ!r}, unlike the samples before it; all samples of "
                    "a set need the same fields"
                )
            self._keys.append(key)
            for name, value in fields.items():
                self._fields[name].append(value)
        if batch.theta is not None:
            self._theta.append(batch.theta)

    def _write(self, n: int) -> None:
        theta = None
        if self._theta:
            joined = self._theta[0] if len(self._theta) == 1 else np.concatenate(self._theta)
            theta, self._theta = joined[:n], [joined[n:]]
        keys, self._keys = self._keys[:n], self._keys[n:]
        waiting = self._fields or {}
        fields = {name: values[:n] for name, values in waiting.items()}
        self._fields = {name: values[n:] for name, values in waiting.items()}
        with self._clock.span("write"):
            for layer in self._layers:
                members = layer.take(n)
                layer.writer.add(keys, fields, theta, members)
                self.written += sum(map(len, members.values()))


class _LayerSink:
    """The rows of one layer that wait for their chunk, and its error over the shard's first chunk."""

    def __init__(self, layer: LayerPlan, plan: Plan, writer: ShardWriter) -> None:
        self.plan, self.writer = layer, writer
        self._streams = plan.streams(layer.name)
        self._rows: dict[str, list[Rows]] = {stream.name: [] for stream in self._streams}
        self._error = ErrorSums(layer.base_codec, plan.chunk)

    def encode(self, features: Mapping[str, torch.Tensor], keys: list[str], pool: Executor | None) -> None:
        """Encode a batch. Raises CodecError that names the stream and the key."""
        for stream in self._streams:
            x = features[stream.name].cpu().contiguous()
            try:
                rows = encode_rows(stream.codec, x, pool)
            except CodecError:
                raise _blame(stream, x, keys) from None
            self._rows[stream.name].append(rows)
            if stream.name == BASE:
                self._error.add(rows, x)

    def take(self, n: int) -> dict[str, bytes]:
        """The next n rows of each member, as the bytes to be stored."""
        members = {}
        for stream in self._streams:
            waiting = self._rows[stream.name]
            joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            members[stream.member] = stream.codec.member(joined[:n])
            self._rows[stream.name] = [joined[n:]]
        return members

    def close(self) -> ShardEntry:
        self.writer.errors(self._error.stats())
        return self.writer.close()


def _blame(stream: Stream, x: torch.Tensor, keys: list[str]) -> CodecError:
    """The error of the first sample that cannot be encoded, with its key."""
    for i, key in enumerate(keys):
        try:
            stream.codec.encode(x[i : i + 1])
        except CodecError as error:
            return CodecError(f"key {key!r}, {stream.name}: {error}")
    return CodecError(f"{stream.name}: a batch that cannot be encoded, though each of its samples can")


class ErrorSums:
    """Squared error and squares by channel, over the first `limit` samples of a shard."""

    def __init__(self, codec: Codec, limit: int) -> None:
        self._codec, self._left, self._samples = codec, limit, 0
        self._error = np.zeros(codec.spec.channels)
        self._energy = np.zeros(codec.spec.channels)

    def add(self, rows: Rows, x: torch.Tensor) -> None:
        """`rows` are the encoded `x` [B, *shape]."""
        n = min(len(rows), self._left)
        if not n:
            return
        self._left -= n
        self._samples += n
        x = x[:n] if x.dtype == torch.float64 else x[:n].float()
        axes = [axis for axis in range(x.ndim) if axis != self._codec.spec.channel_axis + 1]
        decoded = self._codec.decode(rows[:n], dtype=x.dtype)
        error = decoded - x
        if not error.isfinite().all():  # two values near either end of float32 lie further apart than it reaches
            error = decoded.double() - x
        self._error += _squares(error, axes)
        self._energy += _squares(x, axes)

    def stats(self) -> dict[str, Any]:
        """What a shard's index holds."""
        return {"samples": self._samples, "error": self._error.tolist(), "energy": self._energy.tolist()}


def _squares(x: torch.Tensor, axes: list[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The sums of squares over axes, float64, however small or large the values are.

    Squares of float32 are beyond its range at either end, so values are first brought near 1, by a power of two for
    each sum, which rounds nothing. Sums over one batch in float32 are good to six digits.
    """
    exponent = torch.frexp(x.abs().amax(axes, keepdim=True)).exponent.clamp(-100, 100)
    factor = torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), -exponent)
    sums = (x * factor.to(x.dtype)).square_().sum(axes, keepdim=True).double() / factor.square()
    return sums.reshape(-1).numpy()


def encode_rows(codec: Codec, x: torch.Tensor, pool: Executor | None) -> Rows:
    """Floating-point [B, *shape] -> uint8 [B, row_bytes]; with a pool, in parts: rows do not depend on each other."""
    if pool is None or len(x) < 2 * _PART:
        return codec.encode(x)
    parts = [x[start : start + _PART] for start in range(0, len(x), _PART)]
    return np.concatenate(list(pool.map(codec.encode, parts)))


_PART = 16


class Background:
    """One thread that does one thing after another, at most two of them waiting; its errors come out in the caller.

    `pool`: threads that help to encode, where there are cores for them.
    """

    def __init__(self, clock: Clock) -> None:
        # Torch's threads belong to the forward. The count is each thread's own, but the last one set is also what
        # threads not yet begun start with: it is set again at the end.
        self._threads = torch.get_num_threads()
        helpers = min(8, cores() // 4)
        self.pool = _threads(helpers, "fmshards-encode") if helpers > 1 else None
        self._thread = _threads(1, "fmshards-write")
        self._pending: deque[Future[None]] = deque()
        self._clock = clock

    def submit(self, work: Callable[[], None]) -> None:
        self._settle(2)
        self._pending.append(self._thread.submit(work))

    def drain(self) -> None:
        """Wait for everything. Raises the first error."""
        self._settle(0)

    def close(self) -> None:
        """End the threads; what has not begun is dropped."""
        self._thread.shutdown(cancel_futures=True)
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)

    def _settle(self, at_most: int) -> None:
        while self._pending and (len(self._pending) > at_most or self._pending[0].done()):
            with self._clock.span("wait"):
                self._pending.popleft().result()


def _threads(count: int, name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, name, initializer=torch.set_num_threads, initargs=(1,))
