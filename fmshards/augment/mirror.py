"""Where the feature of the flipped image comes from: `stored`, whole or in part, `mapped` from the base, or `none`."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import Any

from fmshards.codec import Rate, codec_name
from fmshards.errors import FormatError, InputError
from fmshards.terms import parse_terms

WAYS = ("stored", "mapped", "none")
RESTS = ("map", "flip")
LARGEST_KERNEL = 7
_ALONE, _BESIDE = 3, 1
"""Kernels by default: of a map that gives the whole mirror, and of one beside stored channels, where a larger one adds
little: on ResNet-20 .02 to .03 of agreement, on SqueezeNet nothing at one cut, at more than the network's own
multiplications (tools/results/check_mirror-squeezenet.md)."""
_RATE = re.compile(r"(\brate\s*=\s*)([A-Za-z][\w.-]*)")  # what the language of options would not take for a word
_TAKES = {"stored": ("fraction", "rest", "kernel", "rate"), "mapped": ("kernel",), "none": ()}


@dataclass(frozen=True)
class Mirror:
    """`way`: one of WAYS. `kernel`: the odd side of the linear map, where there is one; by default 3, beside stored
    channels 1.

    Of a mirror that is stored: `fraction`, the share of its channels that are, from 0 to 1; `rest`, what stands in for
    the others, "map" (a linear map of the base) or "flip" (the base's own channels, flipped as an image would be);
    `rate`, that of the stored channels where it is not the layer's.

    Equal mirrors have equal fields: without any channel stored it is `mapped`, or `none` where the rest is flipped;
    what has no meaning, as the kernel of no map, has its default. Raises InputError.
    """

    way: str = "stored"
    kernel: int = None  # type: ignore[assignment]  # the way's own, and never None once it is made
    fraction: float = 1.0
    rest: str = "map"
    rate: Rate | None = None

    def __post_init__(self) -> None:
        if self.kernel is None:
            object.__setattr__(self, "kernel", _BESIDE if self.way == "stored" else _ALONE)
        _check(self)
        way, rest, kernel = self.way, self.rest, self.kernel
        if way == "stored" and not self.fraction:
            way = "mapped" if rest == "map" else "none"
        part = way == "stored" and self.fraction < 1
        plain = {
            "way": way,
            "kernel": kernel if way == "mapped" or (part and rest == "map") else _ALONE,
            "fraction": float(self.fraction) if part else 1.0,
            "rest": rest if part else "map",
            "rate": None if self.rate is None else _rate_text(self.rate),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @property
    def part(self) -> bool:
        """Whether what is stored is not simply the whole feature at the layer's rate."""
        return self.way == "stored" and (self.fraction < 1 or self.rate is not None)

    @property
    def mapped(self) -> bool:
        """Whether some channels are mapped from the base."""
        return self.way == "mapped" or (self.fraction < 1 and self.rest == "map")

    @property
    def flipped(self) -> bool:
        """Whether some channels are the base's own, flipped."""
        return self.way == "none" or (self.fraction < 1 and self.rest == "flip")

    def __str__(self) -> str:
        """The canonical text, which `parse_mirror` reads back."""
        if self.way == "mapped":
            return f"mapped(kernel={self.kernel})"
        if not self.part:
            return self.way
        terms = [str(self.fraction)]
        if self.fraction < 1:
            terms.append(f"rest={self.rest}" + (f", kernel={self.kernel}" if self.mapped else ""))
        if self.rate is not None:
            terms.append(f"rate={self.rate}")
        return f"stored({', '.join(terms)})"

    def to_json(self) -> dict[str, Any]:
        """`{"way": ...}`, and of the other fields those that mean something."""
        out: dict[str, Any] = {"way": self.way}
        if self.part:
            out["fraction"] = self.fraction
        if self.part and self.fraction < 1:
            out["rest"] = self.rest
        if self.mapped:
            out["kernel"] = self.kernel
        return out if self.rate is None else {**out, "rate": self.rate}

    @staticmethod
    def from_json(data: Any) -> Mirror:
        """Read `to_json`'s output. Raises FormatError for anything else."""
        known = isinstance(data, dict) and "way" in data and set(data) <= {"way", *_TAKES["stored"]}
        if not known or None in data.values():
            raise FormatError(
                f"mirror: expected {{'way': ...}} with some of {', '.join(_TAKES['stored'])}, found {str(data)[:200]!r}"
            )
        try:
            return Mirror(**data)
        except InputError as error:
            raise FormatError(str(error)) from None


def parse_mirror(text: str | Mirror | None) -> Mirror:
    """Read `stored`, `stored(0.3)`, `stored(0.3, rest=flip, rate=2)`, `mapped`, `mapped(kernel=1)` or `none`.

    None is stored, the default. Raises InputError.
    """
    if isinstance(text, Mirror):
        return text
    if text is None:
        return Mirror()
    if not isinstance(text, str):
        raise InputError(f"mirror must be one of {', '.join(WAYS)}, found {text!r}")
    terms = parse_terms(_RATE.sub(r"\1'\2'", text), "mirror")
    if len(terms) != 1:
        raise InputError(f"mirror {text!r}: expected one way, found {len(terms)}")
    term = terms[0]
    names = _TAKES.get(term.name)
    if names is None:
        return Mirror(term.name)  # which says what there is
    values = dict(zip(names, term.args, strict=False)) | term.kwargs
    if len(term.args) > len(names[:1]) or set(values) - set(names):
        raise InputError(
            f"mirror {text!r}: stored takes a fraction, rest, kernel and rate, as in stored(0.3, rest=map, kernel=1), "
            "mapped its kernel, as in mapped(kernel=3), none takes nothing"
        )
    if term.name == "stored" and {"rest", "kernel"} & set(values) and "fraction" not in values:
        raise InputError(f"mirror {text!r}: rest and kernel are of channels that are not stored: give a fraction first")
    if "kernel" in values and values.get("rest", "map") != "map":
        raise InputError(f"mirror {text!r}: the kernel is that of a map; rest={values['rest']} has none")
    return Mirror(term.name, **values)


def _check(mirror: Mirror) -> None:
    if mirror.way not in WAYS:
        near = difflib.get_close_matches(str(mirror.way), WAYS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"mirror: no way {mirror.way!r}; {hint}known: {', '.join(WAYS)}")
    kernel, fraction = mirror.kernel, mirror.fraction
    if isinstance(kernel, bool) or not isinstance(kernel, int) or not 1 <= kernel <= LARGEST_KERNEL or kernel % 2 == 0:
        raise InputError(f"mirror: kernel must be odd, from 1 to {LARGEST_KERNEL}, found {kernel!r}")
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
        raise InputError(f"mirror: the fraction of channels stored must be from 0 to 1, found {fraction!r}")
    if mirror.rest not in RESTS:
        raise InputError(f"mirror: rest must be one of {', '.join(RESTS)}, found {mirror.rest!r}")
    if mirror.rate is not None:
        if mirror.way != "stored" or not fraction:
            raise InputError("mirror: a rate is of the channels that are stored, and none are")
        try:
            codec_name(mirror.rate)
        except InputError as error:
            raise InputError(f"mirror: {error}") from None
    if mirror.way != "stored" and fraction != 1:
        raise InputError(f"mirror: a fraction is of a mirror that is stored, not of {mirror.way}")


def _rate_text(rate: Rate) -> str:
    """One text for 4, 4.0 and "4"."""
    return f"{float(rate):g}" if _is_number(str(rate)) else str(rate)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
