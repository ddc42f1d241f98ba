"""Bytes written are bytes read, on every kind of URL; what is missing or short says so."""

from __future__ import annotations

import pickle
import threading

import pytest

from fmshards import store
from fmshards.errors import CorruptError, FormatError, StoreError


def test_what_is_put_is_read(folder):
    url = store.join(folder, "layer2", "000000.tar")
    assert not store.exists(url)
    store.put(url, b"0123456789")
    assert store.exists(url)
    assert store.size(url) == 10
    assert store.read(url) == b"0123456789"
    assert store.read(url, 3, 4) == b"3456"
    assert store.read(url, 3) == b"3456789"
    assert store.read(url, 0, 0) == b""
    assert store.read(url, 10, 0) == b""
    store.put(url, b"other")
    assert store.read(url) == b"other"
    store.put(url, b"")
    assert store.size(url) == 0
    assert store.read(url, 0, 0) == b""


@pytest.mark.parametrize(
    ("start", "length"), [(0, 11), (5, 6), (9, 2), (10, 1), (11, 1), (50, 10), (0, 2**60), (2**60, 1)]
)
def test_a_short_object_is_corrupt(folder, start, length):
    url = store.join(folder, "short")
    store.put(url, b"0123456789")
    with pytest.raises(CorruptError, match=r"short: expected .*found only"):
        store.read(url, start, length)


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, -1), (-5, None)])
def test_a_negative_range_is_refused(folder, start, length):
    with pytest.raises(CorruptError, match="no byte range"):
        store.read(store.join(folder, "x"), start, length)


def test_what_is_missing_is_named(folder):
    url = store.join(folder, "absent.tar")
    for call in (store.read, store.size, store.open_stream, lambda u: store.read_small(u, 10)):
        with pytest.raises(StoreError, match=r"absent\.tar: it does not exist") as caught:
            call(url).read()
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert store.list_names(url) == []
    assert not store.exists(url)
    store.remove(url)


def test_a_large_object_is_not_read_as_a_small_one(folder, monkeypatch):
    url = store.join(folder, "plan.json")
    store.put(url, b"x" * 100)
    assert store.read_small(url, 100) == b"x" * 100
    with pytest.raises(FormatError, match=r"plan\.json: expected at most 99 bytes, found 100"):
        store.read_small(url, 99)


def test_names_are_listed_sorted(folder):
    for name in ("b", "c", "a"):
        store.put(store.join(folder, name), b"")
    assert store.list_names(folder) == ["a", "b", "c"]
    assert store.list_names(folder + "/") == ["a", "b", "c"]
    store.remove(store.join(folder, "b"))
    assert store.list_names(folder) == ["a", "c"]
    with store.atomic_file(store.join(folder, "d")) as file:
        file.write(b"x")
        assert store.list_names(folder) == ["a", "c"]
    assert store.list_names(folder) == ["a", "c", "d"]


def test_a_stream_is_read_to_its_end(folder):
    url = store.join(folder, "in.tar")
    data = bytes(range(256)) * 20_000
    store.put(url, data)
    with store.open_stream(url) as file:
        assert file.read(1000) == data[:1000]
        assert file.read(3_000_000) == data[1000:3_001_000]
        assert file.read() == data[3_001_000:]
        assert file.read(1) == b""


def test_an_atomic_file_appears_whole(folder):
    url = store.join(folder, "deep", "er", "x.tar")
    with store.atomic_file(url) as file:
        for i in range(100):
            file.write(bytes([i]) * 50_000)
        assert file.tell() == 5_000_000
        assert not store.exists(url)
    assert store.size(url) == 5_000_000
    assert store.read(url, 50_000 * 7, 3) == b"\7\7\7"


def test_an_atomic_file_that_fails_leaves_what_was(folder):
    url = store.join(folder, "x.tar")
    store.put(url, b"old")
    with pytest.raises(KeyError), store.atomic_file(url) as file:
        _write_and_raise(file, KeyError)
    assert store.read(url) == b"old"
    store.remove(url)
    with pytest.raises(KeyboardInterrupt), store.atomic_file(url) as file:
        _write_and_raise(file, KeyboardInterrupt)
    assert store.list_names(folder) == []


def _write_and_raise(file, error):
    file.write(b"new" * 1_000_000)
    raise error


def test_put_if_absent_has_one_winner(folder):
    url = store.join(folder, "plan.json")
    ours = []
    barrier = threading.Barrier(8)

    def work(i: int) -> None:
        barrier.wait()
        ours.append((store.put_if_absent(url, f"{i}".encode() * 10_000), i))

    if folder.startswith("memory"):  # fsspec's memory looks, then writes: one after the other
        barrier = threading.Barrier(1)
        for i in range(8):
            work(i)
    else:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    winners = [i for won, i in ours if won]
    assert (len(ours), len(winners)) == (8, 1)
    assert store.read(url) == f"{winners[0]}".encode() * 10_000
    assert store.list_names(folder) == ["plan.json"]


def test_a_backend_that_does_not_exist_is_our_error():
    for url in ("nosuch://bucket/x", "pipe:cat /etc/passwd", "file://elsewhere/x"):
        for call in (store.read, store.size, store.exists, store.open_stream, store.list_names):
            with pytest.raises(StoreError):
                call(url)
        with pytest.raises(StoreError):
            store.put(url, b"")


def test_reading_over_http(web):
    (web.root / "a").mkdir()
    data = bytes(range(256)) * 40_000
    (web.root / "a" / "s.tar").write_bytes(data)
    url = store.join(web.url, "a", "s.tar")
    assert store.exists(url)
    assert not store.exists(store.join(web.url, "a", "t.tar"))
    assert store.size(url) == len(data)
    web.asked.clear()
    assert store.read(url, 1000, 5000) == data[1000:6000]
    assert web.asked == ["GET /a/s.tar bytes=1000-5999"]
    assert store.read(url) == data
    assert store.read(url, len(data) - 10) == data[-10:]
    assert store.read_small(url, len(data)) == data
    with store.open_stream(url) as file:
        assert file.read() == data
    with pytest.raises(CorruptError, match="found only"):
        store.read(url, len(data) - 10, 20)
    with pytest.raises(CorruptError, match="found only"):
        store.read(url, len(data) + 10, 20)
    with pytest.raises(StoreError, match="does not exist"):
        store.read(store.join(web.url, "none"), 0, 10)
    with pytest.raises(StoreError, match="cannot write"):
        store.put(url, b"")


def test_a_web_server_without_ranges_is_refused_by_name(web):
    (web.root / "s.tar").write_bytes(bytes(1000))
    web.ranges = False
    url = store.join(web.url, "s.tar")
    assert store.read(url, 0, 1000) == bytes(1000)
    with pytest.raises(StoreError, match="does not serve byte ranges"):
        store.read(url, 10, 20)


def test_a_web_server_that_fails_or_cuts_is_our_error(web, impatient):
    (web.root / "s.tar").write_bytes(bytes(100_000))
    url = store.join(web.url, "s.tar")
    web.status = 503
    calls = [store.read, store.exists, store.size, lambda u: store.open_stream(u).read(), store.list_names]
    for call in calls:
        with pytest.raises(StoreError, match="503") as caught:
            call(url)
        assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    web.status, web.cut = 0, 10
    with pytest.raises(StoreError):
        store.read(url, 0, 5000)
    with pytest.raises(StoreError):
        store.open_stream(url).read()
    web.cut = 0
    with pytest.raises(StoreError, match="Connect"):
        store.exists("http://127.0.0.1:9/nobody/listens")
