"""A backend wrapped in another: all that a set's readers ask for goes through it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fmshards import store
from fmshards.errors import StoreError
from fmshards.stream import open_shards
from tests.sets import build_set


class Through(store.Backend):
    """Another backend's answers."""

    def __init__(self, inner: store.Backend) -> None:
        self.inner = inner

    def info(self, url):
        return self.inner.info(url)

    def read(self, url, start=0, length=None):
        return self.inner.read(url, start, length)


class Cached(Through):
    def __init__(self, inner: store.Backend) -> None:
        super().__init__(inner)
        self.kept: dict[tuple[str, int, int | None], bytes] = {}

    def read(self, url, start=0, length=None):
        place = (url, start, length)
        if place not in self.kept:
            self.kept[place] = super().read(*place)
        return self.kept[place]


class Retrying(Through):
    def read(self, url, start=0, length=None):
        try:
            return super().read(url, start, length)
        except StoreError:
            return super().read(url, start, length)


class Failing(Through):
    """Fails every first read of a place, and counts them all."""

    def __init__(self, inner: store.Backend) -> None:
        super().__init__(inner)
        self.reads: Counter[tuple[str, int, int | None]] = Counter()

    def read(self, url, start=0, length=None):
        place = (url, start, length)
        self.reads[place] += 1
        if self.reads[place] == 1:
            raise StoreError(f"cannot read {url}: not now")
        return super().read(*place)


def test_a_set_is_read_through_a_cache_over_retries(tmp_path: Path) -> None:
    url = build_set(tmp_path / "set").url
    plain = next(iter(open_shards(url)))
    made: list[Failing] = []

    def failing(inner: store.Backend) -> Failing:
        made.append(Failing(inner))
        return made[-1]

    with store.wrapped(failing):
        with pytest.raises(StoreError, match="not now"):
            list(open_shards(url))
        with store.wrapped(lambda inner: Cached(Retrying(inner))):
            for _ in range(2):
                found = next(iter(open_shards(url)))
                assert found.keys() == plain.keys()
                for name, value in plain.items():
                    np.testing.assert_array_equal(found[name], value)
    (counted,) = made
    assert len(counted.reads) > 2  # manifest, index, chunks
    assert set(counted.reads.values()) == {2}  # once in vain, once for the cache
    assert store.backend(url).__class__.__name__ == "Local"
