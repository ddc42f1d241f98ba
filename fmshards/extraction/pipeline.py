"""What is missing in a set is made: read and decode, forward, encode and write, one beside the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import closing, suppress
from functools import partial
from itertools import chain

from fmshards import store
from fmshards.clock import Clock
from fmshards.errors import FmshardsError, StoppedError
from fmshards.extraction.batches import Batch, decoded_batches, decoder_died
from fmshards.extraction.bind import check_ours
from fmshards.extraction.encode import Background, Features, ShardSink
from fmshards.extraction.labels import LabelRuns
from fmshards.extraction.progress import Progress
from fmshards.extraction.request import Request
from fmshards.extraction.stopping import never, wait
from fmshards.extraction.work import Work
from fmshards.shards import layer_url
from fmshards.workers import in_spite_of_deaths, is_worker_death


class Pass:
    """Reads each input shard of which a layer's shard is missing, and writes those shards.

    stop: asked before each batch; once it says True no shard is begun, and the one that is begun is ended.
    """

    def __init__(
        self, request: Request, work: Work, progress: Progress, clock: Clock, stop: Callable[[], bool] = never
    ) -> None:
        self.request, self.work, self.plan, self.stop = request, work, work.plan, stop
        self.clock, self.progress = clock, progress
        self.missing: dict[int, list[str]] = {}
        self.labels = LabelRuns()
        self.sink: ShardSink | None = None
        self.pool: Executor | None = None
        self.read = 0

    def run(self) -> None:
        """Write what is missing, until all shards are there, whoever makes them.

        Raises what reading, the model, encoding and writing raise, and StoppedError where `stop` said so; no shard is
        half there.
        """
        request, source = self.request, self.request.source
        self._say_what_is_there()
        self.progress.begin(sum(map(source.work, range(len(self.plan.inputs)))))
        forward = request.forward(self.plan)
        background = Background(self.clock)
        self.pool = background.pool
        try:
            self._round(forward, background)
            while self.work.left:
                n = len(self.plan.inputs)
                self.progress.stage("waiting for shards of other parts", n - len(self.work.left), n)
                wait(self.stop)
                self._stop_if_asked()
                self._round(forward, background)
        except BaseException as error:
            self._abort(background, error)
            if is_worker_death(error):
                raise decoder_died(error) from None
            raise
        background.close()

    def _round(self, forward: Callable[[Batch], Features], background: Background) -> None:
        """Make what is left and nobody else has claimed."""
        request, shards = self.request, self._shards()
        first = next(shards, None)
        if first is None:
            return
        batches = decoded_batches(
            request.source,
            chain([first], shards),
            request.batch,
            request.decoder(self.plan),
            request.options.workers,
            request.device.type == "cuda",
            self.clock,
        )
        begun = False
        with closing(batches):
            for batch in batches:
                if not begun and self.stop():
                    break
                begun = not batch.last
                with self.clock.span("forward"):
                    features = forward(batch)
                background.submit(partial(self._write, batch, features))
        background.drain()
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        missing = self.work.missing
        if missing and self.stop():
            raise StoppedError(
                f"{self.request.out}: stopped as asked, {missing:,} of its {len(self.plan.inputs):,} input shards are "
                "still to be made; run the same again, and it goes on"
            )

    def _abort(self, background: Background, error: BaseException) -> None:
        """End the threads and leave no shard half written; what was read whole before the error is still written."""

        def end() -> None:
            if isinstance(error, FmshardsError):
                with suppress(Exception):  # the first error is the one to tell
                    background.drain()
            background.close()
            if self.sink is not None:
                self.sink.abort(error)

        in_spite_of_deaths(end)

    def _say_what_is_there(self) -> None:
        names = {f"{shard.name}.tar" for shard in self.plan.inputs}
        folders = [layer_url(self.request.out, layer.name) for layer in self.plan.layers]
        there = sum(len(names & set(store.list_names(folder))) for folder in folders)
        part = self.work.claims.part
        if part.count > 1:
            own = [self.plan.inputs[i].name for i in part.own(len(self.plan.inputs))]
            taken = f"shards {own[0]} to {own[-1]} first" if own else "no shards of its own"
            self.progress.say(f"part {part} ({part.said_by}): {taken}, then what is left of the others'")
        if there:
            total = len(names) * len(folders)
            self.progress.say(f"{self.request.out}: {there:,} of {total:,} shards are there; they are checked and kept")

    def _shards(self) -> Iterator[int]:
        for i, missing in self.work.shards():
            if missing:
                self.missing[i] = missing
                yield i
            else:
                samples = self.work.entries[self.plan.layers[0].name][self.plan.inputs[i].name].samples
                self.progress.skip(self.request.source.work(i), samples)

    def _write(self, batch: Batch, features: Features) -> None:
        """Runs in the background, one batch after another."""
        source, i = self.request.source, batch.shard
        if self.sink is None:
            self.read = 0
            self.sink = ShardSink(
                self.request.out, self.plan, i, self.missing[i], self.pool, self.clock, self.work.kinds
            )
        sink, before = self.sink, self.sink.written
        sink.add(batch, features)
        self.labels.add(i, batch.fields)
        if batch.last:
            digest = source.digest_read(i)
            self.work.check_content(i, digest)
            check_ours(self.request.out, self.plan)
            self.work.done(i, sink.close(None if digest is None else (source.inputs[i].bytes, digest)))
            self.sink = None
            self.labels.warn(self.request.source_text)
        self.progress.update(len(batch.keys), sink.written - before, batch.work - self.read)
        self.read = batch.work
