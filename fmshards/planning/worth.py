"""Whether caching pays: bytes, bandwidth, FLOPs and seconds, from what was measured here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fmshards.units import bytes_text


@dataclass(frozen=True)
class Seconds:
    """A sample's, as measured here. image: decoding and preprocessing it. prefix, suffix: a forward. encode, decode: a
    row. mirror: what a mapped mirror computes, 0 for others."""

    image: float
    prefix: float
    suffix: float
    encode: float
    decode: float
    mirror: float


@dataclass(frozen=True)
class Worth:
    """What a cut at a rate gives, a sample and an epoch.

    bytes: a sample's, the mirror's with it. of_photo: beside the encoded image's, None where that is not known. total:
    of the set. speed: samples/s of the trainer; bandwidth: bytes/s that it reads, base or mirror at a time.
    flops_saved, seconds_saved: of an epoch. pays_after: epochs, None where it never does. why: in a sentence.
    """

    bytes: float
    of_photo: float | None
    total: float | None
    speed: float
    bandwidth: float
    flops_saved: float | None
    seconds_saved: float | None
    pays_after: int | None
    why: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return dict(vars(self))


_STEP = 3  # forwards of the suffix that a training step takes, its backward twice a forward


def worth(
    row: float, stored: float, photo: float | None, total: int | None, flops: int, took: Seconds, speed: float | None
) -> Worth:
    """row: bytes of a base's row. stored: the share of the mirror that is stored. photo: bytes of an encoded image.
    total: samples of the source. flops: of the prefix, a sample. speed: the trainer's samples/s; None: measured here.

    Online, a sample of an epoch is decoded, preprocessed and run through the prefix; from a set its row is decoded,
    and half of the rows are mirrored. Extraction is once the former for base and, where any of it is stored, mirror,
    and encoding. Epochs after which it pays: extraction / (saved an epoch), the next whole number.
    """
    online = took.image + took.prefix
    cached = took.decode + took.mirror / 2
    once = took.image + took.prefix * (2 if stored else 1) + took.encode * (1 + stored)
    saved = online - cached
    rate = speed if speed is not None else 1 / max(cached + _STEP * took.suffix, 1e-9)
    size = row * (1 + stored)
    pays = math.floor(once / saved) + 1 if saved > 0 else None
    return Worth(
        bytes=size,
        of_photo=None if photo is None else size / photo,
        total=None if total is None else size * total,
        speed=rate,
        bandwidth=row * rate,
        flops_saved=None if total is None else float(flops) * total,
        seconds_saved=None if total is None else saved * total,
        pays_after=pays,
        why=_why(online, cached, took, pays, row, photo),
    )


def _why(online: float, cached: float, took: Seconds, pays: int | None, row: float, photo: float | None) -> str:
    each = (
        f"a sample's image and prefix take {_ms(took.image)} + {_ms(took.prefix)} here, its row "
        f"{_ms(took.decode)}" + (f" and its mapped mirror {_ms(took.mirror)}, every other time" if took.mirror else "")
    )
    more = ""
    if photo is not None and row > photo:
        more = f"; an epoch reads {row / photo:.1f} times the images' bytes ({bytes_text(row)} a sample)"
    if pays is None:
        return f"caching does not pay here: {each}{more}"
    return f"{each}{more}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2g} ms" if seconds < 0.1 else f"{1000 * seconds:.0f} ms"
