"""Reading chunks: all layers of a chunk side by side, verified, ahead of their use."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmshards import store, tally
from fmshards.errors import (
    CorruptError,
    FmshardsError,
    FormatError,
    InputError,
    MismatchError,
    StoreError,
    TransientError,
)
from fmshards.reader.catalog import PLAIN, Catalog, Combination
from fmshards.reader.ledger import Ledger
from fmshards.shards import (
    Chunk,
    ChunkIndex,
    LayerPlan,
    Manifest,
    ShardIndex,
    check_index,
    expect_chunk,
    read_chunk,
    read_index,
    was_replaced,
)
from fmshards.shards.tar import chunk_key


@dataclass(frozen=True)
class Fetched:
    """A verified chunk: `rows[layer][stream]` is uint8 [n, row_bytes], for each stream that was asked for.

    where: names the chunk in messages. first: number in the set of its first sample. theta: float32 [n, 2, 3], where
    a view is shown. valid: False where the rows, keys and fields are those of another chunk, which stands in for one
    that is bad.
    """

    where: str
    n: int
    first: int
    shown: Combination
    keys: list[str]
    fields: dict[str, list[Any]]
    theta: NDArray[np.float32] | None
    rows: dict[str, dict[str, NDArray[np.uint8]]]
    valid: bool = True

    @property
    def bytes(self) -> int:
        """Bytes of rows that it holds."""
        return sum(rows.nbytes for streams in self.rows.values() for rows in streams.values())


class Fetcher:
    """Fetches chunks of a catalog; indices are read once and kept. Safe to use from several threads.

    fields: names of the stored fields that chunks bring, None for all. access: how the store is read. ledger: where
    chunks that stay bad when they are read again are written down, while another chunk stands in for each; None: they
    are errors.
    """

    def __init__(
        self,
        catalog: Catalog,
        fields: Collection[str] | None = None,
        access: store.Access | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.catalog = catalog
        self.fields = fields
        self.ledger = ledger
        self._access = store.Access() if access is None else access
        self._backend: store.Backend | None = None
        self._indices: dict[tuple[str, int], ShardIndex] = {}
        self._reading: dict[tuple[str, int], threading.Lock] = {}

    def fetch(self, chunk: int, shown: Combination = PLAIN) -> Fetched:
        """Chunk `chunk` of the set with the members of one combination.

        Bytes that are not what was written are read once more, past any cache, before they count as bad. Every error is
        a FmshardsError that pickles: an exception that does not, in a DataLoader worker, ends the epoch early and
        silently. Raises CorruptError where bytes are missing or changed, or layers disagree; MismatchError where that
        is so because the set was replaced while it was read.
        """
        try:
            return self._verified(chunk, shown)
        except FormatError as error:
            if self.ledger is None:
                raise
            self.ledger.add(self.catalog, chunk, str(error))
            tally.count("quarantined")
            return self._stand_in(chunk, shown, error)

    def expect(self, chunk: int, shown: Combination = PLAIN) -> None:
        """Have the system read a chunk of local files meanwhile; what is wrong with it `fetch` says."""
        shard, number = self.catalog.place(chunk)
        with suppress(FmshardsError):
            for layer in self.catalog.layers:
                members = [stream.member for stream in self.catalog.streams(layer, shown)]
                expect_chunk(
                    self.catalog.layer_url(layer, shard), self._index(layer, shard), number, members, self._source
                )

    def _verified(self, chunk: int, shown: Combination) -> Fetched:
        shard, number = self.catalog.place(chunk)
        try:
            return self._fetch(chunk, shard, number, shown)
        except TransientError:
            raise  # a store that does not answer has nothing to say of the set either
        except (FormatError, MismatchError, StoreError) as error:
            check_not_replaced(self.catalog.url, self.catalog.manifest, error)
            raise
        except FmshardsError:
            raise
        except Exception as error:
            url = self.catalog.layer_url(self.catalog.layers[0], shard)
            raise StoreError(f"{url}: chunk {number} cannot be read: {type(error).__name__}: {error}") from None

    def _stand_in(self, chunk: int, shown: Combination, error: FormatError) -> Fetched:
        """A verified chunk in place of one that is bad, with as many rows, none of which counts.

        It is the same in every process: batches stay a function of (deal, seed, epoch) and of which chunks are bad.
        """
        step, chunks, n = 1, self.catalog.chunks, len(self.catalog.samples_of(chunk))
        while step < chunks:
            with suppress(FormatError):
                found = self._verified((chunk + step) % chunks, shown)
                return _repeated(found, n, self.catalog.samples_of(chunk).start)
            step *= 2
        raise CorruptError(f"{error}; nor can any of the chunks be read that might stand in for it")

    @property
    def _source(self) -> store.Backend:
        if self._backend is None:
            self._backend = self._access.backend(self.catalog.url)
        return self._backend

    def __getstate__(self) -> dict[str, Any]:
        # A backend and its locks are a process's own.
        return self.__dict__ | {"_backend": None, "_reading": {}}

    def check_fields(self) -> None:
        """Raise InputError where the set's first chunk lacks one of `fields`; reads its index and meta."""
        shard, number = self.catalog.place(0)
        layer = self.catalog.layers[0]
        url = self.catalog.layer_url(layer, shard)
        try:
            # Through the store's own backend: a process that workers are forked from leaves obstore to them.
            index = read_index(url, self.catalog.manifest.shards[layer.name][shard])
            check_index(index, self.catalog.manifest.plan, layer.name, url)
            self._kept(read_chunk(url, index, number, []), url)
        except (FormatError, MismatchError, StoreError) as error:
            check_not_replaced(self.catalog.url, self.catalog.manifest, error)
            raise

    def _kept(self, chunk: Chunk, where: str) -> dict[str, list[Any]]:
        if self.fields is None:
            return chunk.fields
        for name in self.fields:
            if name not in chunk.fields:
                has = ", ".join(chunk.fields) or "none"
                raise InputError(f"{where}: its samples have no field {name!r}; they have {has}")
        return {name: chunk.fields[name] for name in self.fields}

    def _fetch(self, chunk: int, shard: int, number: int, shown: Combination) -> Fetched:
        catalog = self.catalog
        samples = catalog.samples_of(chunk)
        rows: dict[str, dict[str, NDArray[np.uint8]]] = {}
        first: tuple[str, Chunk] | None = None
        for layer in catalog.layers:
            url = catalog.layer_url(layer, shard)
            streams = catalog.streams(layer, shown)
            members = [stream.member for stream in streams]
            found = read_chunk(url, self._index(layer, shard), number, members, self._source)
            where = f"{url}: chunk {number}"
            if found.n != len(samples):
                raise CorruptError(f"{where}: {found.n} samples, the manifest says {len(samples)}")
            if first is None:
                first = where, found
            elif found.keys != first[1].keys:
                raise CorruptError(f"{where}: its keys are not those of {first[0]}; extract the set again")
            own = rows[layer.name] = {}
            for stream in streams:
                try:
                    own[stream.name] = stream.codec.rows(found.members[stream.member], found.n)
                except CorruptError as error:
                    raise CorruptError(f"{where}: {stream.member}: {error}") from None
        assert first is not None  # a catalog has at least one layer
        where, meta = first
        views = 0 if meta.theta is None else meta.theta.shape[1]
        if shown.view > views:
            raise CorruptError(f"{where}: it has thetas of {views} views, the plan says {catalog.manifest.plan.views}")
        theta = None if meta.theta is None or not shown.view else meta.theta[:, shown.view - 1]
        return Fetched(where, meta.n, samples.start, shown, meta.keys, self._kept(meta, where), theta, rows)

    def _index(self, layer: LayerPlan, shard: int) -> ShardIndex:
        place = layer.name, shard
        if place not in self._indices:
            # Chunks that are read side by side wait for one of them to read their index.
            with self._reading.setdefault(place, threading.Lock()):
                if place not in self._indices:
                    self._indices[place] = self._read_index(layer, shard)
        return self._indices[place]

    def _read_index(self, layer: LayerPlan, shard: int) -> ShardIndex:
        manifest, url = self.catalog.manifest, self.catalog.layer_url(layer, shard)
        found = read_index(url, manifest.shards[layer.name][shard], self._source)
        check_index(found, manifest.plan, layer.name, url)
        # Kept for the whole run, so kept small: nobody asks for error sums here.
        return replace(found, chunks=_Packed(found.chunks), errors=None)


def check_not_replaced(url: str, manifest: Manifest, error: FmshardsError) -> None:
    """Raise MismatchError in place of `error` where the set of `manifest` is there no more.

    What another process replaces looks damaged or missing to who reads it, and is not.
    """
    if was_replaced(url, manifest):
        raise MismatchError(
            f"{url}: another process replaced or removed the set while it was read; open it again once it is whole "
            f"(what failed: {error})"
        ) from None


def _repeated(fetched: Fetched, n: int, first: int) -> Fetched:
    """`fetched`, its rows repeated or left out so that they are n, in place of the samples from `first` on."""
    rows = np.arange(n) % fetched.n
    return replace(
        fetched,
        n=n,
        first=first,
        keys=[fetched.keys[row] for row in rows],
        fields={name: [column[row] for row in rows] for name, column in fetched.fields.items()},
        theta=None if fetched.theta is None else fetched.theta[rows],
        rows={layer: {s: values[rows] for s, values in streams.items()} for layer, streams in fetched.rows.items()},
        valid=False,
    )


class _Packed(Sequence[ChunkIndex]):
    """The chunks of an index in arrays: 24 bytes a member, a tenth of what objects take."""

    def __init__(self, chunks: Sequence[ChunkIndex]) -> None:
        self._members = tuple(chunks[0].members) if chunks else ()
        self._n = np.array([chunk.n for chunk in chunks], np.int32)
        self._places = np.array([list(chunk.members.values()) for chunk in chunks], np.int64)

    def __len__(self) -> int:
        return len(self._n)

    def __getitem__(self, j: Any) -> Any:
        places = ((offset, length, crc) for offset, length, crc in self._places[j].tolist())
        return ChunkIndex(chunk_key(j), int(self._n[j]), dict(zip(self._members, places, strict=True)))


def read_ahead(fetcher: Fetcher, wanted: Iterator[tuple[int, Combination]], ahead: int) -> Iterator[Fetched]:
    """Fetch the wanted chunks in order, `ahead` of them while the caller works; 0 reads each when it is asked for."""
    local = store.is_local(fetcher.catalog.url)
    return (_read_by_the_system if local else _read_by_threads)(fetcher, wanted, ahead)


def _read_by_the_system(fetcher: Fetcher, wanted: Iterator[tuple[int, Combination]], ahead: int) -> Iterator[Fetched]:
    # No threads of our own: they would take turns with the caller in running Python, and leave rows in another core's
    # cache.
    expected: deque[tuple[int, Combination]] = deque()
    for chunk, shown in wanted:
        if ahead:
            fetcher.expect(chunk, shown)
        expected.append((chunk, shown))
        if len(expected) > ahead:
            yield fetcher.fetch(*expected.popleft())
    while expected:
        yield fetcher.fetch(*expected.popleft())


def _read_by_threads(fetcher: Fetcher, wanted: Iterator[tuple[int, Combination]], ahead: int) -> Iterator[Fetched]:
    pending: deque[Future[Fetched]] = deque()
    stop = threading.Event()

    def fetch(chunk: int, shown: Combination) -> Fetched:
        with store.until(stop):
            return fetcher.fetch(chunk, shown)

    pool = ThreadPoolExecutor(max(ahead, 1), thread_name_prefix="fmshards-fetch")
    try:
        for chunk, shown in wanted:
            pending.append(pool.submit(fetch, chunk, shown))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
