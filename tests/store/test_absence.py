"""Only "not found" means absent: every other trouble in looking is an error. Marks, and what is no plain file."""

from __future__ import annotations

import errno
import os
import time

import pytest

from fmshards import store
from fmshards.errors import InputError, StoreError

TROUBLE = [
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EMFILE,
]


@pytest.mark.parametrize("number", TROUBLE, ids=errno.errorcode.get)
@pytest.mark.parametrize("look", [store.exists, store.info, store.size, lambda url: store.put_if_absent(url, b"new")])
def test_trouble_in_looking_is_not_absence(tmp_path, monkeypatch, number, look):
    path = tmp_path / "manifest.json"
    path.write_bytes(b"old")
    real = os.stat

    def fail(at, *more, **also):
        if at == str(path):
            raise OSError(number, os.strerror(number), at)
        return real(at, *more, **also)

    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(StoreError, match=r"cannot look for .*manifest\.json"):
        look(str(path))
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("number", TROUBLE, ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_listed_is_not_empty(tmp_path, monkeypatch, number):
    def fail(at):
        raise OSError(number, os.strerror(number), at)

    monkeypatch.setattr(os, "listdir", fail)
    with pytest.raises(StoreError, match="cannot list"):
        store.list_names(str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_that_may_not_be_entered(tmp_path):
    folder = tmp_path / "layer2"
    folder.mkdir()
    (folder / "000000.tar").write_bytes(b"x")
    folder.chmod(0)
    try:
        with pytest.raises(StoreError, match="cannot look for"):
            store.exists(str(folder / "000000.tar"))
        with pytest.raises(StoreError, match="cannot list"):
            store.list_names(str(folder))
        with pytest.raises(StoreError, match="cannot look for"):
            store.expand(str(folder / "*.tar"))
    finally:
        folder.chmod(0o755)


def test_what_goes_through_a_file_is_trouble_and_a_dangling_link_is_absent(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(StoreError, match="Not a directory"):
        store.exists(str(tmp_path / "file" / "plan.json"))
    assert not store.exists(str(tmp_path / "link"))
    assert not store.exists(str(tmp_path / "none" / "plan.json"))
    with pytest.raises(InputError, match="nothing is there"):
        store.expand(str(tmp_path / "none" / "*.tar"))


def test_trouble_of_a_backend_is_not_absence(monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    def fail(self, path, **also):
        raise PermissionError(errno.EACCES, "Forbidden", path)

    monkeypatch.setattr(MemoryFileSystem, "info", fail)
    for look in (store.exists, store.info, store.size):
        with pytest.raises(StoreError, match="cannot look for memory://"):
            look("memory://bucket/manifest.json")


def test_a_mark_changes_with_the_content(folder):
    url = store.join(folder, "x")
    assert store.info(url) is None
    store.put(url, b"one")
    first = store.info(url)
    assert first == store.info(url)
    assert first is not None
    assert first.size == 3
    assert first.mark is not None
    time.sleep(0.02)
    store.put(url, b"two")
    second = store.info(url)
    assert second is not None
    assert second.size == 3
    assert second.mark != first.mark


def test_an_etag_is_the_mark_where_a_store_has_one(monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(MemoryFileSystem, "info", lambda self, path, **also: {"size": 3, "ETag": '"abc"', "created": 1})
    assert store.info("memory://b/x") == store.Info(3, 'ETag "abc"')


@pytest.mark.parametrize("read", [store.read, lambda url: store.read(url, 0, 4), store.open_stream])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="it is a pipe"):
        read(str(tmp_path / "pipe"))


@pytest.mark.parametrize("read", [store.read, store.open_stream])
def test_a_device_and_a_folder_are_refused(tmp_path, read):
    for url in ("/dev/zero", str(tmp_path)):
        with pytest.raises(StoreError, match=url):
            read(url)
