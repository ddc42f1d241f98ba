"""Servers for tests, each a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

BUCKET = "bucket"


class S3:
    """The store of `s3.py`, over a folder, at `url`; it can be killed and started again at the same port."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = 0
        (root / BUCKET).mkdir(parents=True, exist_ok=True)
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What clients find it by."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        }

    def start(self) -> None:
        command = [sys.executable, "-S", str(Path(__file__).with_name("s3.py")), str(self.port), str(self.root)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def faults(self, **faults: Any) -> None:
        """What goes wrong from now on: see `Faults` of s3.py; nothing, where nothing is said."""
        self._ask("/-/faults", "PUT", json.dumps(faults).encode())

    def log(self) -> list[tuple[str, str]]:
        """(what was asked for, what was done to it) since the last call."""
        found = [(asked, fate) for asked, fate in json.loads(self._ask("/-/log", "GET"))]
        self._ask("/-/log", "DELETE")
        return found

    def _ask(self, path: str, method: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, data, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            found: bytes = answer.read()
            return found
