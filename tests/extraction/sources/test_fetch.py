"""Images in a store: a worker asks for several at once, and an error is still that of its own image."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest

from fmshards import store
from fmshards.errors import InputError
from fmshards.extraction.batches import RawBatch
from fmshards.extraction.decode import Decoder
from fmshards.extraction.sources import open_source
from fmshards.model import parse_preprocess

from ..conftest import png
from .helpers import items

ROOT = "memory://fmshards-fetch"


@pytest.fixture(autouse=True)
def photos() -> Iterator[Any]:
    memory = fsspec.filesystem("memory")
    for i in range(8):
        memory.pipe(f"/fmshards-fetch/photos/{i}.png", png(i))
    memory.pipe("/fmshards-fetch/list.txt", "\n".join(f"photos/{i}.png" for i in range(8)).encode())
    yield memory
    memory.rm("/fmshards-fetch", recursive=True)


class Watched(store.Passing):
    """Counts the reads of images that are under way at once."""

    most = now = 0
    lock = threading.Lock()

    def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
        with self.lock:
            Watched.now += 1
            Watched.most = max(Watched.most, Watched.now)
        time.sleep(0.02)
        with self.lock:
            Watched.now -= 1
        return super().read(url, start, length)


@pytest.mark.parametrize("name", ["photos/", "list.txt"])
def test_images_are_read_side_by_side(name: str) -> None:
    source = open_source(f"{ROOT}/{name}")
    decode, raw = Decoder(source, parse_preprocess("none")), items(source)
    wanted = [source.load(item) for item in raw]
    Watched.most = 0
    with store.wrapped(Watched):
        batch = decode(RawBatch(0, raw, last=True))
    assert Watched.most > 1
    assert batch.keys == [sample.key for sample in wanted]
    assert batch.digests == [sample.digest for sample in wanted]


@pytest.mark.parametrize("name", ["photos/", "list.txt"])
def test_an_image_that_is_gone_is_named(name: str, photos: Any) -> None:
    source = open_source(f"{ROOT}/{name}")
    raw = items(source)
    photos.rm("/fmshards-fetch/photos/5.png")
    with pytest.raises(InputError, match=r"key '(5|00000005)': .*cannot read memory://.*/5\.png: it does not exist"):
        Decoder(source, parse_preprocess("none"))(RawBatch(0, raw, last=True))
