"""Local writes are whole or not there: full disks, killed writers, writers side by side."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys

import pytest

from fmshards import store
from fmshards.errors import StoreError


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("write", [store.put, store.put_if_absent])
def test_a_disk_that_is_full_at_the_sync(tmp_path, monkeypatch, code, write):
    def full(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    url = str(tmp_path / "x.tar")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"x\.tar: (the disk is full|the quota is used up) \(writing 1,234 bytes\)"):
        write(url, b"a" * 1234)
    assert os.listdir(tmp_path) == []


WRITE_TOO_MUCH = """
import resource, signal, sys
from fmshards import store
from fmshards.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
try:
    with store.atomic_file(sys.argv[1]) as file:
        for _ in range(100):
            file.write(bytes(100_000))
except StoreError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_file_that_may_not_grow(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"old")
    done = python(WRITE_TOO_MUCH, str(tmp_path / "x.tar"))
    assert done.returncode == 7, done.stderr
    assert "x.tar: the file is too large (writing " in done.stdout
    assert "at byte 3,000,000" in done.stdout
    assert os.listdir(tmp_path) == ["x.tar"]
    assert (tmp_path / "x.tar").read_bytes() == b"old"


def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        store.put(str(disk / "old"), b"old")
        with pytest.raises(StoreError, match="the disk is full"):
            store.put(str(disk / "old"), bytes(2_000_000))
        with pytest.raises(StoreError, match="the disk is full"), store.atomic_file(str(disk / "new")) as file:
            file.writelines(bytes(60_000) for _ in range(40))
        assert os.listdir(disk) == ["old"]
        assert store.read(str(disk / "old")) == b"old"
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot write"):
        store.put(str(tmp_path / "file" / "x"), b"")
    with pytest.raises(StoreError, match="cannot read"):
        store.read(str(tmp_path))
    with pytest.raises(StoreError, match="cannot remove"):
        store.remove(str(tmp_path))
    with pytest.raises(StoreError, match="cannot write"):
        store.put("a\0b", b"")


HOLD = """
import sys, time
from fmshards import store
with store.atomic_file(sys.argv[1]) as file:
    file.write(bytes(3_000_000))
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock and kill")
def test_what_a_killed_writer_left_goes_and_what_a_live_one_writes_stays(tmp_path):
    url = str(tmp_path / "x.tar")
    writers = [subprocess.Popen([sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
        assert len(os.listdir(tmp_path)) == 2
        assert store.list_names(str(tmp_path)) == []
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        store.put(str(tmp_path / "y.tar"), b"another name sweeps nothing")
        assert len(os.listdir(tmp_path)) == 3
        store.put(url, b"ours")
        assert len(os.listdir(tmp_path)) == 3  # x.tar, y.tar and what the live writer holds
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
    store.put(url, b"ours again")
    assert sorted(os.listdir(tmp_path)) == ["x.tar", "y.tar"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock and kill")
def test_a_spool_that_a_killed_writer_left_goes_and_a_live_one_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    command = [sys.executable, "-c", HOLD, "memory://bucket/x.tar"]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
        (tmp_path / "else.tmp").write_bytes(b"another's file")
        assert len(os.listdir(tmp_path)) == 3
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.glob(".fmshards*"))
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        with store.atomic_file("memory://bucket/y.tar") as file:
            file.write(b"y")
            assert len(os.listdir(tmp_path)) == 3  # this one's, the live one's, the other file
        assert store.read("memory://bucket/y.tar") == b"y"
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
    with store.atomic_file("memory://bucket/y.tar") as file:
        file.write(b"y")
    assert os.listdir(tmp_path) == ["else.tmp"]


def test_two_writers_of_one_file_do_no_harm(tmp_path):
    url = str(tmp_path / "x.tar")
    with store.atomic_file(url) as first, store.atomic_file(url) as second:
        first.write(b"first" * 100_000)
        second.write(b"second")
    assert store.read(url) == b"first" * 100_000
    assert os.listdir(tmp_path) == ["x.tar"]


def test_files_get_the_mode_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        store.put(str(tmp_path / "a"), b"")
        store.put_if_absent(str(tmp_path / "b"), b"")
    finally:
        os.umask(before)
    if os.name == "posix":
        assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"} == {0o640}


def test_a_place_without_hard_links(tmp_path, monkeypatch):
    def no_links(*args: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    assert store.put_if_absent(str(tmp_path / "a"), b"1")
    assert not store.put_if_absent(str(tmp_path / "a"), b"2")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_cut_while_it_is_read_is_corrupt(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    fstat = os.fstat

    def then_cut(fd: int) -> os.stat_result:
        found = fstat(fd)
        os.truncate(path, 50)
        return found

    monkeypatch.setattr(os, "fstat", then_cut)
    from fmshards.errors import CorruptError

    with pytest.raises(CorruptError, match="found only"):
        store.read(str(path), 0, 100)


def test_a_read_that_fails_in_the_middle_is_our_error(tmp_path):
    from fmshards.store.guard import guarded_reader

    class Failing:
        def __init__(self) -> None:
            self.left = 3

        def readinto(self, buffer: memoryview) -> int:
            self.left -= 1
            if not self.left:
                raise RuntimeError(lambda: "an error that does not pickle")
            buffer[:10] = bytes(10)
            return 10

        def close(self) -> None:
            pass

    reader = guarded_reader(Failing(), "s3://bucket/in.tar")
    with pytest.raises(StoreError, match=r"cannot read s3://bucket/in\.tar: RuntimeError"):
        reader.read()

    reader.close()
