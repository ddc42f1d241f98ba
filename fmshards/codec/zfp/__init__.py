"""zfp: the codec `zfp`, rows of ZFP's fixed-rate blocks.

codec.py           the codec: its rates, config, range
layout.py          which values make which block of 4 x 4 x 4
channel_order.py   the order in which channels are stored, from a sample (imports torch)
coefficients.py    the order of a block's coefficients in the stream
engine.py          which engine runs on this CPU
on_cpu.py          compiled kernels, those of cpu/
on_zfpy.py         zfpy (the only importer of it), where numba is missing
on_cuda.py         rows on a CUDA device, by the kernel of gpu/
cpu/, gpu/         the kernels
"""
