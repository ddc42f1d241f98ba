"""codec: features as fixed-size rows.

`codec_for(rate, spec)` gives a codec; its `encode` turns features [n, *shape] into uint8 [n, row_bytes], its
`decode` turns any rows, from any chunks, back. Importing this room imports no torch.

    base.py            what a codec is, and the one loop in which every codec encodes and decodes
    rates.py           the table of codecs: from a rate or a stored config to a codec; `register` adds to it
    members.py         rows as they are stored, and the filter `zstd`
    members_kernel.py  a filter's sorted bytes put together again
    raw.py             the codec `raw`: fp32, fp16, bf16
    zfp/               the codec `zfp`: blocks of a fixed number of bits
    integer/           the codec `int`: 2 to 8 bits a value, a scale and an offset for each run of values
    dct/               the codec `dct`: rows of exactly a stated size, a transform and prefix codes

    feature.py         FeatureSpec: kind and shape of one sample's feature
    check.py           what goes in and out, refused in words
    threads.py         rows over threads and in slabs
    operators.py       decoding as an operator of torch.compile's graphs (imports torch)
    report.py          which engine runs, why and how fast: for `fmshards doctor`
"""

from __future__ import annotations

from fmshards.codec.base import Codec, RowCodec, Sample
from fmshards.codec.feature import FeatureSpec
from fmshards.codec.members import FILTERS
from fmshards.codec.rates import (
    Rate,
    codec_for,
    codec_from_config,
    codec_name,
    fit,
    ladders,
    register,
    row_bytes_at,
    sample_for,
    samples_wanted,
)

__all__ = [
    "FILTERS",
    "Codec",
    "FeatureSpec",
    "Rate",
    "RowCodec",
    "Sample",
    "codec_for",
    "codec_from_config",
    "codec_name",
    "fit",
    "ladders",
    "register",
    "row_bytes_at",
    "sample_for",
    "samples_wanted",
]
