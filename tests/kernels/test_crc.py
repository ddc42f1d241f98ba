"""CRC-32 by carry-less multiplication is zlib's number, whatever the length, the start and the bytes before it."""

from __future__ import annotations

import random
import zlib

import pytest

from fmshards.kernels import crc

EDGES = [0, 1, 63, 64, 65, crc._LEAST - 1, crc._LEAST, crc._LEAST + 1, crc._LEAST + 63, crc._LEAST + 64, 300_001]


@pytest.mark.parametrize("length", EDGES)
def test_it_is_zlibs(length: int) -> None:
    source = random.Random(length)
    data = source.randbytes(length)
    for start in (0, 1, 0xFFFFFFFF, source.getrandbits(32)):
        assert crc.crc32(data, start) == zlib.crc32(data, start)


def test_parts_of_a_buffer_at_any_address() -> None:
    data = random.Random(0).randbytes(crc._LEAST + 1000)
    for at in range(0, 64, 7):
        part = memoryview(data)[at:]
        assert crc.crc32(part, 5) == zlib.crc32(part, 5)
    assert crc.crc32(data[crc._LEAST // 2 :], crc.crc32(data[: crc._LEAST // 2])) == zlib.crc32(data)


def test_every_bit_counts() -> None:
    data = bytearray(crc._LEAST)
    seen = {crc.crc32(bytes(data))}
    for place in range(0, len(data), 4099):
        data[place] ^= 1 << place % 8
        seen.add(crc.crc32(bytes(data)))
        data[place] ^= 1 << place % 8
    assert len(seen) == 1 + len(range(0, len(data), 4099))


def test_without_the_instruction_zlib_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crc, "_fold", lambda: None)
    data = random.Random(1).randbytes(2 * crc._LEAST)
    assert crc.crc32(data, 7) == zlib.crc32(data, 7)
