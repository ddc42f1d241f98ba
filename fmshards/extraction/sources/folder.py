"""Images in class folders, on a disk or in a store, read in a seeded permutation: no chunk holds one class."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from fmshards import store
from fmshards.errors import InputError, warn
from fmshards.extraction.sources.base import IMAGE_EXTENSIONS, Item, Sample
from fmshards.extraction.sources.classes import check_known
from fmshards.extraction.sources.content import SampleDigests, files_content
from fmshards.extraction.sources.fetch import read_all
from fmshards.extraction.sources.image import decode_image
from fmshards.extraction.sources.scan import Scan, Seen, scan, warn_left_out
from fmshards.extraction.sources.scan_store import scan_store
from fmshards.shards import InputShard


class FolderSource:
    """ROOT/CLASS/.../image, on a disk or at a URL that can be listed. Every folder in ROOT is a class, in sorted order,
    or in that of `classes` where given; where no folder holds an image, samples have no class.

    Fields: `cls` (int), `class` (str), `path` (str, below ROOT). The key is the path without its extension, with it
    where two images differ in nothing else. Input shards are virtual: `shard_size` images each. Hidden files are not
    looked at; links are followed, and a folder is read once. A store knows no folder without a file, so that a class of
    which there is no image is none there, unless `classes` names it.

    Files are read and digested in workers, beside their decoding: a shard's digest is known when `loaded` has been told
    of all of them.
    """

    def __init__(
        self,
        root: str,
        shard_size: int,
        seed: int,
        *,
        classes: tuple[str, ...] | None = None,
        orientation: str = "apply",
    ) -> None:
        self.local = store.is_local(root)
        self.root = str(Path(root)) if self.local else root.rstrip("/")
        found = scan(Path(root)) if self.local else scan_store(self.root)
        if not found.images:
            beside = (
                f"; it holds files such as {min(found.others)!r}: archives are to be unpacked" if found.others else ""
            )
            raise InputError(
                f"{root} holds no image; expected images in class folders ({', '.join(sorted(IMAGE_EXTENSIONS))}) or "
                f"WebDataset tars{beside}"
            )
        warn_left_out(self.root, found)
        self.classes = _classes(self.root, found, classes)
        self._numbers = {name: i for i, name in enumerate(self.classes or ())}
        self.shard_size, self.seed, self.orientation = shard_size, seed, orientation
        # Sorted by a hash: a permutation that depends on nothing but the seed and the names.
        paths = sorted(found.images, key=lambda path: (hashlib.blake2b(f"{seed}\0{path}".encode()).digest(), path))
        keys = _keys(paths)
        self._shards = [
            list(zip(keys[i : i + shard_size], paths[i : i + shard_size], strict=True))
            for i in range(0, len(paths), shard_size)
        ]
        self.inputs = tuple(self._input(i, found.images) for i in range(len(self._shards)))
        self._stamps = [self._stamp(i, found.images) for i in range(len(self._shards))]
        self._digests = SampleDigests()

    def _input(self, i: int, seen: Mapping[str, Seen]) -> InputShard:
        sizes = [seen[path][0] for path in self._paths(i)]
        listing = "".join(f"{path}\0{size}\n" for path, size in zip(self._paths(i), sizes, strict=True))
        digest = hashlib.sha256(listing.encode()).hexdigest()
        return InputShard(name=f"{i:06d}", url=self.root, bytes=sum(sizes), samples=len(sizes), digest=digest)

    def _stamp(self, i: int, seen: Mapping[str, Seen]) -> str | None:
        if not all(seen[path][1] for path in self._paths(i)):
            return None
        listing = "".join(f"{path}\0{seen[path][0]}\0{seen[path][1]}\n" for path in self._paths(i))
        return f"{len(self._shards[i])} files, {hashlib.sha256(listing.encode()).hexdigest()}"

    def _paths(self, shard: int) -> list[str]:
        return [path for _, path in self._shards[shard]]

    def options(self) -> dict[str, Any]:
        turned = {} if self.orientation == "ignore" else {"orientation": self.orientation}
        return {"source": "folder", "shard_size": self.shard_size, **turned}

    def work(self, shard: int) -> int:
        return len(self._shards[shard])

    def items(self, shard: int) -> Generator[Item, None, None]:
        for i, (key, path) in enumerate(self._shards[shard]):
            fields: dict[str, Any] = {"path": path}
            if self.classes:
                name = path.partition("/")[0]
                fields |= {"cls": self._numbers[name], "class": name}
            yield Item(key, path, fields, i + 1)

    def fetched(self, items: Sequence[Item]) -> Sequence[Item]:
        if self.local:
            return items
        found = read_all([item.data for item in items], self._read)
        return [replace(item, data=data) for item, data in zip(items, found, strict=True)]

    def load(self, item: Item) -> Sample:
        data = item.data.result() if isinstance(item.data, Future) else self._read(item.data)
        return Sample(item.key, decode_image(data, self.orientation), item.fields, hashlib.sha256(data).digest())

    def loaded(self, shard: int, digests: Sequence[bytes]) -> None:
        self._digests.add(shard, digests, self.work(shard))

    def stamp(self, shard: int) -> str | None:
        return self._stamps[shard]

    def content(self, shard: int) -> str | None:
        with ThreadPoolExecutor(8) as pool:  # many small files: their latencies side by side
            digests = pool.map(lambda path: hashlib.sha256(self._read(path)).digest(), self._paths(shard))
            return files_content(self._paths(shard), digests)

    def digest_read(self, shard: int) -> str | None:
        known = self._digests.whole(shard, self.work(shard))
        return None if known is None else files_content(self._paths(shard), known)

    def fingerprint(self) -> str | None:
        return None

    def _read(self, path: str) -> bytes:
        if not self.local:
            return store.read(store.join(self.root, path))
        try:
            return Path(self.root, path).read_bytes()
        except OSError as error:
            raise InputError(f"{Path(self.root, path)} cannot be read: {error}") from None


def _classes(root: str, found: Scan, given: tuple[str, ...] | None) -> tuple[str, ...] | None:
    counts = Counter(path.partition("/")[0] for path in found.images if "/" in path)
    loose = sorted(path for path in found.images if "/" not in path)
    if not counts:
        if given is not None:
            raise InputError(f"{root}: classes are given, but no folder in it holds an image; expected class folders")
        return None
    if loose:
        raise InputError(
            f"{root} holds class folders ({min(counts)!r} ...) and {len(loose)} images outside of them, such as "
            f"{loose[0]!r}: move these into a class folder"
        )
    if given is not None:
        check_known(sorted(counts), given, root)
    empty = sorted(name for name in found.folders if not counts[name] and (given is None or name in given))
    if empty:
        warn(
            f"{root}: {len(empty)} of {len(found.folders)} class folders hold no image: {', '.join(empty[:10])}"
            f"{' ...' if len(empty) > 10 else ''}; each keeps its number, as the others do"
        )
    return given or tuple(sorted(found.folders))


def _keys(paths: list[str]) -> list[str]:
    keys = [path.rpartition(".")[0] for path in paths]
    count = Counter(keys)
    keys = [key if count[key] == 1 else path for key, path in zip(keys, paths, strict=True)]
    return keys if len(set(keys)) == len(keys) else paths
