"""A store behind a link of so many MB a second: byte ranges over HTTP, and as much of S3 as readers need.

    python tools/stream_store.py FOLDER MB_A_SECOND [LATE SECONDS]   # prints its port; serves until its input ends

One token bucket stands for the link: all connections share it. Nothing is added to the time to the first byte, but that
of the requests for a range a share LATE, drawn by one seed, is answered after so many SECONDS. Objects are files of
FOLDER, their URL is http://127.0.0.1:PORT/NAME, and for S3 the first part of the path is the bucket.
GET, HEAD, ranges, listings (ListObjectsV2); no signature is looked at.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_BURST = 0.02
"""Seconds of the link's capacity that may come at once."""


class Link:
    """A token bucket: `take` returns when so many bytes may go out."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._free = time.monotonic()
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._free = max(self._free, now - _BURST) + count / self.rate
            wait = self._free - now
        if wait > 0:
            time.sleep(wait)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder: ClassVar[Path]
    link: ClassVar[Link]
    piece: ClassVar[int]
    late: ClassVar[float]
    seconds: ClassVar[float]
    chance: ClassVar[random.Random] = random.Random(0)

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def _serve(self, body: bool) -> None:
        url = urlsplit(self.path)
        path = self.folder / unquote(url.path).lstrip("/")
        if "list-type" in (query := parse_qs(url.query)):
            self._list(path, query.get("prefix", [""])[0])
            return
        if not path.is_file() or ".." in path.parts:
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>" if body else b"")
            return
        size = path.stat().st_size
        first, last = 0, size - 1
        asked = self.headers.get("Range", "")
        if body and asked and self.chance.random() < self.late:
            time.sleep(self.seconds)
        if asked.startswith("bytes="):
            low, _, high = asked[6:].partition("-")
            first = int(low) if low else size - int(high)
            last = min(int(high), size - 1) if low and high else size - 1
            if first >= size:
                self._send(416, b"<Error><Code>InvalidRange</Code></Error>" if body else b"")
                return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{size:x}-{path.stat().st_mtime_ns:x}"')
        self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
        self.end_headers()
        if not body:
            return
        with path.open("rb") as file:
            left = last - first + 1
            file.seek(first)
            while left:
                data = file.read(min(self.piece, left))
                self.link.take(len(data))
                self.wfile.write(data)
                left -= len(data)

    def _list(self, bucket: Path, prefix: str) -> None:
        found = sorted(path for path in bucket.rglob("*") if path.is_file())
        keys = [(path.relative_to(bucket).as_posix(), path.stat()) for path in found]
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{stat.st_size}</Size>"
            f"<LastModified>{time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime(stat.st_mtime))}</LastModified>"
            f'<ETag>"{stat.st_size:x}"</ETag></Contents>'
            for key, stat in keys
            if key.startswith(prefix)
        )
        count = items.count("<Key>")
        head = f"<Name>{escape(bucket.name)}</Name><KeyCount>{count}</KeyCount><IsTruncated>false</IsTruncated>"
        self._send(200, f"<?xml version='1.0'?><ListBucketResult>{head}{items}</ListBucketResult>".encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line a request would be most of the work."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader that hangs up is its own affair."""


@contextmanager
def served(folder: Path, rate: float, late: float = 0.0, seconds: float = 0.0) -> Iterator[str]:
    """The endpoint of such a store in a process of its own."""
    command = [sys.executable, __file__, str(folder), *map(str, (rate, late, seconds))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


def main(folder: str, rate: str, late: str = "0", seconds: str = "0") -> None:
    Handler.folder, Handler.link = Path(folder), Link(float(rate) * 1e6)
    Handler.late, Handler.seconds = float(late), float(seconds)
    Handler.piece = max(1 << 16, min(1 << 20, int(float(rate) * 1e6 * 0.002)))
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
