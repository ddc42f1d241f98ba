"""A web server that serves byte ranges (Python's own does not), over a folder."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fmshards.store import retry
from tests.servers import BUCKET
from tests.servers.fixtures import s3  # noqa: F401  # a fixture


@dataclass
class WebServer:
    """A folder at a URL, and its faults: no ranges, bodies cut by some bytes, every answer a status."""

    root: Path
    url: str = ""
    ranges: bool = True
    cut: int = 0
    status: int = 0
    asked: list[str] = field(default_factory=list)


def _handler(server: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = server.root / self.path.partition("?")[0].lstrip("/")
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            server.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
            if server.status or not path.is_file():
                return self._send(server.status or 404, b"", body, {})
            data, status, headers = path.read_bytes(), 200, {}
            if server.ranges:
                headers["Accept-Ranges"] = "bytes"
                if wanted:
                    first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
                    if first >= len(data):
                        return self._send(416, b"", body, {"Content-Range": f"bytes */{len(data)}"})
                    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                    data, status = data[first : last + 1], 206
            return self._send(status, data, body, headers)

        def _send(self, status: int, data: bytes, body: bool, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data[: len(data) - server.cut])
            if server.cut:
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    pytest.importorskip("aiohttp", reason="fsspec reads http through aiohttp")
    root = tmp_path / "web"
    root.mkdir()
    server = WebServer(root)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.05,))
    thread.start()
    yield server
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores are given up after less than a second."""
    monkeypatch.setattr(retry, "PATIENCE", 0.3)


@pytest.fixture(params=["path", "file", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder to write to: a path, a file:// URL, fsspec's memory, a prefix of an object store."""
    if request.param == "path":
        yield str(tmp_path / "set")
    elif request.param == "file":
        yield f"file://{tmp_path}/a%20set"
    elif request.param == "s3":
        request.getfixturevalue("s3")
        yield f"s3://{BUCKET}/set"
    else:
        import fsspec

        yield "memory://bucket/set"
        fsspec.filesystem("memory").store.clear()
        fsspec.filesystem("memory").pseudo_dirs[:] = [""]
