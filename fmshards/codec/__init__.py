"""codec: features as fixed-size rows.

`codec_for(rate, spec)` gives a codec; its `encode` turns features [n, *shape] into uint8 [n, row_bytes], its
`decode` turns any rows, from any chunks, back. Importing this room imports no torch.

    feature.py      FeatureSpec: kind and shape of one sample's feature
    layout.py       the layout rule: which values make which block of 4 x 4 x 4
    zfp.py          the codec `zfp`: checks, slabs, members, config
    engine_zfpy.py  the engine under it: values to rows of a layout and back, on zfpy (the only importer of zfpy)
    engine_triton.py  the engine under all codecs for rows on a CUDA device: the kernels of gpu/
    operators.py    decoding as an operator of torch.compile's graphs (the only module here that imports torch)
    raw.py          the codec `raw`: fp32, fp16, bf16
    check.py        what goes in and out, refused in words
    choose.py       the Codec interface; a codec from a rate or a stored config
"""

from __future__ import annotations

from fmshards.codec.choose import Codec, codec_for, codec_from_config
from fmshards.codec.feature import FeatureSpec

__all__ = ["Codec", "FeatureSpec", "codec_for", "codec_from_config"]
