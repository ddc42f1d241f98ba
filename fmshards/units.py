"""Numbers of bytes and seconds, and digests, as people write and read them."""

from __future__ import annotations

import re
from contextlib import suppress

from fmshards.errors import InputError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_bytes(value: object, what: str = "memory") -> int:
    """Bytes from a number or from text such as "512MB", "1.5 GiB". Raises InputError that names `what`."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value) if isinstance(value, str) else None
    unit = _UNITS.get(match.group(2).upper()) if match else None
    if match is None or unit is None or float(match.group(1)) * unit < 1:
        raise InputError(f'{what} is a number of bytes or text such as "512MB" or "2GiB", found {value!r}')
    return int(float(match.group(1)) * unit)


def bytes_text(count: float) -> str:
    """1234567 -> '1.23 MB' (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def time_text(seconds: float) -> str:
    """3725.4 -> '1:02:05'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def flops_text(count: float) -> str:
    """1.234e12 -> '1.23 TFLOPs'."""
    for unit in ("", "k", "M", "G", "T"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}FLOPs"
        count /= 1000
    return f"{count:.3g} PFLOPs"


def count_text(number: int, what: str) -> str:
    """(1, 'shard') -> '1 shard', (2, 'shard') -> '2 shards'."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def short_digests(text: str) -> str:
    """The text with each digest of 64 digits cut to 16, since nobody compares 64 by eye."""
    return re.sub(r"\b([0-9a-f]{16})[0-9a-f]{48}\b", r"\1...", text)


def parse_share(value: float | str, what: str) -> float:
    """A share of 1 from a number or from text such as "0.5%", 0 <= share < 1. Raises InputError that names `what`."""
    number: float | None = None
    if isinstance(value, str):
        text = value.strip()
        with suppress(ValueError):
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    if number is None or not 0 <= number < 1:
        raise InputError(f'{what} is a share such as "0.5%" or 0.005, from 0 and below 1, found {value!r}')
    return number
