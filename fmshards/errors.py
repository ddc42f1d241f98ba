"""Errors that fmshards raises on purpose, and its warnings.

Each carries one message and nothing else, so that it pickles: an exception that does not pickle, raised in a
DataLoader worker of an iterable data set, ends the epoch early without an error.
"""

from __future__ import annotations

import sys
import warnings


class FmshardsError(Exception):
    """Base of every error that fmshards raises on purpose. The message says what, where and what to do."""


class InputError(FmshardsError):
    """An option, an argument or the source data is not what it must be."""


class ModelError(FmshardsError):
    """A model cannot be loaded, traced or split, or a cut is not valid."""


class CodecError(FmshardsError):
    """Values cannot be encoded, a rate is out of range, or rows do not fit their codec."""


class FormatError(FmshardsError):
    """A plan, manifest or shard is malformed, hostile or of another version."""


class CorruptError(FormatError):
    """Stored bytes are not the bytes that were written: a checksum or a length differs."""


class MismatchError(FmshardsError):
    """A shard set is sound but is not the one asked for: its identity, options or input differ."""


class StoreError(FmshardsError):
    """Bytes at a URL cannot be read or written."""


class TransientError(StoreError):
    """A store did not answer as it may when it is asked again: a time-out, a reset, a server that is busy or failing.

    The store asks again by itself, and raises this when its patience ends.
    """


class WorkerDiedError(FmshardsError):
    """A process that works for this one was killed, from outside or for memory."""


class StoppedError(FmshardsError):
    """Work was ended as asked, before it was done; the same again goes on with it."""


def warn(message: str) -> None:
    """Warn of what goes on all the same: a UserWarning that points at the user's line, however deep in here it is."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
