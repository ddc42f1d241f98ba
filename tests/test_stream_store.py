"""The store that `tools/bench_stream.py` throttles: ranges as S3's readers ask for them, and a link that holds back."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools" / "stream_store.py"
CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "bucket" / "sub").mkdir(parents=True)
    (tmp_path / "bucket" / "sub" / "a.bin").write_bytes(CONTENT)
    command = [sys.executable, str(TOOL), str(tmp_path), "1000"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/bucket"
        server.stdin.close()


def answer(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as found:
            return found.status, found.read(), dict(found.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-299", 100, 299),
        ("bytes=255990-", 255_990, 255_999),
        ("bytes=-5", 255_995, 255_999),
    ],
)
def test_ranges(endpoint: str, asked: str, first: int, last: int) -> None:
    status, body, headers = answer(f"{endpoint}/sub/a.bin", Range=asked)
    assert (status, body) == (206, CONTENT[first : last + 1])
    assert headers["Content-Range"] == f"bytes {first}-{last}/{len(CONTENT)}"


def test_whole_objects_heads_listings_and_what_is_not_there(endpoint: str) -> None:
    assert answer(f"{endpoint}/sub/a.bin")[:2] == (200, CONTENT)
    status, body, headers = answer(f"{endpoint}/sub/a.bin", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(CONTENT)))
    assert answer(f"{endpoint}/sub/b.bin")[0] == 404
    assert answer(f"{endpoint}/../{TOOL.name}")[0] == 404
    assert answer(f"{endpoint}/sub/a.bin", Range="bytes=256000-")[0] == 416
    status, body, _ = answer(f"{endpoint}?list-type=2&prefix=sub/")
    assert status == 200
    assert b"<Key>sub/a.bin</Key><Size>256000</Size>" in body


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stream_store", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_link_lets_no_more_through_than_its_rate(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(tool.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(tool.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    link = tool.Link(1e6)
    for _ in range(50):
        link.take(100_000)
    assert clock[0] - 1000 == pytest.approx(5, abs=2 * tool._BURST)
    clock[0] += 60  # what nobody took is not saved up
    began = clock[0]
    link.take(1_000_000)
    assert clock[0] - began == pytest.approx(1, abs=2 * tool._BURST)
