"""FORMAT.md's words about a block of zfp, against zfpy."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fmshards.codec import FeatureSpec, codec_for
from fmshards.codec.zfp.coefficients import ORDER
from tests.codec import reference
from tests.codec.block_coder import decode_block
from tests.codec.conftest import DATA, values

BLOCK = FeatureSpec("map", (4, 4, 4))


@pytest.mark.parametrize("bits", [16, 24, 64, 136, 256, 1000, 2048])
def test_a_block_decodes_as_it_is_described(bits):
    codec = codec_for(bits / 64, BLOCK)
    written = [codec.encode(values(name, (2, 4, 4, 4), bits)) for name in DATA]
    any_bytes = np.random.default_rng(bits).integers(0, 256, (20, codec.row_bytes), np.uint8)
    any_bytes[:, 0] |= 1
    any_bytes[10:, 1] = 0
    for row in np.concatenate([*written, any_bytes]):
        expected = reference.decompress(row.tobytes(), (4, 4, 4), bits)
        assert decode_block(row.tobytes()).tobytes() == expected.tobytes()


def test_the_order_of_coefficients_is_the_one_that_is_written_down():
    text = (Path(__file__).parents[2] / "FORMAT.md").read_text()
    found = re.search(r"C\[i\] =\n```\n(.*?)```", text, re.DOTALL)
    assert found is not None
    assert tuple(int(number) for number in found[1].split()) == ORDER
