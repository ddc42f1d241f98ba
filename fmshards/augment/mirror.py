"""Where the feature of the flipped image comes from: `stored`, `mapped` from the base, or `none`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from fmshards.errors import FormatError, InputError
from fmshards.terms import parse_terms

WAYS = ("stored", "mapped", "none")
LARGEST_KERNEL = 7


@dataclass(frozen=True)
class Mirror:
    """`way`: one of WAYS. `kernel`: the odd side of the linear map, used by `mapped` alone."""

    way: str = "stored"
    kernel: int = 3

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            near = difflib.get_close_matches(str(self.way), WAYS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(f"mirror: no way {self.way!r}; {hint}known: {', '.join(WAYS)}")
        kernel = self.kernel
        if (
            isinstance(kernel, bool)
            or not isinstance(kernel, int)
            or not 1 <= kernel <= LARGEST_KERNEL
            or kernel % 2 == 0
        ):
            raise InputError(f"mirror: kernel must be odd, from 1 to {LARGEST_KERNEL}, found {kernel!r}")

    def __str__(self) -> str:
        """The canonical text, which `parse_mirror` reads back."""
        return f"mapped(kernel={self.kernel})" if self.way == "mapped" else self.way

    def to_json(self) -> dict[str, Any]:
        """`{"way": ...}`, with the kernel where the mirror is mapped."""
        return {"way": self.way, "kernel": self.kernel} if self.way == "mapped" else {"way": self.way}

    @staticmethod
    def from_json(data: Any) -> Mirror:
        """Read `to_json`'s output. Raises FormatError for anything else."""
        if not (isinstance(data, dict) and "way" in data and set(data) <= {"way", "kernel"}):
            raise FormatError(f"mirror: expected {{'way': ..., 'kernel': ...}}, found {str(data)[:200]!r}")
        try:
            return Mirror(**data)
        except InputError as error:
            raise FormatError(str(error)) from None


def parse_mirror(text: str | Mirror | None) -> Mirror:
    """Read `stored`, `mapped`, `mapped(kernel=1)` or `none`; None is stored, the default. Raises InputError."""
    if isinstance(text, Mirror):
        return text
    if text is None:
        return Mirror()
    if not isinstance(text, str):
        raise InputError(f"mirror must be one of {', '.join(WAYS)}, found {text!r}")
    terms = parse_terms(text, "mirror")
    if len(terms) != 1:
        raise InputError(f"mirror {text!r}: expected one way, found {len(terms)}")
    term = terms[0]
    values = dict(zip(("kernel",), term.args, strict=False)) | term.kwargs
    if len(term.args) > 1 or set(values) - {"kernel"} or (values and term.name != "mapped"):
        raise InputError(f"mirror {text!r}: only mapped takes a parameter, its kernel, as in mapped(kernel=3)")
    return Mirror(term.name, **values)
