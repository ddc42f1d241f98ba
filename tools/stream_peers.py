"""The loaders that `bench_stream.py` compares: how each writes its copy of the features, and how it reads batches.

    python tools/stream_peers.py PACKAGE...   # imports these, reads requests, writes answers

A side runs under the Python of its own environment, so this file imports a peer's package only where it is used, and
fmshards only for its own sides. Every side yields (x, y): float32 [b, *shape] and int64 [b], in an order that is
shuffled anew, from features that are warm in the page cache or behind a URL. Settings are those that each peer's own
README recommends; where nothing is said, its defaults.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stream_usage import cpu_seconds, memory_bytes
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

Pair = tuple[torch.Tensor, torch.Tensor]
BATCH = 100
SHARD_BYTES = 16 << 20
"""Of a peer's shards: the data set is small, and each of several workers wants some of its own."""
SHUFFLED = 1000
"""Samples in a shuffle buffer, where a peer has one."""


@dataclass(frozen=True)
class Place:
    """Where a side's copy is: `url` as that side names it; `cache`, an empty folder for what it keeps on the way."""

    url: str
    cache: Path
    remote: bool


@dataclass(frozen=True)
class Features:
    """What all sides hold: x float16 [N, *shape] in a memory-mapped file, and labels int64 [N]."""

    x: np.ndarray
    y: np.ndarray

    @staticmethod
    def of(folder: Path) -> Features:
        return Features(np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy"))


@dataclass(frozen=True)
class Side:
    """environment: which of the peers' environments it runs in, "" for this one. scheme: of its URLs in a store.
    held: what it stores. write: makes its copy in a folder. read: an epoch's batches, again at each iteration."""

    environment: str
    scheme: str
    held: str
    write: Callable[[Features, Path], None]
    read: Callable[[Place, int], Iterable[Pair]]


def collate(samples: list[Any]) -> Pair:
    """Samples as a batch: one copy of the values, one conversion."""
    x, y = zip(*samples, strict=True)
    return torch.from_numpy(np.stack(x)).float(), torch.tensor(y)


def loader(dataset: Any, workers: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(dataset, num_workers=workers, persistent_workers=workers > 0, **options)


# fmshards.


def read_fmshards(place: Place, workers: int, augment: bool = False) -> Iterable[Pair]:
    import fmshards

    batches = fmshards.loader(place.url, BATCH, num_workers=workers, augment=augment)
    (layer,) = (layer.name for layer in batches.dataset.catalog.layers)
    return _Pairs(batches, layer)


def load_kernels(url: str) -> None:
    """What a first batch loads from disk, compiled: as an import does for packages that are compiled beforehand."""
    import fmshards

    fmshards.FeatureDataset(url, batch_size=BATCH).prepare()


@dataclass(frozen=True)
class _Pairs:
    batches: Any
    layer: str

    def __iter__(self) -> Iterator[Pair]:
        for batch in self.batches:
            yield batch[self.layer], batch["cls"]


# WebDataset: .npy members.


def write_webdataset(features: Features, out: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(str(out / "%06d.tar"), maxsize=SHARD_BYTES, verbose=0, mtime=0) as shards:
        for i, (x, y) in enumerate(zip(features.x, features.y.tolist(), strict=True)):
            shards.write({"__key__": f"{i:08d}", "npy": x, "cls": y})


def read_webdataset(place: Place, workers: int) -> Iterable[Pair]:
    import webdataset

    data = webdataset.WebDataset(names(place, ".tar"), shardshuffle=100, empty_check=False)
    data = data.shuffle(SHUFFLED).decode().to_tuple("npy", "cls").batched(BATCH, collation_fn=collate, partial=False)
    return webdataset.WebLoader(data, batch_size=None, num_workers=workers, persistent_workers=workers > 0)


# MosaicML streaming: MDS.


def write_mosaic(features: Features, out: Path, compression: str | None = None) -> None:
    from streaming import MDSWriter

    shape = ",".join(map(str, features.x.shape[1:]))
    columns = {"x": f"ndarray:float16:{shape}", "y": "int"}
    with MDSWriter(out=str(out), columns=columns, compression=compression, size_limit=SHARD_BYTES) as shards:
        for x, y in zip(features.x, features.y.tolist(), strict=True):
            shards.write({"x": np.asarray(x), "y": y})


def read_mosaic(place: Place, workers: int) -> Iterable[Pair]:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    where = {"remote": place.url, "local": str(place.cache)} if place.remote else {"local": place.url}
    data = StreamingDataset(**where, shuffle=True, batch_size=BATCH)
    return loader(data, workers, batch_size=BATCH, drop_last=True, collate_fn=_of_dicts)


def _of_dicts(samples: list[dict[str, Any]]) -> Pair:
    return collate([(sample["x"], sample["y"]) for sample in samples])


# LitData: optimized chunks.


def write_litdata(features: Features, out: Path, compression: str | None = None) -> None:
    import litdata

    (out / "of").write_text(str(features.x.filename))  # type: ignore[attr-defined]  # a memmap
    parts = np.array_split(np.arange(len(features.y)), 8)
    litdata.optimize(
        fn=_LitSamples(str(Path(str(features.x.filename)).parent)),  # type: ignore[attr-defined]  # a memmap
        inputs=[(int(part[0]), int(part[-1]) + 1) for part in parts],
        output_dir=str(out),
        chunk_bytes=SHARD_BYTES,
        compression=compression,
        compression_level=None if compression is None else "chunk",  # 0.2.76 leaves arrays in batches as they are
        num_workers=1,
        verbose=False,
    )
    (out / "of").unlink()


@dataclass(frozen=True)
class _LitSamples:
    folder: str

    def __call__(self, part: tuple[int, int]) -> Iterator[tuple[np.ndarray, int]]:
        features = Features.of(Path(self.folder))
        for i in range(*part):
            yield np.array(features.x[i]), int(features.y[i])


def read_litdata(place: Place, workers: int) -> Iterable[Pair]:
    import litdata

    options: dict[str, Any] = {}
    if place.remote:
        from litdata.streaming import downloader

        # Its asynchronous client takes https alone; without it chunks are not prefetched, which would not be fair.
        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # type: ignore[typeddict-unknown-key]  # an option that its types do not know
        options = {
            "cache_dir": str(place.cache),
            "storage_options": {
                "endpoint_url": os.environ["S3_ENDPOINT_URL"],
                "aws_access_key_id": "none",
                "aws_secret_access_key": "none",
            },
        }
    data = litdata.StreamingDataset(place.url, shuffle=True, drop_last=True, max_cache_size="10GB", **options)
    return litdata.StreamingDataLoader(
        data,
        batch_size=BATCH,
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=True,
        collate_fn=collate,
    )


# HDF5 with the ZFP filter: chunks of samples, decoded by hdf5plugin.

CHUNK = 64
"""Samples in one chunk of HDF5: some hundred kB, as HDF5's users are advised."""
POOL = 4
"""Chunks whose rows are shuffled together."""


def write_hdf5(features: Features, out: Path) -> None:
    """x as [N * C, H, W] in chunks of whole samples: blocks of ZFP are 4 x 4 x 4 values of one sample then."""
    import h5py
    import hdf5plugin

    n, channels, *size = features.x.shape
    with h5py.File(out / "features.h5", "w") as file:
        file["y"] = features.y
        rate = float(os.environ.get("BENCH_RATE", "4"))
        x = file.create_dataset(
            "x", (n * channels, *size), np.float32, chunks=(CHUNK * channels, *size), **hdf5plugin.Zfp(rate=rate)
        )
        x.attrs["channels"] = channels
        for a in range(0, n, CHUNK):
            part = np.asarray(features.x[a : a + CHUNK], np.float32)
            x[a * channels : (a + len(part)) * channels] = part.reshape(-1, *size)


class _Hdf5(IterableDataset[Pair]):
    def __init__(self, place: Place) -> None:
        self.url, self.remote = f"{place.url}/features.h5", place.remote
        self.epoch = 0

    def __iter__(self) -> Iterator[Pair]:
        import h5py
        import hdf5plugin  # noqa: F401  # registers the filter

        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        self.epoch += 1
        order = np.random.default_rng(self.epoch)  # alike in all workers, which share the chunks out
        with h5py.File(self._file(), "r") as file:
            x, y = file["x"], file["y"][:]
            channels = int(x.attrs["channels"])
            chunks = order.permutation(-(-len(y) // CHUNK))[worker::workers]
            held: list[np.ndarray] = []
            labels: list[np.ndarray] = []
            for at, chunk in enumerate(chunks.tolist(), 1):
                a, b = chunk * CHUNK, min((chunk + 1) * CHUNK, len(y))
                held.append(x[a * channels : b * channels].reshape(b - a, channels, *x.shape[1:]))
                labels.append(y[a:b])
                if at % POOL and at < len(chunks):
                    continue
                xs, ys = np.concatenate(held), np.concatenate(labels)
                turn = order.permutation(len(ys))
                whole = len(ys) // BATCH * BATCH
                for i in range(0, whole, BATCH):
                    chosen = turn[i : i + BATCH]
                    yield torch.from_numpy(xs[chosen]), torch.from_numpy(ys[chosen])
                held, labels = [xs[turn[whole:]]], [ys[turn[whole:]]]

    def _file(self) -> Any:
        if not self.remote:
            return self.url
        import fsspec

        return fsspec.open(self.url, "rb", block_size=1 << 18, cache_type="readahead").open()


def read_hdf5(place: Place, workers: int) -> Iterable[Pair]:
    return loader(_Hdf5(place), workers, batch_size=None)


def _decoded_hdf5(copy: Path, count: int) -> str:
    """The first `count` features of a copy, in a file .npy."""
    import h5py
    import hdf5plugin  # noqa: F401  # it registers its filters

    with h5py.File(copy / "features.h5", "r") as file:
        x = file["x"]
        np.save(copy.parent / "decoded.npy", x[: count * int(x.attrs["channels"])])
    return str(copy.parent / "decoded.npy")


def names(place: Place, ending: str) -> list[str]:
    """URLs of a side's files; what they are called is known from its folder, which stands in `BENCH_COPIES`."""
    folder = Path(os.environ["BENCH_COPIES"]) / Path(place.url).name
    return [f"{place.url}/{path.name}" for path in sorted(folder.glob(f"*{ending}"))]


def nothing(features: Features, out: Path) -> None:
    """Of fmshards' own sides: their sets are extracted, not written here."""


def sides() -> dict[str, Side]:
    """Every peer by name; `fmshards RATE` and `fmshards RATE, augmented` are made by name (`side_of`)."""

    def zstd(write: Callable[..., None]) -> Callable[[Features, Path], None]:
        return lambda features, out: write(features, out, "zstd")

    return {
        "WebDataset, .npy": Side("", "http", "fp16", write_webdataset, read_webdataset),
        "MosaicML streaming": Side("mosaic", "s3", "fp16", write_mosaic, read_mosaic),
        "MosaicML streaming, zstd": Side("mosaic", "s3", "fp16", zstd(write_mosaic), read_mosaic),
        "LitData": Side("common", "s3", "fp16", write_litdata, read_litdata),
        "LitData, zstd": Side("common", "s3", "fp16", zstd(write_litdata), read_litdata),
        "HDF5 with ZFP": Side("common", "http", "zfp", write_hdf5, read_hdf5),
    }


def side_of(name: str) -> Side:
    """A peer, or one of fmshards' own sides."""
    if not name.startswith("fmshards "):
        return sides()[name]
    held, _, how = name.removeprefix("fmshards ").partition(", ")

    def read(place: Place, workers: int) -> Iterable[Pair]:
        return read_fmshards(place, workers, augment=how == "augmented")

    return Side("", "http", held, nothing, read)


def folder_of(name: str) -> str:
    """The folder of a side's copy."""
    return "".join(c if c.isalnum() else "_" for c in name)


# A process of a side.


def measure(name: str, place: Place, workers: int, epochs: int) -> dict[str, float]:
    """A loader made and read for some epochs: seconds to the first batch; seconds, samples and CPU seconds of all.

    Of several epochs the first is not counted, nor the loader's start; of an only one both are.
    """
    side = side_of(name)
    began, used, samples = time.perf_counter(), cpu_seconds(os.getpid()), 0
    made, first = began, None
    batches = side.read(place, workers)
    for epoch in range(epochs):
        if epoch == 1:
            began, used, samples = time.perf_counter(), cpu_seconds(os.getpid()), 0
        for x, y in batches:
            if first is None:
                first = time.perf_counter() - made
            if x.dtype != torch.float32 or len(x) != len(y):
                raise AssertionError(f"{name}: batches must be float32 with as many labels")
            samples += len(x)
    took, cpu = time.perf_counter() - began, cpu_seconds(os.getpid()) - used
    del batches  # ends its workers
    assert first is not None
    return {"first": first, "seconds": took, "samples": samples, "cpu": cpu}


LIMIT = 60.0
"""Seconds for a figure; the slowest side takes a third of it."""


def serve(requests: Iterable[str]) -> None:
    """Answer each request by a child of its own, forked when everything is imported: none knows of one before it. An
    epoch that does not end is given up with the child and its workers."""
    torch.set_num_threads(1)
    for line in requests:
        request = json.loads(line)
        held = memory_bytes(os.getpid())
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.setsid()
            os.close(read)
            _answer(request, write)
        os.close(write)
        most, why = held, "the process died"
        until = time.monotonic() + (LIMIT if "workers" in request else 86400)
        while not select.select([read], [], [], 0.02 if request.get("memory") else 1.0)[0]:
            if request.get("memory"):
                most = max(most, memory_bytes(os.getpid()))
            if time.monotonic() > until:
                why = f"no end after {LIMIT:.0f} s"
                os.killpg(child, signal.SIGKILL)
        with os.fdopen(read) as answer:
            found = json.loads(answer.read() or json.dumps({"error": why}))
        os.waitpid(child, 0)
        if request.get("memory") and "error" not in found:
            found["memory"] = most - held
        print(json.dumps(found), flush=True)


def _answer(request: dict[str, Any], to: int) -> None:
    os.dup2(2, 1)  # what a peer prints is no answer
    try:
        if "decode" in request:
            found: dict[str, Any] = {"decoded": _decoded_hdf5(Path(request["decode"]), request["count"])}
        elif "write" in request:
            os.environ["BENCH_RATE"] = request["rate"]
            side_of(request["side"]).write(Features.of(Path(request["features"])), Path(request["write"]))
            found = {}
        else:
            os.environ.update(request["environment"])
            place = Place(request["url"], Path(request["cache"]), request["remote"])
            if place.remote and request["side"].startswith("fmshards "):
                load_kernels(request["local"])
            found = measure(request["side"], place, request["workers"], request["epochs"])
    except BaseException as error:
        # A worker's error holds its traceback, with paths that say nothing elsewhere: what matters is its last line.
        said = [line for line in str(error).splitlines() if line.strip()] or [""]
        found = {"error": (said[-1] if len(said) > 1 else f"{type(error).__name__}: {said[0]}")[:300]}
    os.write(to, json.dumps(found).encode())
    os._exit(0)


if __name__ == "__main__":
    for package in sys.argv[1:]:
        __import__(package)
    serve(sys.stdin)
