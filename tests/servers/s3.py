"""A small S3-compatible store over a folder, and its faults: a process of its own, so that it can be killed.

    python s3.py PORT ROOT       serve ROOT/<bucket>/<key>; signatures are not looked at

It knows GET with a range and If-Match, HEAD, PUT with If-None-Match: *, DELETE and ListObjectsV2; an etag is the
content's MD5. What goes wrong is said over HTTP as well: `PUT /-/faults` takes the JSON of `Faults`, `GET /-/log` gives
what was asked for and what was done to it, `DELETE /-/log` forgets that.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import socket
import struct
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

FAULTS = ("status", "stall", "stall_body", "reset", "reset_body", "short", "flip")


@dataclass
class Faults:
    """rate: share of the requests that fare badly, each by one of `kinds`. statuses: those of `status`. stall: seconds
    without a byte. most: times that the same request fares badly. hidden: names that listings
    leave out. latency, bytes_a_second: of every answer. only: a regular expression that paths must match to fare badly.
    """

    rate: float = 0.0
    kinds: list[str] = field(default_factory=lambda: list(FAULTS))
    statuses: list[int] = field(default_factory=lambda: [500, 503, 429])
    stall: float = 3.0
    most: int = 1
    hidden: list[str] = field(default_factory=list)
    latency: float = 0.0
    bytes_a_second: float = 0.0
    only: str = ""
    seed: int = 0


class Store(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, root: Path) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.root = root
        self.faults = Faults()
        self.random = random.Random(0)
        self.log: list[list[str]] = []
        self.lock = threading.Lock()
        self.failed: dict[str, int] = {}

    def fate(self, path: str, asked: str) -> str:
        """What becomes of a request: one of the kinds of faults, or ""."""
        with self.lock:
            badly = self.random.random() < self.faults.rate and re.search(self.faults.only, path)
            if not badly or self.failed.get(asked, 0) >= self.faults.most:
                return ""
            self.failed[asked] = self.failed.get(asked, 0) + 1
            return self.random.choice(self.faults.kinds)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Store

    def setup(self) -> None:
        super().setup()
        self.body = b""

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/-/"):
            return self._control()
        url = urlsplit(self.path)
        path = unquote(url.path)
        asked = f"{self.command} {self.path} {self.headers.get('Range', '')}".strip()
        fate = self.server.fate(path, asked)
        with self.server.lock:
            self.server.log.append([asked, fate])
        faults = self.server.faults
        time.sleep(faults.latency)
        if fate == "stall":
            time.sleep(faults.stall)
            return self._hang_up()
        if fate == "reset":
            return self._reset()
        if fate == "status":
            status = random.choice(faults.statuses)
            return self._send(status, _error("SlowDown", path), {"Retry-After": "0"})
        if self.command == "PUT":
            return self._put(path)
        if self.command == "DELETE":
            self._file(path).unlink(missing_ok=True)
            return self._send(204, b"")
        if "list-type" in parse_qs(url.query):
            return self._list(path, parse_qs(url.query, keep_blank_values=True))
        return self._get(path, fate)

    def _file(self, path: str) -> Path:
        return self.server.root / path.strip("/")

    def _get(self, path: str, fate: str) -> None:
        file = self._file(path)
        if not file.is_file():
            return self._send(404, _error("NoSuchKey", path))
        data = file.read_bytes()
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        if self.headers.get("If-Match", etag) not in (etag, "*"):
            return self._send(412, _error("PreconditionFailed", path))
        headers = {
            "ETag": etag,
            "Last-Modified": self.date_time_string(int(file.stat().st_mtime)),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        status, wanted = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            if first >= len(data):
                return self._send(416, _error("InvalidRange", path), {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        return self._send(status, data, headers, fate)

    def _put(self, path: str) -> None:
        file = self._file(path)
        with self.server.lock:
            if self.headers.get("If-None-Match") == "*" and file.exists():
                return self._send(412, _error("PreconditionFailed", path))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.with_name(f".{file.name}.part").write_bytes(_unchunked(self.headers, self.body))
            os.replace(file.with_name(f".{file.name}.part"), file)
        return self._send(200, b"", {"ETag": f'"{hashlib.md5(file.read_bytes()).hexdigest()}"'})

    def _list(self, path: str, query: dict[str, list[str]]) -> None:
        bucket = self._file(path)
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        keys = sorted(
            file.relative_to(bucket).as_posix()
            for file in bucket.rglob("*")
            if file.is_file() and file.name not in self.server.faults.hidden and not file.name.startswith(".")
        )
        contents, folders = [], set()
        for key in keys:
            if key.startswith(prefix):
                rest = key[len(prefix) :]
                if delimiter and delimiter in rest:
                    folders.add(prefix + rest.split(delimiter)[0] + delimiter)
                else:
                    contents.append(key)
        parts = [f"<Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>"]
        parts += [f"<KeyCount>{len(contents) + len(folders)}</KeyCount>"]
        for key in contents:
            data = (bucket / key).read_bytes()
            parts.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f'<ETag>"{hashlib.md5(data).hexdigest()}"</ETag><Size>{len(data)}</Size></Contents>'
            )
        parts += [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)]
        self._send(200, f"<ListBucketResult>{''.join(parts)}</ListBucketResult>".encode())

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None, fate: str = "") -> None:
        if fate == "flip" and data:
            at = random.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fate in ("stall_body", "reset_body", "short"):
            self._write(data[: random.randrange(len(data) + 1)])
            if fate == "stall_body":
                time.sleep(self.server.faults.stall)
            (self._reset if fate == "reset_body" else self._hang_up)()
        else:
            self._write(data)

    def _write(self, data: bytes) -> None:
        rate = self.server.faults.bytes_a_second
        for at in range(0, len(data), 65536) if rate else ():
            self.wfile.write(data[at : at + 65536])
            time.sleep(len(data[at : at + 65536]) / rate)
        if not rate:
            self.wfile.write(data)

    def _hang_up(self) -> None:
        self.close_connection = True

    def _reset(self) -> None:
        """Close with a reset, not with a FIN."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _control(self) -> None:
        server = self.server
        if self.path == "/-/faults" and self.command == "PUT":
            server.faults = Faults(**{**asdict(Faults()), **json.loads(self.body)})
            server.random, server.failed = random.Random(server.faults.seed), {}
        elif self.path == "/-/log" and self.command == "DELETE":
            server.log.clear()
        self._send(200, json.dumps(server.log).encode())


def _unchunked(headers: object, body: bytes) -> bytes:
    """The content of a body that a client signed in chunks (`aws-chunked`)."""
    if "aws-chunked" not in str(headers.get("Content-Encoding", "")):  # type: ignore[attr-defined]  # any mapping of headers
        return body
    out = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        count = int(size.partition(b";")[0], 16)
        if not count:
            return out
        out, body = out + body[:count], body[count + 2 :]


def _error(code: str, path: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>as told</Message><Resource>{escape(path)}</Resource></Error>".encode()


if __name__ == "__main__":
    with Store(int(sys.argv[1]), Path(sys.argv[2])) as store:
        print(store.server_address[1], flush=True)
        store.serve_forever(0.05)
