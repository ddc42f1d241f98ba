"""Clients of obstore's, made once a process, and when there is none: then another backend serves a URL.

There is none for URLs with a query or unusual characters, which clients read differently, where fsspec's configuration
describes a client, and in a process that was forked from one that has used obstore: the threads that would answer are
not there, and a call would wait for ever. Clients never travel to another process, nor do credentials: each process
finds them as the users of these stores expect.

obstore's own retries are off, since the store asks again itself (retry.py).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import threading
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from fmshards.store.guard import guard
from fmshards.store.retry import CONNECT

_PLAIN = re.compile(r"[A-Za-z0-9_.=+/-]+")
"""Keys that every client reads alike."""

_clients: dict[tuple[str, str, float], Any] = {}
_left: list[Any] = []
_used = _forked = False
_lock = threading.Lock()


def client_of(url: str, stall: float) -> tuple[Any, str] | None:
    """A client of obstore's, and the path in it, for `url`; None where another backend must do."""
    global _used
    if _forked or not _there("obstore"):
        return None
    scheme, _, rest = url.partition("://")
    make = _MAKERS.get(scheme)
    root, _, path = rest.partition("/")
    if make is None or not _PLAIN.fullmatch(path) or "@" in root or "//" in path or _configured(scheme):
        return None
    key = (scheme, root, stall)
    with _lock:
        if key not in _clients:
            with guard("open", url):
                _clients[key] = make(root, stall)
        client = _clients[key]
        _used = _used or client is not None
    return None if client is None else (client, path)


def prepare(url: str) -> None:
    """Import what a client for `url` is made with, and make none: processes forked afterwards need not."""
    scheme = url.partition("://")[0]
    if scheme in _MAKERS and _there("obstore"):
        importlib.import_module("obstore.store")
        if _MAKERS[scheme] is _s3 and _there("botocore"):
            importlib.import_module("botocore.session")


@cache
def _there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _configured(scheme: str) -> bool:
    from fsspec.config import conf

    return bool(conf.get(scheme))


def _after_fork() -> None:
    global _forked, _lock
    _lock, _forked = threading.Lock(), _forked or _used
    if _clients:
        # Kept, since to destroy a client of threads that are not there would wait for them.
        _left.append(dict(_clients))
        _clients.clear()


os.register_at_fork(after_in_child=_after_fork)


def _options(stall: float, url: str = "https://") -> dict[str, Any]:
    """What every client is made with. A body may take its time as long as bytes come."""
    client = {"connect_timeout": f"{CONNECT}s", "read_timeout": f"{stall}s", "timeout": "7days"}
    if url.startswith("http://"):
        client["allow_http"] = "true"
    return {"client_options": client, "retry_config": {"max_retries": 0, "retry_timeout": timedelta(0)}}


def _http(scheme: str) -> Any:
    def make(root: str, stall: float) -> Any:
        from obstore.store import HTTPStore

        return HTTPStore.from_url(f"{scheme}://{root}", **_options(stall, f"{scheme}://"))

    return make


def _s3(bucket: str, stall: float) -> Any:
    """As boto's users expect: environment, profiles, roles, SSO, and an endpoint from any of these."""
    from obstore.store import S3Store

    if not _there("botocore"):
        return S3Store(bucket, **_options(stall, _endpoint()))
    from botocore.session import Session

    session = Session()
    endpoint = _endpoint() or session.get_scoped_config().get("endpoint_url") or ""
    config: dict[str, Any] = {
        "region": os.environ.get("AWS_REGION") or session.get_config_variable("region") or "us-east-1"
    }
    if endpoint:
        config["endpoint"] = endpoint
    credentials = session.get_credentials()
    if credentials is None:
        config["skip_signature"] = True
        return S3Store(bucket, config=config, **_options(stall, endpoint))
    return S3Store(bucket, config=config, credential_provider=_provider(credentials), **_options(stall, endpoint))


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")


def _provider(credentials: Any) -> Any:
    """botocore's credentials for obstore, asked for again every few minutes: botocore renews those that expire."""

    def provide() -> dict[str, Any]:
        found = credentials.get_frozen_credentials()
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=5),
        }

    return provide


def _gs(bucket: str, stall: float) -> Any:
    if "STORAGE_EMULATOR_HOST" in os.environ:  # gcsfs' word for another endpoint
        return None
    from obstore.store import GCSStore

    return GCSStore(bucket, **_options(stall))


def _az(container: str, stall: float) -> Any:
    if "AZURE_STORAGE_CONNECTION_STRING" in os.environ or "AZURE_STORAGE_ACCOUNT_NAME" not in os.environ:
        return None  # adlfs reads what else there is
    from obstore.store import AzureStore

    return AzureStore(container, **_options(stall))


_MAKERS: dict[str, Any] = {
    "s3": _s3,
    "s3a": _s3,
    "gs": _gs,
    "gcs": _gs,
    "az": _az,
    "abfs": _az,
    "http": _http("http"),
    "https": _http("https"),
}
