"""codec: features as fixed-size rows.

`codec_for(rate, spec)` gives a codec; its `encode` turns features [n, *shape] into uint8 [n, row_bytes], its
`decode` turns any rows, from any chunks, back. Importing this room imports no torch.

    choose.py         the Codec interface; a codec from a rate or a stored config
    feature.py        FeatureSpec: kind and shape of one sample's feature
    check.py          what goes in and out, refused in words
    threads.py        rows over threads

    zfp.py            the codec `zfp`: blocks of a fixed number of bits
    layout.py         its layout rule: which values make which block of 4 x 4 x 4
    engine.py         which engine it runs on here
    engine_numba.py   compiled kernels, those of cpu/
    engine_zfpy.py    zfpy (the only importer of it), where numba is missing
    coefficients.py   the order of a block's coefficients

    integer.py        the codec `int`: 2 to 8 bits a value, a scale and an offset for each run of values
    steps.py          scales and offsets of channels for it, from a sample
    engine_int.py     compiled kernels of cpu/, or numpy
    raw.py            the codec `raw`: fp32, fp16, bf16
    members.py        members that are just their rows, which both of these store
    filter.py         a lossless filter over any codec's members: `zstd`

    on_cuda.py  rows on a CUDA device: the kernels of gpu/
    operators.py      the same as an operator of torch.compile's graphs (the only module here that imports torch)
    report.py         which engine runs, why and how fast: for `fmshards doctor`
"""

from __future__ import annotations

from fmshards.codec.feature import FeatureSpec
from fmshards.codec.filter import FILTERS
from fmshards.codec.integer.steps import StepSample, fit_steps
from fmshards.codec.rates import Codec, channel_bits, codec_for, codec_from_config, codec_name

__all__ = [
    "FILTERS",
    "Codec",
    "FeatureSpec",
    "StepSample",
    "channel_bits",
    "codec_for",
    "codec_from_config",
    "codec_name",
    "fit_steps",
]
