"""The ledger of a run: which chunks were bad and left out, in memory that its processes share.

Workers write into it and the main process reads it, under fork, spawn and forkserver alike. It holds so many entries
and no more: a set of which more is bad is not one to train from.
"""

from __future__ import annotations

import json
import logging
import os
import weakref
from collections.abc import Iterable
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import get_spawning_popen
from typing import Any

from fmshards.errors import CorruptError, InputError
from fmshards.reader.catalog import Catalog

_MOST = 1024
_BYTES = 512
"""Of an entry, which is JSON; a longer error is cut."""

_log = logging.getLogger("fmshards")


class Ledger:
    """Entries {"chunk", "shard", "samples": [first, end], "error"}, one for each bad chunk, in the order of discovery.

    chunk: its number in the set; shard: the file's name; samples: their numbers in the set; error: what is wrong, with
    layer, member and byte range.
    """

    def __init__(self, entries: Iterable[dict[str, Any]] = ()) -> None:
        self._open(entries)

    def _open(self, entries: Iterable[dict[str, Any]]) -> None:
        # A spawn context's lock works in forked children too; the reverse does not hold.
        self._shared: Any = get_context("spawn").Array("c", _MOST * _BYTES)
        self.restore(entries)

    def add(self, catalog: Catalog, chunk: int, error: str) -> None:
        """Write down that `chunk` is bad, once, with a line in the log of "fmshards". Raises CorruptError where the
        ledger is full."""
        shard, _ = catalog.place(chunk)
        samples = catalog.samples_of(chunk)
        entry = {
            "chunk": chunk,
            "shard": catalog.shard_names[shard],
            "samples": [samples.start, samples.stop],
            "error": error,
        }
        if self._add(entry):
            _log.warning("%s; its %d samples are left out", error, len(samples))

    def tell_at_end(self) -> None:
        """Have the log say what was left out when this process ends, or has no more use for the ledger."""
        weakref.finalize(self, _tell, self._shared, os.getpid())

    def entries(self) -> list[dict[str, Any]]:
        """What has been written down, as plain JSON."""
        with self._lock():
            return _entries(self._shared)

    def restore(self, entries: Iterable[dict[str, Any]]) -> None:
        """Add entries of an earlier run, as `entries` gave them."""
        for entry in entries:
            self._add(dict(entry))

    def _add(self, entry: dict[str, Any]) -> bool:
        with self._lock():
            known = _entries(self._shared)
            if any(each["chunk"] == entry["chunk"] for each in known):
                return False
            if len(known) == _MOST:
                raise CorruptError(f"{entry['error']}; {_MOST} chunks are bad already: extract the set again")
            data = _packed(entry)
            while len(data) > _BYTES:
                entry = entry | {"error": entry["error"][: -(len(data) - _BYTES) // 2 - 8] + " ..."}
                data = _packed(entry)
            at = len(known) * _BYTES
            self._shared.get_obj()[at : at + _BYTES] = data.ljust(_BYTES, b"\0")
            return True

    @contextmanager
    def _lock(self) -> Any:
        # A process killed inside leaves the lock taken for ever: so go on after far longer than this ever takes.
        lock = self._shared.get_lock()
        held = lock.acquire(True, 10.0)
        try:
            yield
        finally:
            if held:
                lock.release()

    def __getstate__(self) -> dict[str, Any]:
        """Shared with a process that is being started; a copy of its own everywhere else."""
        return {"shared": self._shared} if get_spawning_popen() is not None else {"entries": self.entries()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "shared" in state:
            self._shared = state["shared"]
        else:
            self._open(state["entries"])


def check_entries(entries: Any) -> None:
    """Raise InputError unless these are a ledger's, as a state has kept them."""
    kinds = {"chunk": int, "shard": str, "samples": list, "error": str}
    for entry in entries if isinstance(entries, list) else [entries]:
        fits = isinstance(entry, dict) and entry.keys() == kinds.keys()
        if not fits or not all(isinstance(entry[name], kind) for name, kind in kinds.items()):
            raise InputError(
                f"the state's ledger is a list of entries with {', '.join(kinds)}; found {entry!r}: it was changed"
            )


def _packed(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode(errors="replace")


def _entries(shared: Any) -> list[dict[str, Any]]:
    data: bytes = shared.get_obj().raw
    found = []
    for at in range(0, len(data), _BYTES):
        if not data[at]:
            break
        found.append(json.loads(data[at : at + _BYTES].rstrip(b"\0")))
    return found


def _tell(shared: Any, process: int) -> None:
    found = _entries(shared) if os.getpid() == process else []
    if found:
        named = ", ".join(f"{entry['chunk']} ({entry['shard']})" for entry in found[:8])
        count = sum(entry["samples"][1] - entry["samples"][0] for entry in found)
        _log.warning(
            "%d bad chunks, %d samples, were left out of this run: %s%s; loader.ledger says what is wrong with each",
            len(found),
            count,
            named,
            ", ..." if len(found) > 8 else "",
        )
