"""codec: features as fixed-size rows.

`codec_for(rate, spec)` gives a codec; its `encode` turns features [n, *shape] into uint8 [n, row_bytes], its
`decode` turns any rows, from any chunks, back. Importing this room imports no torch.

    feature.py      FeatureSpec: kind and shape of one sample's feature
    layout.py       the layout rule: which values make which block of 4 x 4 x 4
    zfp.py          the codec `zfp`: checks, slabs, members, config
    engine_zfpy.py  the engine under it: values to rows of a layout and back, on zfpy (the only importer of zfpy)
    raw.py          the codec `raw`: fp32, fp16, bf16
    integer.py      the codec `int`: 2 to 8 bits a value, a scale and an offset for each run of values
    engine_int.py   the engine under it, on numba (int_kernels.py, int_vectors.py), or on numpy where there is none
    steps.py        scales and offsets of channels for `int`, from a sample
    filter.py       a lossless filter over any codec's members: `zstd` (its kernel: filter_kernel.py)
    check.py        what goes in and out, refused in words
    choose.py       the Codec interface; a codec from a rate or a stored config
"""

from __future__ import annotations

from fmshards.codec.choose import Codec, channel_bits, codec_for, codec_from_config
from fmshards.codec.feature import FeatureSpec
from fmshards.codec.filter import FILTERS
from fmshards.codec.steps import StepSample, fit_steps

__all__ = [
    "FILTERS",
    "Codec",
    "FeatureSpec",
    "StepSample",
    "channel_bits",
    "codec_for",
    "codec_from_config",
    "fit_steps",
]
