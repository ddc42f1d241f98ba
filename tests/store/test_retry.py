"""A store that does not answer is asked again for a while, from the byte reached; what it refuses is said at once."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from fmshards.errors import CorruptError, MismatchError, StoreError, TransientError
from fmshards.store import Info, Passing, retry, until
from fmshards.store.guard import guard
from fmshards.store.local import Local
from fmshards.store.retry import Retrying

DATA = bytes(range(256)) * 4


class Shaky(Passing):
    """DATA in parts of 100 bytes; `fails` tells, of a request's number and its part's, what is raised there."""

    def __init__(self, fails: Callable[[int, int], Exception | None]) -> None:
        super().__init__(Local())
        self.fails = fails
        self.asked: list[tuple[int, int | None]] = []

    def parts(self, url: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        self.asked.append((start, length))
        end = len(DATA) if length is None else start + length
        for part, at in enumerate(range(start, end, 100)):
            error = self.fails(len(self.asked), part)
            if error is not None:
                raise error
            yield DATA[at : min(at + 100, end)]


def lost() -> TransientError:
    return TransientError("cannot read x: reset")


def test_a_read_goes_on_from_the_byte_it_reached() -> None:
    shaky = Shaky(lambda request, part: lost() if part == 3 and request < 3 else None)
    assert Retrying(shaky).read("x", 10, 1000) == DATA[10:1010]
    assert shaky.asked == [(10, 1000), (310, 700), (610, 400)]
    assert Retrying(shaky).read("x", 1000) == DATA[1000:]


@pytest.mark.parametrize("error", [StoreError("403"), CorruptError("short"), MismatchError("other")])
def test_what_will_not_change_is_said_at_once(error: Exception) -> None:
    shaky = Shaky(lambda request, part: error)
    with pytest.raises(type(error), match=str(error)):
        Retrying(shaky).read("x", 0, 10)
    assert len(shaky.asked) == 1


def test_patience_ends_and_is_renewed_by_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(threading.Event, "wait", lambda self, seconds: now.__setitem__(0, now[0] + seconds))
    shaky = Shaky(lambda request, part: lost())
    with pytest.raises(TransientError, match=r"reset; given up after \d+ tries in \d+ s"):
        Retrying(shaky, 60).read("x", 0, 10)
    assert 30 < now[0] <= 60
    assert 5 < len(shaky.asked) < 30

    def slow(request: int, part: int) -> Exception | None:
        now[0] += 40
        return lost() if part else None

    before = now[0]
    assert Retrying(Shaky(slow), 60).read("x", 0, 1000) == DATA[:1000]
    assert now[0] - before > 10 * 60


def test_waiting_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(retry, "_SILENT", 0.0)
    shaky = Shaky(lambda request, part: lost() if request < 4 else None)
    with caplog.at_level(logging.WARNING, "fmshards"):
        Retrying(shaky).read("x", 0, 10)
    (line,) = caplog.messages
    assert line.startswith("cannot read x: reset; asking again for up to 1")


def test_nobody_waits_for_what_nobody_wants() -> None:
    stop = threading.Event()
    stop.set()
    shaky = Shaky(lambda request, part: lost())
    with pytest.raises(TransientError), until(stop):
        Retrying(shaky).read("x", 0, 10)
    assert len(shaky.asked) == 1


class Http(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Botocore(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("An error occurred")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class ClientPayloadError(Exception):
    pass


def caused(by: Exception) -> FileNotFoundError:
    error = FileNotFoundError("http://x")
    error.__cause__ = by
    return error


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 412, 416, 425, 429, 500, 501, 502, 503, 504])
@pytest.mark.parametrize("kind", [Http, Botocore, lambda status: caused(Http(status))])
def test_which_answers_may_change(kind: Callable[[int], Exception], status: int) -> None:
    with pytest.raises(StoreError) as caught, guard("read", "x"):
        raise kind(status)
    assert (type(caught.value) is TransientError) == (status in (408, 425, 429, 500, 502, 503, 504))


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), True),
        (TimeoutError(), True),
        (OSError(errno.ESTALE, "stale"), True),
        (ClientPayloadError("cut"), True),
        (PermissionError(errno.EACCES, "denied"), False),
        (OSError(errno.ENOSPC, "full"), False),
        (FileNotFoundError("none"), False),
        (caused(TimeoutError()), True),
        (ValueError("what"), False),
        (OSError(-2, "Name or service not known"), False),
    ],
)
def test_which_errors_may_pass(error: Exception, again: bool) -> None:
    with pytest.raises(StoreError) as caught, guard("read", "x"):
        raise error
    assert (type(caught.value) is TransientError) is again


def test_a_write_whose_answer_was_lost_is_ours(tmp_path) -> None:
    class Lossy(Passing):
        calls = 0

        def put_if_absent(self, url: str, data: bytes) -> bool:
            self.calls += 1
            won = self._inner.put_if_absent(url, data)
            if self.calls == 1:
                raise lost()
            return won

    assert Retrying(Lossy(Local())).put_if_absent(str(tmp_path / "a"), b"mine")
    (tmp_path / "b").write_bytes(b"another's")
    assert not Retrying(Lossy(Local())).put_if_absent(str(tmp_path / "b"), b"mine")


class Cut(Passing):
    """Streams that end in an error after some bytes, the first few times."""

    def __init__(self, times: int) -> None:
        super().__init__(Local())
        self.times = times
        self.opened = 0

    def open_stream(self, url):
        file = self._inner.open_stream(url)
        self.opened += 1
        if self.opened <= self.times:
            real, left = file.read, [100_000]

            def read(count: int = -1) -> bytes:
                if left[0] <= 0:
                    raise lost()
                data = real(count)
                left[0] -= len(data)
                return data

            class Short:
                def __init__(self) -> None:
                    self.read, self.seek, self.close = read, file.seek, file.close

            return Short()
        return file


def test_a_stream_goes_on_where_it_was_cut(tmp_path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "x.tar").write_bytes(data)
    cut = Cut(3)
    with Retrying(cut).open_stream(str(tmp_path / "x.tar")) as file:
        assert file.read(70_000) + file.read() == data
    assert cut.opened == 4


def test_a_stream_does_not_go_on_in_another_object(tmp_path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(os.urandom(3_000_000))
    with Retrying(Cut(1)).open_stream(str(path)) as file:
        file.read(1)
        path.write_bytes(os.urandom(3_000_000))
        with pytest.raises(MismatchError, match="written anew while it was read"):
            file.read()


def test_kinds_of_errors_travel() -> None:
    assert Info(1, "a") == Info(1, "a")
    with pytest.raises(TransientError, match="cannot read x") as caught, guard("read", "x"):
        raise TimeoutError
    assert caught.value.args == (str(caught.value),)
