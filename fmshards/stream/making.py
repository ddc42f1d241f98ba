"""Chunks through the window into batches, as an order has laid them out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from fmshards.reader import PLAIN, Catalog, Combination, read_ahead
from fmshards.stream import order
from fmshards.stream.batch import batch_of, chunk_columns, fresh_thetas
from fmshards.stream.stats import CountedFetcher, TimedDecoder, Watch
from fmshards.stream.window import Window


def shown_of(catalog: Catalog, augment: bool) -> tuple[Combination, ...]:
    """What chunks can show."""
    return catalog.combinations if augment else (PLAIN,)


@dataclass(frozen=True)
class Maker:
    """What batches of a set are made with. decoder: None where rows are left as they are."""

    catalog: Catalog
    fetcher: CountedFetcher
    decoder: TimedDecoder | None
    seed: int
    augment: bool

    def batches(
        self, window: Window, stretches: Iterator[order.Stretch], epoch: int, ahead: int, watch: Watch
    ) -> Iterator[dict[str, Any]]:
        """The batches of an epoch's `stretches`, as `window` can hold them; so many chunks are read ahead."""
        stretches = watch.during("window_s", "store_s", stretches)
        laid: deque[order.Stretch] = deque()
        fetched = read_ahead(self.fetcher, self._wanted(stretches, laid, epoch), ahead)
        layers = [layer.name for layer in self.catalog.layers]
        parts = self.catalog.mirror_rows(shown_of(self.catalog, self.augment))
        thetas = fresh_thetas(self.catalog, self.seed, epoch) if self.augment else None
        # The next chunk brings the stretch that it is for, if that is not laid out; at the end there is none.
        with self.fetcher.told_if_slow():
            first = next(fetched, None)
        while first is not None or laid:
            chunks = fetched if first is None else chain([first], fetched)
            first = None
            while laid:
                stretch = laid.popleft()
                done = 0
                for i, need in enumerate([*stretch.need.tolist(), len(stretch.chunk)]):
                    for f in range(done, need):
                        chunk = next(chunks)
                        watch.mark("store_s")
                        self.fetcher.take_in(watch)
                        watch.add("chunks", 1)
                        rows = slice(stretch.start[f], stretch.start[f] + stretch.count[f])
                        columns = chunk_columns(chunk, layers, parts, thetas)
                        window.put(columns, stretch.row[rows], stretch.place[rows], chunk.where)
                        del chunk, columns
                        watch.mark("window_s")
                    done = max(done, need)
                    if i == len(stretch.batches):
                        break
                    valid = None if stretch.valid is None else stretch.valid[i]
                    columns = window.take(stretch.emit[i])
                    batch = batch_of(columns, valid)
                    watch.mark("window_s")
                    if self.decoder is not None:
                        batch = self.decoder(batch)
                        watch.decoded(self.decoder)
                    watch.add("batches", 1)
                    watch.add("samples", len(stretch.emit[i]))
                    yield batch
                    watch.mark("consumer_s")
            first = next(fetched, None)

    def _wanted(
        self, stretches: Iterator[order.Stretch], laid: deque[order.Stretch], epoch: int
    ) -> Iterator[tuple[int, Combination]]:
        """The chunks of `stretches` and what each shows; a stretch is put into `laid` before its first chunk comes."""
        shown = self.catalog.combinations
        drawn = order.Combinations(len(shown), self.seed, epoch)
        for stretch in stretches:
            laid.append(stretch)
            for chunk in stretch.chunk.tolist():
                yield chunk, shown[drawn.of(chunk)] if self.augment else PLAIN
