"""A folder of images in class folders, read in a seeded permutation so that no chunk holds one class."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

from fmshards.errors import InputError
from fmshards.extraction.sources.base import IMAGE_EXTENSIONS, Item, Sample
from fmshards.extraction.sources.image import decode_image
from fmshards.shards import InputShard


class FolderSource:
    """ROOT/CLASS/.../image. Classes are the sorted names of the folders in ROOT; without any, samples have no class.

    Fields: `cls` (int), `class` (str), `path` (str, below ROOT). The key is the path without its extension, with it
    where two images differ in nothing else. Input shards are virtual: `shard_size` images each. Hidden files are not
    looked at; links are followed.
    """

    def __init__(self, root: str, shard_size: int, seed: int) -> None:
        self.root = Path(root)
        paths = _images(self.root)
        self.classes = _classes(self.root, paths)
        self.shard_size, self.seed = shard_size, seed
        # Sorted by a hash: a permutation that depends on nothing but the seed and the names.
        paths.sort(key=lambda path: (hashlib.blake2b(f"{seed}\0{path}".encode()).digest(), path))
        keys = _keys(paths)
        self._shards = [
            list(zip(keys[i : i + shard_size], paths[i : i + shard_size], strict=True))
            for i in range(0, len(paths), shard_size)
        ]
        self.inputs = tuple(self._input(i, [path for _, path in shard]) for i, shard in enumerate(self._shards))

    def _input(self, i: int, paths: list[str]) -> InputShard:
        sizes = [os.stat(self.root / path).st_size for path in paths]
        listing = "".join(f"{path}\0{size}\n" for path, size in zip(paths, sizes, strict=True))
        digest = hashlib.sha256(listing.encode()).hexdigest()
        return InputShard(name=f"{i:06d}", url=str(self.root), bytes=sum(sizes), samples=len(paths), digest=digest)

    def options(self) -> dict[str, Any]:
        return {"source": "folder", "shard_size": self.shard_size}

    def work(self, shard: int) -> int:
        return len(self._shards[shard])

    def items(self, shard: int) -> Generator[Item, None, None]:
        for i, (key, path) in enumerate(self._shards[shard]):
            fields: dict[str, Any] = {"path": path}
            if self.classes:
                name = path.partition("/")[0]
                fields |= {"cls": self.classes.index(name), "class": name}
            yield Item(key, path, fields, i + 1)

    def load(self, item: Item) -> Sample:
        path = self.root / item.data
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error}") from None
        return Sample(item.key, decode_image(data), item.fields)


def _images(root: Path) -> list[str]:
    """Paths of all images below `root`, with '/' between their parts."""
    found: list[str] = []
    others: list[str] = []

    def refuse(error: OSError) -> None:
        raise InputError(f"the folder {error.filename} cannot be read: {error.strerror}")

    for folder, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                path = Path(folder, name).relative_to(root).as_posix()
                image = name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS
                (found if image else others).append(path)
    if not found:
        raise InputError(
            f"{root} holds no image; expected images in class folders ({', '.join(sorted(IMAGE_EXTENSIONS))}) or "
            "WebDataset tars"
        )
    if others:
        warnings.warn(
            f"{root}: {len(others)} files are no images by their extension, such as {others[0]!r}; left out",
            stacklevel=2,
        )
    return found


def _classes(root: Path, paths: list[str]) -> tuple[str, ...] | None:
    classes = sorted({path.partition("/")[0] for path in paths if "/" in path})
    loose = [path for path in paths if "/" not in path]
    if classes and loose:
        raise InputError(
            f"{root} holds class folders ({classes[0]!r} ...) and {len(loose)} images outside of them, such as "
            f"{loose[0]!r}: move these into a class folder"
        )
    return tuple(classes) or None


def _keys(paths: list[str]) -> list[str]:
    keys = [path.rpartition(".")[0] for path in paths]
    count = Counter(keys)
    keys = [key if count[key] == 1 else path for key, path in zip(keys, paths, strict=True)]
    return keys if len(set(keys)) == len(keys) else paths
