"""Members that are just their rows, end to end: what `raw` and `int` store."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fmshards.codec.check import check_rows
from fmshards.errors import CorruptError


class PlainMembers:
    """For a codec: it has a `name` and `row_bytes`."""

    name: str

    @property
    def row_bytes(self) -> int:
        raise NotImplementedError

    def member(self, rows: npt.NDArray[np.uint8]) -> bytes:
        """The stored member of a chunk: its rows."""
        return check_rows(rows, self.row_bytes).tobytes()

    def member_bytes(self, n: int) -> tuple[int, int]:
        """The fewest and the most bytes that a member of n rows can have."""
        return n * self.row_bytes, n * self.row_bytes

    def rows(self, member: bytes, n: int) -> npt.NDArray[np.uint8]:
        """uint8 [n, row_bytes], a read-only view of a member. Raises CorruptError on a wrong length."""
        expected = n * self.row_bytes
        if n < 0 or len(member) != expected:
            raise CorruptError(
                f"expected one {self.name} member of {expected} bytes for {n} samples, found {len(member)}"
            )
        return np.frombuffer(member, np.uint8).reshape(n, self.row_bytes)
