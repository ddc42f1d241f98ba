"""Objects read through obstore as through fsspec: the same bytes, the same errors, one object from first to last."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import pytest

from fmshards import store, tally
from fmshards.errors import CorruptError, FmshardsError, InputError, MismatchError, StoreError, TransientError
from fmshards.store import clients
from fmshards.store.haste import Haste
from fmshards.store.objects import Objects
from fmshards.store.remote import REMOTE
from fmshards.store.retry import Retrying
from tests.servers import BUCKET, S3

DATA = bytes(range(256)) * 5000


@pytest.fixture
def urls(s3: S3) -> dict[str, str]:
    """The same object by both schemes."""
    pytest.importorskip("obstore")
    (s3.root / BUCKET / "x.tar").write_bytes(DATA)
    return {"s3": f"s3://{BUCKET}/x.tar", "http": f"{s3.url}/{BUCKET}/x.tar"}


@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_ranges_are_those_of_fsspec(urls: dict[str, str], s3: S3, scheme: str) -> None:
    url, objects = urls[scheme], Objects(REMOTE, 10)
    assert clients.client_of(url, 10) is not None
    for start, length in [(0, None), (0, 5), (1000, 100_000), (len(DATA) - 1, 1), (len(DATA) - 7, None), (3, 0)]:
        expected = DATA[start:] if length is None else DATA[start : start + length]
        assert objects.read(url, start, length) == REMOTE.read(url, start, length) == expected
        assert b"".join(objects.parts(url, start, length)) == expected
    for start, length in [(len(DATA) - 5, 6), (len(DATA), 1), (2 * len(DATA), 7), (2 * len(DATA), None)]:
        for backend in (objects, REMOTE):
            with pytest.raises(CorruptError, match="found only"):
                backend.read(url, start, length)
    assert objects.info(url) == REMOTE.info(url)
    assert objects.info(url + "x") is None
    with pytest.raises(StoreError, match="it does not exist"):
        objects.read(url + "x", 0, 1)


@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_an_object_stays_the_same_object(urls: dict[str, str], s3: S3, scheme: str) -> None:
    url, objects = urls[scheme], Objects(REMOTE, 10)
    objects.read(url, 0, 10)
    (s3.root / BUCKET / "x.tar").write_bytes(DATA[::-1])
    for call in (lambda: objects.read(url, 10, 10), lambda: objects.info(url)):
        with pytest.raises(MismatchError, match=r"x.tar: it was written anew while it was read"):
            call()
    assert Objects(REMOTE, 10).read(url, 10, 10) == DATA[::-1][10:20]
    (s3.root / BUCKET / "x.tar").write_bytes(DATA[:100])
    with pytest.raises(MismatchError, match=r"x.tar: it was written anew while it was read"):
        objects.read(url, 1000, 10)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, StoreError), (401, StoreError), (400, StoreError), (429, TransientError), (503, TransientError)],
)
def test_what_answers_mean(urls: dict[str, str], s3: S3, status: int, kind: type[FmshardsError]) -> None:
    s3.faults(rate=1, kinds=["status"], statuses=[status], most=100)
    with pytest.raises(StoreError, match=str(status)) as caught:
        Objects(REMOTE, 10).read(urls["s3"], 0, 10)
    assert type(caught.value) is kind
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("kind", ["stall", "stall_body", "reset", "reset_body", "short"])
def test_what_is_broken_may_pass(urls: dict[str, str], s3: S3, kind: str) -> None:
    s3.faults(rate=1, kinds=[kind], most=100, stall=3)
    with pytest.raises(TransientError):
        Objects(REMOTE, 1).read(urls["s3"], 0, 1_000_000)


@pytest.mark.parametrize("kind", ["stall", "stall_body"])
def test_a_straggler_is_asked_for_again_early(urls: dict[str, str], s3: S3, kind: str) -> None:
    """The store would be waited for 30 s; the request that is made again is answered at once."""
    s3.faults(rate=1, kinds=[kind], most=1, stall=25, only="x.tar")
    backend = Retrying(Objects(REMOTE, 30), 60)
    with tally.tallied() as found:
        assert backend.read(urls["s3"], 7, 1_000_000) == DATA[7:1_000_007]
    assert found["stragglers"] == found["retries"] == 1
    assert [fate for asked, fate in s3.log() if "x.tar" in asked] == [kind, ""]


def test_of_a_slow_store_no_answer_is_a_straggler() -> None:
    haste = Haste(30)
    waits = []
    for start in range(100):  # each answer takes 5 s
        waits.append(haste.wait("s3://b/x", start))
        wait = waits[-1]
        while wait < 5:
            haste.gave_up("s3://b/x", start, wait)
            before, wait = wait, haste.wait("s3://b/x", start)
            assert wait == 2 * before
    assert waits[0] < 5 < waits[-1] < 30
    assert sum(wait < 5 for wait in waits) < 10
    waits = [haste.wait("s3://b/x", start) for start in range(1000)]
    assert len(set(waits)) == 1
    for start in range(0, 1000, 100):  # one in a hundred is
        haste.gave_up("s3://b/x", start, waits[0])
    assert haste.wait("s3://b/x", 5000) == waits[0]


def test_urls_that_clients_read_differently_are_fsspecs(urls: dict[str, str], s3: S3) -> None:
    (s3.root / BUCKET / "a b%.tar").write_bytes(b"here")
    assert clients.client_of(f"s3://{BUCKET}/a b%.tar", 10) is None
    assert clients.client_of(urls["http"] + "?key=1", 10) is None
    assert Objects(REMOTE, 10).read(f"s3://{BUCKET}/a b%.tar", 1, 2) == b"er"


def test_secrets_do_not_travel(urls: dict[str, str], s3: S3) -> None:
    backend = store.Access().backend(urls["s3"])
    backend.read(urls["s3"], 0, 10)
    assert s3.environment["AWS_SECRET_ACCESS_KEY"].encode() not in pickle.dumps(backend)


def test_a_profile_is_a_boto_users(
    urls: dict[str, str], s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = key\naws_secret_access_key = of-a-profile\n")
    (tmp_path / "config").write_text(f"[profile lab]\nendpoint_url = {s3.url}\nregion = eu-west-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    for backend in (Objects(REMOTE, 10), REMOTE):
        assert backend.read(urls["s3"], 5, 5) == DATA[5:10]


def _read(url: str, queue: object) -> None:
    found = store.Access(patience=20).backend(url).read(url, 300, 1000)
    queue.put((found, clients._forked))  # type: ignore[attr-defined]  # private, looked at on purpose


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("way", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_other_processes_read_too(urls: dict[str, str], way: str, used: bool) -> None:
    """Also one that was forked from a process that has used obstore, in which it would wait for ever."""
    code = f"""
import multiprocessing, tests.store.test_objects as here
from fmshards import store
if __name__ == "__main__":
    if {used}:
        store.Access().backend({urls["s3"]!r}).read({urls["s3"]!r}, 0, 10)
    context = multiprocessing.get_context({way!r})
    queue = context.Queue()
    process = context.Process(target=here._read, args=({urls["s3"]!r}, queue))
    process.start()
    found, forked = queue.get(timeout=60)
    process.join()
    assert found == here.DATA[300:1300]
    assert forked == ({way!r} == "fork" and {used}), forked
"""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_run, args=(code, dict(os.environ)))
    process.start()
    process.join()
    assert process.exitcode == 0


def _run(code: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    exec(compile(code, "<test>", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("url", ["hf://datasets/a/b/set", "hf://datasets/a/b@main/set", "hf://a/b@v1.0/set"])
def test_a_revision_that_may_move_is_refused(url: str) -> None:
    for call in (store.read, store.exists, store.open_stream):
        with pytest.raises(InputError, match="the 40 digits of a commit"):
            call(url)
